//! Taking over live units: the only other way in besides power-on.
//!
//! The record is an allegation. Every live register, every entry of the tables and
//! every frame is compared before it is believed; nothing is written, to memory or to
//! a register. What differs refuses the whole handover, with names.
//!
//! Adoption has two halves, because the next image gets ready while the last one still
//! works: [`Iommu::prepare`] takes what is immutable by then, [`Iommu::finish`] the
//! rest (queue position, interrupt entries, fault log), in the pause.

use crate::domain::{Domain, DomainId};
use crate::error::Error;
use crate::fleet::{Attachment, Iommu, check_distinct, check_routes};
use crate::ids::{Token, UnitIndex};
use crate::intel::dids::DomainIds;
use crate::intel::live::{check_state, compare_entry};
use crate::intel::queue::Queue;
use crate::intel::remap::InterruptTable;
use crate::intel::spec::interrupts::InterruptEntry;
use crate::intel::spec::registers::{
    Capability, EVENT_MASK, ExtendedCapability, InterruptTableAddress, QueueAddress,
    RootTableAddress,
};
use crate::intel::spec::tables::{ContextEntry, TranslationType, pair, unpair};
use crate::intel::tables::Tables;
use crate::intel::unit::{FaultEvent, Unit};
use crate::intel::window::Window;
use crate::ledger::Ledger;
use crate::routes::Route;
use crate::state::{DeviceState, DomainState, Snapshot, UnitState};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;
use machine::paging::{LeafSizes, PageTable};
use machine::pci::Bdf;

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
        if let Some(state) = snapshot
            .units
            .iter()
            .find(|state| !bases.contains(&HostPhys(state.base)))
        {
            return Err(Error::MissingUnit {
                unit: HostPhys(state.base),
            });
        }
        let mut units = Vec::with_capacity(regs.len());
        for (base, regs) in regs {
            let mut states = snapshot.units.iter().filter(|state| state.base == base.0);
            let state = states.next().ok_or(Error::UnknownUnit { unit: base })?;
            if states.next().is_some() {
                return Err(Error::Duplicate {
                    what: "unit",
                    name: base.0,
                });
            }
            units.push(adopt_unit(Window { base, regs }, state, &mut ledger)?);
        }
        let mut iommu = Self::of(units, routes, false);
        for state in &snapshot.domains {
            iommu.adopt_domain(state, mem, &mut ledger)?;
        }
        iommu.adopt_dids(snapshot)?;
        for state in &snapshot.devices {
            iommu.adopt_device(snapshot, state)?;
        }
        iommu.check_references(snapshot)?;
        iommu.compare_tables(mem, &mut ledger)?;
        Ok(iommu)
    }

    /// The second half, when the image before has drained its queues and written its
    /// last snapshot: compares every live register again, takes the queue's position, the
    /// interrupt entries and the fault log, and marks what was adopted as consumed.
    /// From here on everything is mutable.
    pub fn finish(&mut self, snapshot: &mut Snapshot, mem: &dyn TableMemory) -> Result<(), Error> {
        if self.live {
            return Err(Error::Consumed {
                what: "the set of units with",
                name: self.units.len() as u64,
            });
        }
        self.compare_live(snapshot, mem)?;
        self.same_structure(snapshot)?;
        self.compare_contexts(mem)?;
        self.take_interrupts(snapshot, mem)?;
        for unit in &mut self.units {
            let state = snapshot
                .units
                .iter()
                .find(|state| state.base == unit.base().0);
            let state = state.ok_or(Error::UnknownUnit { unit: unit.base() })?;
            unit.queue.tail = (state.iqt >> 4) as u16;
            unit.queue.sequence = state.sequence;
            unit.faults_masked = state.fectl & EVENT_MASK != 0;
        }
        self.faults.restore(&snapshot.faults);
        snapshot
            .units
            .iter_mut()
            .for_each(|state| state.consumed = true);
        snapshot
            .domains
            .iter_mut()
            .for_each(|state| state.consumed = true);
        snapshot
            .devices
            .iter_mut()
            .for_each(|state| state.consumed = true);
        self.live = true;
        Ok(())
    }

    /// Compares every live register with the record, once more. Reads only.
    pub fn compare_live(&self, snapshot: &Snapshot, mem: &dyn TableMemory) -> Result<(), Error> {
        for unit in &self.units {
            let state = snapshot
                .units
                .iter()
                .find(|state| state.base == unit.base().0);
            let state = state.ok_or(Error::UnknownUnit { unit: unit.base() })?;
            unconsumed(state.consumed, "unit", state.base)?;
            check_state(&unit.window, state)?;
            unit.window.compare(state)?;
            unit.window.compare_queue(state, mem)?;
        }
        Ok(())
    }

    fn adopt_domain(
        &mut self,
        state: &DomainState,
        mem: &dyn TableMemory,
        ledger: &mut Ledger<'_>,
    ) -> Result<(), Error> {
        let token = Token(state.token);
        unconsumed(state.consumed, "domain", state.token)?;
        if state.leaf_sizes > 3 || state.snoop > 1 || (state.snoop == 1 && !self.geometry.snoop) {
            return Err(Error::BadRecord {
                what: "kind of page table",
                value: u64::from(state.leaf_sizes),
            });
        }
        let common = self.geometry.leaf_sizes;
        let leafs = LeafSizes {
            two_mib: state.leaf_sizes & 1 != 0 && common.two_mib,
            one_gib: state.leaf_sizes & 2 != 0 && common.one_gib,
        };
        let table = PageTable::adopt(HostPhys(state.root), state.levels, leafs)
            .map_err(|cause| Error::Paging { token, cause })?;
        ledger.claim_second_stage(mem, table.root(), table.levels())?;
        let domain = Domain {
            token,
            table,
            snoop: state.snoop == 1,
            frozen: 0,
            stale: false,
            ids: Vec::new(),
        };
        match self.domains.insert(token, domain) {
            None => Ok(()),
            Some(_) => Err(Error::Duplicate {
                what: "domain",
                name: state.token,
            }),
        }
    }

    fn adopt_dids(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        for state in &snapshot.dids {
            let token = Token(state.token);
            let base = HostPhys(state.unit);
            let unit = self.unit_at(base).ok_or(Error::Dangling {
                what: "unit",
                name: state.unit,
            })?;
            let levels = match self.domains.get(&token) {
                None => {
                    return Err(Error::Dangling {
                        what: "domain",
                        name: state.token,
                    });
                }
                Some(domain) if domain.id_on(unit).is_some() => {
                    return Err(Error::Duplicate {
                        what: "domain id of domain",
                        name: state.token,
                    });
                }
                Some(domain) => domain.table.levels(),
            };
            let owner = self.unit_mut(unit)?;
            if !owner.supports_levels(levels) {
                return Err(Error::BadRecord {
                    what: "number of page table levels",
                    value: u64::from(levels),
                });
            }
            if !owner.dids.reserve(state.did) {
                return Err(Error::DomainIdClaimed {
                    unit: base,
                    did: state.did,
                    token,
                });
            }
            self.domain_mut(token)?.ids.push(DomainId {
                unit,
                did: state.did,
                devices: 0,
            });
        }
        Ok(())
    }

    fn adopt_device(&mut self, snapshot: &Snapshot, state: &DeviceState) -> Result<(), Error> {
        let device = Bdf::from_requester_id(state.segment, state.source);
        let name = u64::from(device.segment()) << 16 | u64::from(device.requester_id());
        unconsumed(state.consumed, "device", name)?;
        let unit = self.unit_at(HostPhys(state.unit)).ok_or(Error::Dangling {
            what: "unit",
            name: state.unit,
        })?;
        if state.ats > 1 || (state.ats == 1 && !self.unit_mut(unit)?.ecap.device_tlb()) {
            return Err(Error::BadRecord {
                what: "use of a device TLB",
                value: u64::from(state.ats),
            });
        }
        let mut aliases: Vec<u16> = snapshot
            .aliases
            .iter()
            .filter(|alias| (alias.segment, alias.source) == (state.segment, state.source))
            .map(|alias| alias.alias)
            .collect();
        aliases.sort_unstable();
        let ats = (state.ats == 1).then_some(state.ats_depth);
        let attachment = Attachment {
            unit,
            token: Token(state.token),
            aliases,
            ats,
        };
        let mut sources: Vec<u16> = attachment.sources(device).collect();
        sources.sort_unstable();
        if let Some(&[twice, _]) = sources.windows(2).find(|two| two.first() == two.last()) {
            return Err(Error::Duplicate {
                what: "requester id",
                name: u64::from(twice),
            });
        }
        for source in sources {
            let one = Bdf::from_requester_id(device.segment(), source);
            if self.owner(one).is_some() {
                return Err(Error::Duplicate {
                    what: "requester id",
                    name: u64::from(source),
                });
            }
            if self.unit_of(one) != Some(unit) {
                return Err(Error::AliasElsewhere {
                    device,
                    alias: source,
                });
            }
        }
        let domain = self.domains.get_mut(&Token(state.token));
        let domain = domain.ok_or(Error::Dangling {
            what: "domain",
            name: state.token,
        })?;
        let id = domain.ids.iter_mut().find(|id| id.unit == unit);
        id.ok_or(Error::Dangling {
            what: "domain id for domain",
            name: state.token,
        })?
        .devices += 1;
        self.devices.insert(device, attachment);
        Ok(())
    }

    /// Nothing in the record is left over.
    fn check_references(&self, snapshot: &Snapshot) -> Result<(), Error> {
        for domain in self.domains.values() {
            if let Some(id) = domain.ids.iter().find(|id| id.devices == 0) {
                return Err(Error::Dangling {
                    what: "device for domain id",
                    name: u64::from(id.did),
                });
            }
        }
        let device = |segment, source| Bdf::from_requester_id(segment, source);
        let lone = snapshot
            .aliases
            .iter()
            .find(|a| !self.devices.contains_key(&device(a.segment, a.source)));
        if let Some(alias) = lone {
            return Err(Error::Dangling {
                what: "device of alias",
                name: u64::from(alias.alias),
            });
        }
        let lost = snapshot
            .irtes
            .iter()
            .find(|irte| self.unit_at(HostPhys(irte.unit)).is_none());
        match lost {
            Some(irte) => Err(Error::Dangling {
                what: "unit",
                name: irte.unit,
            }),
            None => Ok(()),
        }
    }

    /// The context entry that each requester id of an attached device must have.
    fn expected_context(&self, source: Bdf) -> Option<(UnitIndex, ContextEntry)> {
        let (device, token) = self.owner(source)?;
        let attachment = self.devices.get(&device)?;
        let domain = self.domains.get(&token)?;
        let did = domain.id_on(attachment.unit)?;
        let translation = match attachment.ats {
            Some(_) => TranslationType::DEVICE_TLB,
            None => TranslationType::SECOND_STAGE,
        };
        let entry = ContextEntry::second_stage(
            domain.table.root(),
            domain.table.levels(),
            did,
            translation,
        );
        Some((attachment.unit, entry))
    }

    /// Compares root and context tables with the recorded devices: each of them is
    /// there, and nobody else.
    fn compare_tables(&self, mem: &dyn TableMemory, ledger: &mut Ledger<'_>) -> Result<(), Error> {
        for unit in &self.units {
            for bus in 0..=u8::MAX {
                let entry = unit.tables.root_entry(mem, bus);
                if !entry.present() {
                    continue;
                }
                let what = "root entry";
                let expected = crate::intel::spec::tables::RootEntry::link(entry.table());
                compare_entry(
                    &unit.window,
                    what,
                    u32::from(bus),
                    expected.into_bits(),
                    entry.into_bits(),
                )?;
                ledger.claim("a context table", entry.table())?;
                for function in 0..=u8::MAX {
                    let source = u16::from(bus) << 8 | u16::from(function);
                    let found = unit.tables.context(mem, source);
                    let owner = self.owner(Bdf::from_requester_id(unit.segment, source));
                    if found.present() && owner.is_none() {
                        let (expected, found) = ([0; 2], pair(found.into_bits()));
                        let index = u32::from(source);
                        return Err(Error::Entry {
                            unit: unit.base(),
                            what: "context entry",
                            index,
                            expected,
                            found,
                        });
                    }
                }
            }
        }
        self.compare_contexts(mem)
    }

    /// Compares the context entry of every recorded requester id.
    fn compare_contexts(&self, mem: &dyn TableMemory) -> Result<(), Error> {
        for (device, attachment) in &self.devices {
            for source in attachment.sources(*device) {
                let one = Bdf::from_requester_id(device.segment(), source);
                let (unit, expected) = self
                    .expected_context(one)
                    .ok_or(Error::NotAttached { device: *device })?;
                let unit = self
                    .units
                    .get(unit.0)
                    .ok_or(Error::BadUnit { index: unit.0 })?;
                let found = unit.tables.context(mem, source).into_bits();
                compare_entry(
                    &unit.window,
                    "context entry",
                    u32::from(source),
                    expected.into_bits(),
                    found,
                )?;
            }
        }
        Ok(())
    }

    /// The last snapshot has the same domains and devices as the one prepared from.
    fn same_structure(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let changed = |what, name| Err(Error::BadRecord { what, value: name });
        for state in &snapshot.domains {
            unconsumed(state.consumed, "domain", state.token)?;
            let domain = self
                .domains
                .get(&Token(state.token))
                .map(|domain| &domain.table);
            if domain
                .is_none_or(|table| (table.root().0, table.levels()) != (state.root, state.levels))
            {
                return changed("domain (not the one prepared)", state.token);
            }
        }
        for state in &snapshot.dids {
            let domain = self.domains.get(&Token(state.token));
            let id = self
                .unit_at(HostPhys(state.unit))
                .and_then(|unit| domain?.id_on(unit));
            if id != Some(state.did) {
                return changed("domain id (not the one prepared)", u64::from(state.did));
            }
        }
        for state in &snapshot.devices {
            unconsumed(state.consumed, "device", u64::from(state.source))?;
            let device = Bdf::from_requester_id(state.segment, state.source);
            if self
                .devices
                .get(&device)
                .is_none_or(|attachment| attachment.token.0 != state.token)
            {
                return changed("device (not the one prepared)", u64::from(state.source));
            }
        }
        let ids: usize = self.domains.values().map(|domain| domain.ids.len()).sum();
        let aliases: usize = self
            .devices
            .values()
            .map(|attachment| attachment.aliases.len())
            .sum();
        let prepared = [
            self.units.len(),
            self.domains.len(),
            ids,
            self.devices.len(),
            aliases,
        ];
        let recorded = [
            snapshot.units.len(),
            snapshot.domains.len(),
            snapshot.dids.len(),
            snapshot.devices.len(),
            snapshot.aliases.len(),
        ];
        if prepared != recorded {
            return changed(
                "number of objects (not as prepared)",
                recorded.iter().sum::<usize>() as u64,
            );
        }
        Ok(())
    }

    /// Compares every remapping table with the record and takes the allocation over.
    fn take_interrupts(&mut self, snapshot: &Snapshot, mem: &dyn TableMemory) -> Result<(), Error> {
        for unit in &mut self.units {
            let base = unit.base().0;
            let recorded = || snapshot.irtes.iter().filter(move |irte| irte.unit == base);
            let Some(table) = &mut unit.interrupts else {
                match recorded().next() {
                    Some(irte) => {
                        return Err(Error::BadRecord {
                            what: "interrupt entry",
                            value: u64::from(irte.index),
                        });
                    }
                    None => continue,
                }
            };
            table.entries.clear();
            for irte in recorded() {
                let entry = InterruptEntry::from_bits(unpair([irte.low, irte.high]));
                if u32::from(irte.index) >= table.size() || entry.posted() {
                    return Err(Error::BadRecord {
                        what: "interrupt entry",
                        value: u64::from(irte.index),
                    });
                }
                if table.entries.insert(irte.index, entry).is_some() {
                    return Err(Error::Duplicate {
                        what: "interrupt entry",
                        name: u64::from(irte.index),
                    });
                }
            }
            for index in (0..table.size()).filter_map(|index| u16::try_from(index).ok()) {
                let found = table.read(mem, index);
                match table.entries.get(&index) {
                    None if !found.present() => {}
                    expected => {
                        let expected = expected.map_or(0, |entry| entry.into_bits());
                        let what = "interrupt remapping entry";
                        compare_entry(
                            &unit.window,
                            what,
                            u32::from(index),
                            expected,
                            found.into_bits(),
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A unit as recorded, when its registers agree.
fn adopt_unit<R: Registers>(
    window: Window<R>,
    state: &UnitState,
    ledger: &mut Ledger<'_>,
) -> Result<Unit<R>, Error> {
    unconsumed(state.consumed, "unit", state.base)?;
    check_state(&window, state)?;
    window.compare(state)?;
    let (cap, ecap) = (
        Capability::from_bits(state.cap),
        ExtendedCapability::from_bits(state.ecap),
    );
    let coherent = ecap.coherent();
    let root = RootTableAddress(state.rtaddr).table();
    let ring = QueueAddress(state.iqa).queue();
    let status = HostPhys(state.status);
    ledger.claim("a root table", root)?;
    ledger.claim("an invalidation queue", ring)?;
    ledger.claim("invalidation status words", status)?;
    let irta = InterruptTableAddress(state.irta);
    let interrupts = ecap.interrupt_remapping().then(|| InterruptTable {
        base: irta.table(),
        order: irta.order(),
        x2apic: irta.x2apic(),
        coherent,
        own_frame: false,
        entries: BTreeMap::new(),
    });
    if let Some(table) = &interrupts {
        let mut result = Ok(());
        table.for_each_frame(&mut |frame| {
            if result.is_ok() {
                result = ledger.claim("an interrupt remapping table", frame);
            }
        });
        result?;
    }
    let event = FaultEvent {
        address: u64::from(state.feuaddr) << 32 | u64::from(state.feaddr),
        data: state.fedata,
    };
    Ok(Unit {
        window,
        segment: state.segment,
        version: state.version,
        cap,
        ecap,
        tables: Tables { root, coherent },
        queue: Queue {
            ring,
            status,
            tail: (state.iqt >> 4) as u16,
            sequence: state.sequence,
            coherent,
        },
        interrupts,
        dids: DomainIds::new(cap),
        fault_event: (state.fault_event == 1).then_some(event),
        faults_masked: state.fectl & EVENT_MASK != 0,
    })
}

fn unconsumed(consumed: bool, what: &'static str, name: u64) -> Result<(), Error> {
    if consumed {
        Err(Error::Consumed { what, name })
    } else {
        Ok(())
    }
}
