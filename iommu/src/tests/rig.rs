//! A machine of one or more model units, and what tests do with it.

use crate::intel::spec::registers::Capability;
use crate::model::{Failures, ModelClock, ModelMemory, ModelUnit};
use crate::{Bdf, Error, FaultEvent, Iommu, Platform, Route, Token, UnitConfig, UnitIndex};
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

/// QEMU's capabilities, changed.
pub(super) fn cap(change: impl Fn(Capability) -> Capability) -> u64 {
    change(Capability::from_bits(ModelUnit::CAP)).into_bits()
}

impl Rig {
    /// One unit as QEMU has it.
    pub(super) fn new() -> Self {
        Self::with(&[(ModelUnit::CAP, ModelUnit::ECAP)])
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
    pub(super) fn with_guest() -> Self {
        let mut rig = Self::new();
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

    /// A read by a device through unit 0: where it went, or the reason code.
    pub(super) fn read(&self, device: Bdf, iova: u64) -> Result<u64, u8> {
        self.access(0, device, iova, false)
    }

    pub(super) fn access(&self, unit: usize, device: Bdf, iova: u64, write: bool) -> Result<u64, u8> {
        let result = self.units[unit].dma(device.requester_id(), Iova(iova), write);
        result.map(HostPhys::get).map_err(|blocked| blocked.0)
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
