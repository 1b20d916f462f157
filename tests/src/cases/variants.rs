//! The same story on every IOMMU and every topology that QEMU can make: a guest works on its disk, two upgrades go by,
//! nothing faults and no register of the IOMMU changes.

use anyhow::{Result, ensure};

use super::attack::Owned;
use super::{Bed, upgrade};
use crate::config::Guest;
use crate::guest_log::{complaints, samples};
use crate::outside::Trace;
use crate::spec::{Device, Iommu, Kind, Offer, Place, Spec};

/// A machine that differs from the usual one.
#[derive(Clone, Copy)]
pub enum Variant {
    Scalable,
    FirstStage,
    Caching,
    Bits39,
    NoDeviceTlb,
    NoExtendedInterrupts,
    SecondRoot,
    Switch,
    Virtio,
    TrustedVirtio,
}

impl Variant {
    /// Whether a device that can keep translations may.
    fn trusted(self) -> Option<bool> {
        match self {
            Self::Virtio => Some(false),
            Self::TrustedVirtio => Some(true),
            _ => None,
        }
    }

    /// The machine.
    fn spec(self) -> Spec {
        let usual = Iommu::default();
        let iommu = match self {
            Self::Scalable => Iommu { offer: Offer::Scalable, ..usual },
            Self::FirstStage => Iommu { offer: Offer::FirstStage, ..usual },
            Self::Caching => Iommu { caching: true, ..usual },
            Self::Bits39 => Iommu { address_bits: 39, ..usual },
            Self::NoDeviceTlb => Iommu { device_tlb: false, ..usual },
            Self::NoExtendedInterrupts => Iommu { extended_interrupts: false, ..usual },
            Self::SecondRoot | Self::Switch | Self::Virtio | Self::TrustedVirtio => usual,
        };
        let place = match self {
            Self::SecondRoot => Place::SecondRoot,
            Self::Switch => Place::Switch,
            _ => Place::RootPort,
        };
        let (kind, device) = match self {
            Self::Virtio => (Kind::Virtio, "1af4:1042"),
            Self::TrustedVirtio => (Kind::Virtio, r#"{ device = "1af4:1042", ats = "trusted" }"#),
            _ => (Kind::Nvme, "1b36:0010"),
        };
        let guest = Guest::bare("disk", "disk", &[device]);
        let devices = vec![Device { kind, place }];
        Spec { iommu: Some(iommu), devices, memory_mib: 256, ..Spec::bare(&["disk"], &[guest]) }
    }
}

pub fn run(bed: &mut Bed, variant: Variant) -> Result<()> {
    let machine = bed.start("variant", &variant.spec())?;
    machine.wait_guest("ioload t=", 30)?;
    for name in ["baton-next1", "baton-next2"] {
        upgrade::to(&machine, name)?;
    }
    if let Some(trusted) = variant.trusted() {
        let device = Owned::of(&machine, "disk", 0)?;
        ensure!(device.translates(&machine)? == trusted, "ATS of {} is on: {}", device.name, !trusted);
    }
    let wrong = complaints(&samples(&machine.guest));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let trace = Trace::read(&machine.trace);
    ensure!(trace.faults.is_empty(), "{:?}", trace.faults);
    ensure!(trace.translation == (1, 0) && trace.root_tables == 1, "translation is set up once and stays: {trace:?}");
    Ok(())
}
