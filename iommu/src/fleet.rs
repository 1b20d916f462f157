//! All units of the machine, and the domains, devices and interrupts behind them.

use crate::domain::Domain;
use crate::error::Error;
use crate::ids::{Token, UnitIndex};
use crate::intel::cold::UnitConfig;
use crate::intel::fault::FaultLog;
use crate::intel::queue::QueueErrors;
use crate::intel::unit::Unit;
use crate::platform::{Platform, Walked};
use crate::routes::{Route, Routes};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;
use machine::paging::LeafSizes;
use machine::pci::Bdf;

/// How a device is attached.
#[derive(Clone, Debug)]
pub(crate) struct Attachment {
    pub(crate) unit: UnitIndex,
    pub(crate) token: Token,
    /// Other requester ids of the device, ascending.
    pub(crate) aliases: Vec<u16>,
    /// The invalidate queue depth of the device's TLB, when it is in use.
    pub(crate) ats: Option<u8>,
}

impl Attachment {
    /// Every requester id of the device.
    pub(crate) fn sources(&self, device: Bdf) -> impl Iterator<Item = u16> + '_ {
        core::iter::once(device.requester_id()).chain(self.aliases.iter().copied())
    }
}

/// What every unit can do, so that any device can be attached to any domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Levels of new domains' tables: 4 if every unit has them, else 3; 0 if units differ.
    pub levels: u8,
    /// Leaf sizes that every unit has.
    pub leaf_sizes: LeafSizes,
    /// Address bits that every unit accepts from devices.
    pub address_bits: u8,
    /// Every unit snoops the CPU's caches when it walks tables.
    pub coherent: bool,
    /// Every unit can force snooping of devices' requests (SNP).
    pub snoop: bool,
    /// Every unit lets zero-length reads through where only writes are allowed (ZLR).
    pub zero_length_reads: bool,
}

/// All units of the machine. There are two ways to one: [`init_cold`](Self::init_cold)
/// and [`adopt`](Self::adopt).
///
/// Every operation needs `&mut`: the caller holds a lock. Domains are created with
/// the common abilities of all units.
#[derive(Debug)]
pub struct Iommu<R> {
    pub(crate) units: Vec<Unit<R>>,
    pub(crate) routes: Routes,
    pub(crate) geometry: Geometry,
    pub(crate) domains: BTreeMap<Token, Domain>,
    pub(crate) devices: BTreeMap<Bdf, Attachment>,
    pub(crate) faults: FaultLog,
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
            geometry: geometry(&units),
            units,
            routes: Routes(routes),
            domains: BTreeMap::new(),
            devices: BTreeMap::new(),
            faults: FaultLog::default(),
            live,
        }
    }

    /// What every unit can do.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
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

    /// A domain by its name.
    #[must_use]
    pub fn domain(&self, token: Token) -> Option<&Domain> {
        self.domains.get(&token)
    }

    /// Every domain, by name.
    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.values()
    }

    /// Every attached device, and the domain it is attached to.
    pub fn devices(&self) -> impl Iterator<Item = (Bdf, Token)> + '_ {
        self.devices.iter().map(|(device, attachment)| (*device, attachment.token))
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
    /// second stages, remapping tables, queues, status words.
    pub fn frames(&self, mem: &dyn TableMemory, mut visit: impl FnMut(HostPhys)) {
        for unit in &self.units {
            unit.for_each_frame(mem, &mut visit);
        }
        for domain in self.domains.values() {
            domain.table.for_each_table(mem, &mut visit);
        }
    }

    /// Empties every invalidation queue, with a wait as the last descriptor: for FREEZE.
    pub fn drain(&mut self, platform: &mut Platform<'_>) -> Result<(), Error> {
        self.must_be_live()?;
        self.units.iter_mut().try_for_each(|unit| unit.queue.drain(&unit.window, platform))
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

    /// Memory for second stages.
    pub(crate) fn walked<'a>(&self, platform: &'a mut Platform<'_>) -> Walked<'a> {
        Walked { mem: platform.mem, coherent: self.geometry.coherent }
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

fn geometry<R: Registers>(units: &[Unit<R>]) -> Geometry {
    let all = |test: &dyn Fn(&Unit<R>) -> bool| units.iter().all(test);
    let levels = [4, 3].into_iter().find(|levels| all(&|unit| unit.supports_levels(*levels)));
    Geometry {
        levels: levels.unwrap_or(0),
        leaf_sizes: LeafSizes {
            two_mib: all(&|unit| unit.leaf_sizes().two_mib),
            one_gib: all(&|unit| unit.leaf_sizes().one_gib),
        },
        address_bits: units.iter().map(Unit::address_bits).min().unwrap_or(0),
        coherent: all(&|unit| unit.ecap.coherent()),
        snoop: all(&|unit| unit.ecap.snoop_control()),
        zero_length_reads: all(&|unit| unit.cap.zero_length_reads()),
    }
}
