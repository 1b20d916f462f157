//! A machine of one or more model units, and what tests do with it.

use crate::intel::spec::registers::Capability;
use crate::model::{Failures, ModelClock, ModelMemory, ModelUnit};
use crate::{Bdf, Error, FaultEvent, Iommu, Platform, Preference, Route, Token, UnitConfig, UnitIndex};
use alloc::vec::Vec;
use machine::addr::{HostPhys, Iova};
use machine::paging::{Holes, Permissions};

/// The register base of unit 0; the others follow, 4 KiB each.
pub(super) const BASE: u64 = 0xfed9_0000;
/// The guest's disk.
pub(super) const DISK: Bdf = Bdf::from_requester_id(0, 0x0300);
/// A network card.
pub(super) const NIC: Bdf = Bdf::from_requester_id(0, 0x0108);
/// A guest's domain.
pub(super) const GUEST: Token = Token(0x600d);
/// The management card's domain.
pub(super) const MANAGEMENT: Token = Token(0x1);
/// The fault event.
pub(super) const EVENT: FaultEvent = FaultEvent { address: 0xfee0_1000, data: 0x30 };

/// Platform of the rig; a macro, since it borrows two fields.
macro_rules! platform {
    ($rig:expr) => {
        &mut Platform { mem: &mut $rig.mem, clock: &$rig.clock }
    };
}
pub(super) use platform;

pub(super) struct Rig {
    pub(super) mem: ModelMemory,
    pub(super) clock: ModelClock,
    pub(super) units: Vec<ModelUnit>,
    pub(super) iommu: Iommu<ModelUnit>,
}

pub(super) fn config(index: usize) -> UnitConfig {
    UnitConfig {
        base: HostPhys(BASE + index as u64 * 0x1000),
        segment: 0,
        register_bytes: 0x1000,
        x2apic: true,
        interrupts: None,
        fault_event: Some(EVENT),
        mode: Preference::Auto,
    }
}

/// Buses 0 and 1 are unit 0's, 2 to 5 unit 1's if there is one.
pub(super) fn routes(units: usize) -> Vec<Route> {
    let mut routes = Vec::from([Route::segment(0, UnitIndex(0))]);
    if units > 1 {
        routes.push(Route::buses(0, 2, 5, UnitIndex(1)));
    }
    routes
}

/// What units of one kind can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) cap: u64,
    pub(super) ecap: u64,
    /// What makes a unit snoop when it walks: ECAP.C for its own structures, and in scalable mode
    /// ECAP.SMPWC for page tables.
    pub(super) snooping: u64,
}

impl Shape {
    /// QEMU's unit.
    pub(super) const LEGACY: Self = Self { cap: ModelUnit::CAP, ecap: ModelUnit::ECAP, snooping: 1 };
    /// With x-scalable-mode=on.
    pub(super) const SECOND_STAGE: Self =
        Self { cap: ModelUnit::CAP, ecap: ModelUnit::ECAP_SECOND_STAGE, snooping: 1 | 1 << 48 };
    /// With x-flts=on too.
    pub(super) const FIRST_STAGE: Self =
        Self { cap: ModelUnit::CAP_FIRST_STAGE, ecap: ModelUnit::ECAP_FIRST_STAGE, snooping: 1 | 1 << 48 };

    /// Its CAP, changed.
    pub(super) fn change(self, change: impl Fn(Capability) -> Capability) -> u64 {
        change(Capability::from_bits(self.cap)).into_bits()
    }

    /// Its ECAP when it snoops.
    pub(super) fn coherent(self) -> u64 {
        self.ecap | self.snooping
    }

    pub(super) fn is_scalable(self) -> bool {
        self.ecap >> 43 & 1 != 0
    }

    pub(super) fn has_first_stage(self) -> bool {
        self.ecap >> 47 & 1 != 0
    }

    /// Domains have so many address bits: of a first stage only the lower half is used.
    pub(super) fn address_bits(self) -> u8 {
        if self.has_first_stage() { 47 } else { 48 }
    }

    /// The reason code of this mode for the reason of legacy mode that tests name.
    pub(super) fn reason(self, legacy: u8) -> u8 {
        match legacy {
            0x01 if self.is_scalable() => 0x39,
            0x02 if self.is_scalable() => 0x41,
            other => other,
        }
    }
}

/// The reason code of legacy mode that says the same as one of scalable mode (VT-d 7.1).
fn in_words_of_legacy_mode(reason: u8, write: bool) -> u8 {
    match reason {
        0x39 => 0x01,
        0x41 => 0x02,
        0x80 | 0x83 => 0x04,
        0x71 | 0x79 | 0x85 | 0x86 => 5 + u8::from(!write),
        other => other,
    }
}

impl Rig {
    /// One unit.
    pub(super) fn of(shape: Shape) -> Self {
        Self::with(&[(shape.cap, shape.ecap)])
    }

    /// Units with these CAP and ECAP.
    pub(super) fn with(units: &[(u64, u64)]) -> Self {
        let mut mem = ModelMemory::default();
        let clock = ModelClock::default();
        let units: Vec<ModelUnit> = units.iter().map(|(cap, ecap)| ModelUnit::new(&mem, *cap, *ecap)).collect();
        let configured = units.iter().enumerate().map(|(index, unit)| (config(index), unit.clone())).collect();
        let platform = &mut Platform { mem: &mut mem, clock: &clock };
        let iommu = Iommu::init_cold(configured, routes(units.len()), platform).unwrap();
        Self { mem, clock, units, iommu }
    }

    /// The guest's domain with the disk attached.
    pub(super) fn guest_of(shape: Shape) -> Self {
        let mut rig = Self::of(shape);
        rig.create(GUEST);
        rig.attach(DISK, GUEST).unwrap();
        rig
    }

    pub(super) fn create(&mut self, token: Token) {
        self.iommu.create_domain(platform!(self), token).unwrap();
    }

    pub(super) fn attach(&mut self, device: Bdf, token: Token) -> Result<(), Error> {
        self.iommu.attach(platform!(self), device, &[], token, None)
    }

    pub(super) fn detach(&mut self, device: Bdf) -> Result<(), Error> {
        self.iommu.detach(platform!(self), device)
    }

    pub(super) fn attach_pasid(&mut self, device: Bdf, pasid: u32, token: Token) -> Result<(), Error> {
        self.iommu.attach_pasid(platform!(self), device, pasid, token)
    }

    pub(super) fn detach_pasid(&mut self, device: Bdf, pasid: u32) -> Result<(), Error> {
        self.iommu.detach_pasid(platform!(self), device, pasid)
    }

    pub(super) fn map(&mut self, token: Token, iova: u64, to: u64, bytes: u64) -> Result<(), Error> {
        let (iova, to) = (Iova(iova), HostPhys(to));
        self.iommu.map(platform!(self), token, iova, to, bytes, Permissions::READ_WRITE)
    }

    pub(super) fn unmap(&mut self, token: Token, iova: u64, bytes: u64) -> Result<(), Error> {
        self.iommu.unmap(platform!(self), token, Iova(iova), bytes, Holes::Refuse)
    }

    pub(super) fn service_faults(&mut self) -> u64 {
        self.iommu.service_faults(platform!(self))
    }

    /// A read by a device through unit 0: where it went, or the reason code in legacy mode's words.
    pub(super) fn read(&self, device: Bdf, iova: u64) -> Result<u64, u8> {
        self.access(0, device, iova, false)
    }

    pub(super) fn access(&self, unit: usize, device: Bdf, iova: u64, write: bool) -> Result<u64, u8> {
        let result = self.units[unit].dma(device.requester_id(), Iova(iova), write);
        result.map(HostPhys::get).map_err(|blocked| in_words_of_legacy_mode(blocked.0, write))
    }

    /// A read with a PASID through unit 0.
    pub(super) fn read_with_pasid(&self, device: Bdf, pasid: u32, iova: u64) -> Result<u64, u8> {
        let result = self.units[0].dma_with_pasid(device.requester_id(), pasid, Iova(iova), false);
        result.map(HostPhys::get).map_err(|blocked| in_words_of_legacy_mode(blocked.0, false))
    }

    pub(super) fn fail(&self, failures: Failures) {
        self.units[0].fail(failures);
    }

    /// Nothing forbidden was done.
    pub(super) fn assert_clean(&self) {
        for unit in &self.units {
            assert_eq!(unit.violations(), Vec::<alloc::string::String>::new());
        }
    }
}
