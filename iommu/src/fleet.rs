//! All units of the machine, and the domains, devices and interrupts behind them.

use crate::domain::Domain;
use crate::error::Error;
use crate::geometry::{Geometry, check_units};
use crate::ids::{Token, UnitIndex};
use crate::intel::cold::UnitConfig;
use crate::intel::entries::{Path, PathTables};
use crate::intel::fault_log::FaultLog;
use crate::intel::mode::Mode;
use crate::intel::pasids::PasidDirectory;
use crate::intel::queue::QueueErrors;
use crate::intel::spec::invalidation::Descriptor;
use crate::intel::spec::invalidation::DeviceTlb;
use crate::intel::unit::Unit;
use crate::platform::Platform;
use crate::posted::PostedFrames;
use crate::routes::{Route, Routes};
use crate::table::{Stage, Table};
use alloc::vec::Vec;
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;
use machine::pci::Bdf;
use machine::sorted::SortedMap;

/// How a device is attached.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) unit: UnitIndex,
    pub(crate) token: Token,
    /// Other requester ids of the device, ascending.
    pub(crate) aliases: Vec<u16>,
    /// The invalidate queue depth of the device's TLB, when it is in use.
    pub(crate) ats: Option<u8>,
    /// In scalable mode.
    pub(crate) directory: Option<PasidDirectory>,
    /// Its context entries are not present: see [`Iommu::quarantine`].
    pub(crate) quarantined: bool,
}

impl Attachment {
    /// Every requester id of the device.
    pub(crate) fn sources(&self, device: Bdf) -> impl Iterator<Item = u16> + '_ {
        core::iter::once(device.requester_id()).chain(self.aliases.iter().copied())
    }
}

/// A PASID of an attached device that leads to a domain of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PasidAttachment {
    pub(crate) unit: UnitIndex,
    pub(crate) token: Token,
}

/// All units of the machine. There are two ways to one: [`init_cold`](Self::init_cold)
/// and [`adopt`](Self::adopt).
///
/// Every operation needs `&mut`: the caller holds a lock. A domain has the common
/// abilities of the units that it is created for.
#[derive(Debug)]
pub struct Iommu<R> {
    pub(crate) units: Vec<Unit<R>>,
    pub(crate) routes: Routes,
    /// Of each virtual function: the requester id of its physical one.
    pub(crate) physical: SortedMap<Bdf, u16>,
    pub(crate) geometry: Geometry,
    pub(crate) domains: SortedMap<Token, Domain>,
    pub(crate) devices: SortedMap<Bdf, Attachment>,
    /// Besides what devices do without PASID, by device and PASID.
    pub(crate) pasids: SortedMap<(Bdf, u32), PasidAttachment>,
    pub(crate) faults: FaultLog,
    pub(crate) posted: PostedFrames,
    /// Who may still have entries between `prepare` and `finish` of an adoption, and has none afterwards.
    pub(crate) leaving: Vec<Bdf>,
    /// Empty between operations: see `forget`.
    pub(crate) batch: Vec<Descriptor>,
    /// False between `prepare` and `finish` of an adoption.
    pub(crate) live: bool,
}

impl<R: Registers> Iommu<R> {
    /// Power-on: quiets every unit, gives it empty tables and turns everything on.
    /// All DMA is blocked afterwards, and every interrupt that does not go through an
    /// entry of the remapping table.
    ///
    /// `routes` name units by their place in `units`. On an error every unit is quiet
    /// again, as far as it obeys.
    pub fn init_cold(
        units: Vec<(UnitConfig, R)>,
        routes: Vec<Route>,
        platform: &mut Platform<'_>,
    ) -> Result<Self, Error> {
        let mut bases: Vec<HostPhys> = units.iter().map(|(config, _)| config.base).collect();
        check_distinct(&mut bases)?;
        check_routes(&routes, units.len())?;
        let mut started = Vec::with_capacity(units.len());
        for (config, regs) in units {
            match Unit::init_cold(regs, platform, &config) {
                Ok(unit) => started.push(unit),
                Err(error) => {
                    started.into_iter().for_each(|unit: Unit<R>| unit.abandon(platform));
                    return Err(error);
                }
            }
        }
        Ok(Self::of(started, routes, true))
    }

    pub(crate) fn of(units: Vec<Unit<R>>, routes: Vec<Route>, live: bool) -> Self {
        Self {
            geometry: Geometry::of(units.iter()),
            units,
            routes: Routes(routes),
            physical: SortedMap::new(),
            domains: SortedMap::new(),
            devices: SortedMap::new(),
            pasids: SortedMap::new(),
            faults: FaultLog::default(),
            posted: PostedFrames::default(),
            leaving: Vec::new(),
            batch: Vec::new(),
            live,
        }
    }

    /// What every unit can do.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// What the units behind which some devices are can do.
    pub fn geometry_of(&self, units: &[UnitIndex]) -> Result<Geometry, Error> {
        check_units(units, self.units.len())?;
        Ok(Geometry::of(units.iter().filter_map(|unit| self.units.get(unit.0))))
    }

    /// The mode of a unit.
    #[must_use]
    pub fn mode(&self, unit: UnitIndex) -> Option<Mode> {
        self.units.get(unit.0).map(Unit::mode)
    }

    /// How many units there are.
    #[must_use]
    pub fn units(&self) -> usize {
        self.units.len()
    }

    /// The register base of a unit.
    #[must_use]
    pub fn unit_base(&self, unit: UnitIndex) -> Option<HostPhys> {
        self.units.get(unit.0).map(Unit::base)
    }

    /// The unit at a register base.
    #[must_use]
    pub fn unit_at(&self, base: HostPhys) -> Option<UnitIndex> {
        self.units.iter().position(|unit| unit.base() == base).map(UnitIndex)
    }

    /// The unit that translates for a device.
    #[must_use]
    pub fn unit_of(&self, device: Bdf) -> Option<UnitIndex> {
        self.routes.unit(device)
    }

    /// `device` is a virtual function of `physical`: it is translated for by the same unit (VT-d 8.3), and invalidations of its
    /// TLB, which are queued in the physical function, name that (VT-d 6.5.2.5).
    pub fn add_virtual_function(&mut self, physical: Bdf, device: Bdf) {
        if let Some(unit) = self.unit_of(physical).filter(|unit| self.unit_of(device) != Some(*unit)) {
            self.routes.0.push(Route::function(device, unit));
        }
        self.physical.insert(device, physical.requester_id());
    }

    /// The TLB of `device`, which has an invalidate queue of `depth`, as a unit's descriptors name it.
    pub(crate) fn tlb_of(&self, unit: UnitIndex, device: Bdf, depth: u8) -> Option<DeviceTlb> {
        let physical = self.physical.get(&device).copied().unwrap_or_else(|| device.requester_id());
        Some(self.units.get(unit.0)?.device_tlb(device.requester_id(), depth, physical))
    }

    /// A domain by its name.
    #[must_use]
    pub fn domain(&self, token: Token) -> Option<&Domain> {
        self.domains.get(&token)
    }

    /// Domain ids that are in use, over all units.
    #[must_use]
    pub fn domain_ids_in_use(&self) -> u64 {
        self.units.iter().map(|unit| unit.dids.used()).sum()
    }

    /// Every domain, by name.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.values()
    }

    /// Every attached device, and the domain it is attached to.
    pub fn devices(&self) -> impl Iterator<Item = (Bdf, Token)> + '_ {
        self.devices.iter().map(|(device, attachment)| (*device, attachment.token))
    }

    /// Every PASID that leads to a domain of its own: the device, the PASID, the domain.
    pub fn pasids(&self) -> impl Iterator<Item = (Bdf, u32, Token)> + '_ {
        self.pasids.iter().map(|((device, pasid), attachment)| (*device, *pasid, attachment.token))
    }

    /// The faults met so far.
    #[must_use]
    pub fn faults(&self) -> &FaultLog {
        &self.faults
    }

    /// Likewise, to have them reported.
    pub fn faults_mut(&mut self) -> &mut FaultLog {
        &mut self.faults
    }

    /// Moves recorded faults of every unit into the log and returns how many. Call it on
    /// a fault event and about once a second: when faults come in a storm, their events
    /// are masked for a second.
    pub fn service_faults(&mut self, platform: &mut Platform<'_>) -> u64 {
        let calm = self.faults.roll(platform.clock);
        self.units.iter_mut().map(|unit| unit.collect_faults(calm, &mut self.faults)).sum()
    }

    /// Calls `visit` with every frame that units walk or write: root and context tables,
    /// PASID directories and tables, page tables, remapping tables, queues, status words.
    pub fn frames(&self, mem: &dyn TableMemory, mut visit: impl FnMut(HostPhys)) {
        for unit in &self.units {
            unit.for_each_frame(mem, &mut visit);
        }
        for directory in self.devices.values().filter_map(|attachment| attachment.directory) {
            directory.for_each_frame(mem, &mut visit);
        }
        self.posted.frames.iter().for_each(|(frame, _)| visit(*frame));
        for domain in self.domains.values() {
            domain.table.for_each_table(mem, &mut visit);
        }
    }

    /// Empties every invalidation queue, with a wait as the last descriptor: for FREEZE.
    pub fn drain(&mut self, platform: &mut Platform<'_>) -> Result<(), Error> {
        self.must_be_live()?;
        self.units.iter_mut().try_for_each(|unit| {
            unit.settle_growth(platform)?;
            unit.queue.drain(&unit.window, platform)
        })
    }

    /// Has every unit forget all that it caches of context, PASID and page tables: once the devices that an upgrade does not
    /// preserve are detached, so that nothing is left of them whatever went before (HANDOVER.md, behaviour 9).
    pub fn forget_all(&mut self, platform: &mut Platform<'_>) -> Result<(), Error> {
        self.must_be_live()?;
        self.units.iter_mut().try_for_each(|unit| unit.forget_all(platform))
    }

    /// What a unit's invalidation queue has met and got over.
    #[must_use]
    pub fn queue_errors(&self, unit: UnitIndex) -> Option<QueueErrors> {
        self.units.get(unit.0).map(|unit| unit.queue.errors)
    }

    pub(crate) fn must_be_live(&self) -> Result<(), Error> {
        if self.live { Ok(()) } else { Err(Error::NotAdopted) }
    }

    pub(crate) fn unit_mut(&mut self, unit: UnitIndex) -> Result<&mut Unit<R>, Error> {
        self.units.get_mut(unit.0).ok_or(Error::BadUnit { index: unit.0 })
    }

    pub(crate) fn domain_mut(&mut self, token: Token) -> Result<&mut Domain, Error> {
        self.domains.get_mut(&token).ok_or(Error::NoDomain { token })
    }

    /// How requests reach a domain, under the id `did`.
    pub(crate) fn path(&self, token: Token, did: u16) -> Result<Path, Error> {
        let domain = self.domains.get(&token).ok_or(Error::NoDomain { token })?;
        let tables = match &domain.table {
            Table::Tree { stage: Stage::First, tree } => PathTables::First { root: tree.root(), levels: tree.levels() },
            Table::Tree { tree, .. } => PathTables::Second { root: tree.root(), levels: tree.levels() },
            Table::PassThrough => PathTables::PassThrough,
            Table::Nested { root, levels, parent } => {
                let second = self.domains.get(parent).ok_or(Error::NoDomain { token: *parent })?;
                PathTables::Nested { root: *root, levels: *levels, second: (second.root(), second.levels()) }
            }
        };
        Ok(Path { tables, did, snoop: domain.snoop })
    }
}

/// Refuses two units at one base.
pub(crate) fn check_distinct(bases: &mut [HostPhys]) -> Result<(), Error> {
    bases.sort_unstable();
    match bases.windows(2).find(|two| two.first() == two.last()) {
        Some(&[unit, _]) => Err(Error::DuplicateUnit { unit }),
        _ => Ok(()),
    }
}

/// Refuses routes to units that do not exist.
pub(crate) fn check_routes(routes: &[Route], units: usize) -> Result<(), Error> {
    match routes.iter().find(|route| route.unit.0 >= units) {
        Some(route) => Err(Error::BadUnit { index: route.unit.0 }),
        None => Ok(()),
    }
}
