//! Taking over live units: the only other way in besides power-on.
//!
//! The record is an allegation. Every live register, every entry of the tables and
//! every frame is compared before it is believed; nothing is written, to memory or to
//! a register. What differs refuses the whole handover, with names.
//!
//! Adoption has two halves, because the next image gets ready while the last one still
//! works: [`Iommu::prepare`] takes what is immutable by then, [`Iommu::finish`] the
//! rest (queue position, interrupt entries, fault log), in the pause.

mod compare;
mod structure;

use crate::error::Error;
use crate::fleet::{Iommu, check_distinct, check_routes};
use crate::intel::dids::DomainIds;
use crate::intel::live::check_state;
use crate::intel::mode::Mode;
use crate::intel::queue::Queue;
use crate::intel::remap::InterruptTable;
use crate::intel::spec::registers::{
    Capability, EVENT_MASK, ExtendedCapability, InterruptTableAddress, QueueAddress, RootTableAddress,
};
use crate::intel::tables::Tables;
use crate::intel::unit::{FaultEvent, Unit};
use crate::intel::window::Window;
use crate::ledger::Ledger;
use crate::posted::PostedFrames;
use crate::routes::Route;
use crate::state::{Snapshot, UnitState};
use alloc::vec::Vec;
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;

/// Interrupt entries that may be allocated between the two halves without the second taking memory for them.
const ENTRIES_TO_COME: usize = 64;

impl<R: Registers> Iommu<R> {
    /// Both halves at once. `regs` are all units of the machine, by register base;
    /// `routes` name them by their place. `owned` says whether a frame is recorded as
    /// the IOMMU's own: nothing else is read as a table.
    pub fn adopt(
        snapshot: &mut Snapshot,
        regs: Vec<(HostPhys, R)>,
        routes: Vec<Route>,
        mem: &dyn TableMemory,
        owned: &dyn Fn(HostPhys) -> bool,
    ) -> Result<Self, Error> {
        let mut iommu = Self::prepare(snapshot, regs, routes, mem, owned)?;
        iommu.finish(snapshot, mem)?;
        Ok(iommu)
    }

    /// The first half: units, tables, domains, devices. The result answers `NotAdopted`
    /// to every change until [`finish`](Self::finish).
    pub fn prepare(
        snapshot: &Snapshot,
        regs: Vec<(HostPhys, R)>,
        routes: Vec<Route>,
        mem: &dyn TableMemory,
        owned: &dyn Fn(HostPhys) -> bool,
    ) -> Result<Self, Error> {
        let mut ledger = Ledger::new(owned);
        let mut bases: Vec<HostPhys> = regs.iter().map(|(base, _)| *base).collect();
        check_distinct(&mut bases)?;
        check_routes(&routes, regs.len())?;
        if let Some(state) = snapshot.units.iter().find(|state| !bases.contains(&HostPhys(state.base))) {
            return Err(Error::MissingUnit { unit: HostPhys(state.base) });
        }
        let mut units = Vec::with_capacity(regs.len());
        for (base, regs) in regs {
            let mut states = snapshot.units.iter().filter(|state| state.base == base.0);
            let state = states.next().ok_or(Error::UnknownUnit { unit: base })?;
            if states.next().is_some() {
                return Err(Error::Duplicate { what: "unit", name: base.0 });
            }
            units.push(adopt_unit(Window { base, regs }, state, &mut ledger)?);
        }
        let mut iommu = Self::of(units, routes, false);
        iommu.posted = PostedFrames::adopt(&snapshot.posted, &mut ledger)?;
        for state in &snapshot.domains {
            iommu.adopt_domain(state, mem, &mut ledger)?;
        }
        iommu.check_parents()?;
        iommu.adopt_dids(snapshot)?;
        for state in &snapshot.devices {
            iommu.adopt_device(snapshot, state)?;
        }
        for state in &snapshot.pasids {
            iommu.adopt_pasid(state)?;
        }
        iommu.check_references(snapshot)?;
        iommu.adopt_leaving(snapshot)?;
        iommu.compare_tables(mem, &mut ledger)?;
        iommu.faults.reserve();
        for table in iommu.units.iter_mut().filter_map(|unit| unit.interrupts.as_mut()) {
            table.entries.reserve(snapshot.irtes.len() + ENTRIES_TO_COME);
        }
        Ok(iommu)
    }

    /// The second half, when the image before has drained its queues and written its
    /// last snapshot: compares every live register again, takes the queue's position, the
    /// interrupt entries and the fault log, and marks what was adopted as consumed.
    /// From here on everything is mutable. Takes no memory.
    pub fn finish(&mut self, snapshot: &mut Snapshot, mem: &dyn TableMemory) -> Result<(), Error> {
        if self.live {
            return Err(Error::Consumed { what: "the set of units with", name: self.units.len() as u64 });
        }
        self.compare_live(snapshot, mem)?;
        self.same_structure(snapshot)?;
        self.compare_contexts(mem)?;
        self.compare_left(mem)?;
        self.take_interrupts(snapshot, mem)?;
        for unit in &mut self.units {
            let state = snapshot.units.iter().find(|state| state.base == unit.base().0);
            let state = state.ok_or(Error::UnknownUnit { unit: unit.base() })?;
            let tail = unit.queue.index_at(state.iqt);
            unit.queue.tail = tail.ok_or(Error::BadRecord { what: "IQT", value: state.iqt })?;
            unit.queue.sequence = state.sequence;
            unit.faults_masked = state.fectl & EVENT_MASK != 0;
        }
        self.faults.restore(&snapshot.faults);
        snapshot.units.iter_mut().for_each(|state| state.consumed = true);
        snapshot.domains.iter_mut().for_each(|state| state.consumed = true);
        snapshot.devices.iter_mut().for_each(|state| state.consumed = true);
        snapshot.pasids.iter_mut().for_each(|state| state.consumed = true);
        self.leaving = Vec::new();
        self.live = true;
        Ok(())
    }

    /// Compares every live register with the record, once more. Reads only.
    pub fn compare_live(&self, snapshot: &Snapshot, mem: &dyn TableMemory) -> Result<(), Error> {
        for unit in &self.units {
            let state = snapshot.units.iter().find(|state| state.base == unit.base().0);
            let state = state.ok_or(Error::UnknownUnit { unit: unit.base() })?;
            unconsumed(state.consumed, "unit", state.base)?;
            check_state(&unit.window, state)?;
            unit.window.compare(state)?;
            unit.window.compare_queue(state, mem)?;
        }
        Ok(())
    }
}

/// A unit as recorded, when its registers agree.
fn adopt_unit<R: Registers>(window: Window<R>, state: &UnitState, ledger: &mut Ledger<'_>) -> Result<Unit<R>, Error> {
    unconsumed(state.consumed, "unit", state.base)?;
    check_state(&window, state)?;
    window.compare(state)?;
    let (cap, ecap) = (Capability::from_bits(state.cap), ExtendedCapability::from_bits(state.ecap));
    let coherent = ecap.coherent();
    let root_table = RootTableAddress(state.rtaddr);
    let (root, mode) = (root_table.table(), if root_table.mode() == 0 { Mode::Legacy } else { Mode::Scalable });
    let address = QueueAddress(state.iqa);
    let mut queue = Queue::new(address.queue(), HostPhys(state.status), cap, ecap, address.wide());
    queue.tail = queue.index_at(state.iqt).ok_or(Error::BadRecord { what: "IQT", value: state.iqt })?;
    queue.sequence = state.sequence;
    ledger.claim("a root table", root)?;
    ledger.claim("an invalidation queue", queue.ring)?;
    ledger.claim("invalidation status words", queue.status)?;
    let irta = InterruptTableAddress(state.irta);
    let table = || InterruptTable::new(irta.table(), irta.order(), irta.x2apic(), coherent, false);
    let interrupts = ecap.interrupt_remapping().then(table);
    if let Some(table) = &interrupts {
        let mut result = Ok(());
        table.for_each_frame(&mut |frame| {
            if result.is_ok() {
                result = ledger.claim("an interrupt remapping table", frame);
            }
        });
        result?;
    }
    let event = FaultEvent { address: u64::from(state.feuaddr) << 32 | u64::from(state.feaddr), data: state.fedata };
    Ok(Unit {
        window,
        segment: state.segment,
        version: state.version,
        cap,
        ecap,
        tables: Tables { root, mode, coherent },
        queue,
        interrupts,
        dids: DomainIds::new(cap),
        fault_event: (state.fault_event == 1).then_some(event),
        faults_masked: state.fectl & EVENT_MASK != 0,
    })
}

fn unconsumed(consumed: bool, what: &'static str, name: u64) -> Result<(), Error> {
    if consumed { Err(Error::Consumed { what, name }) } else { Ok(()) }
}
