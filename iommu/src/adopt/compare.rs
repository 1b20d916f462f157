//! The record against memory: root and context tables, interrupt remapping tables, and
//! the last snapshot against the one prepared from.

use super::unconsumed;
use crate::error::Error;
use crate::fleet::Iommu;
use crate::ids::{Token, UnitIndex};
use crate::intel::live::compare_entry;
use crate::intel::spec::interrupts::InterruptEntry;
use crate::intel::spec::tables::{ContextEntry, RootEntry, TranslationType, pair, unpair};
use crate::ledger::Ledger;
use crate::state::Snapshot;
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;
use machine::pci::Bdf;

impl<R: Registers> Iommu<R> {
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
        let entry = ContextEntry::second_stage(domain.table.root(), domain.table.levels(), did, translation);
        Some((attachment.unit, entry))
    }

    /// Compares root and context tables with the recorded devices: each of them is
    /// there, and nobody else.
    pub(super) fn compare_tables(&self, mem: &dyn TableMemory, ledger: &mut Ledger<'_>) -> Result<(), Error> {
        for unit in &self.units {
            for bus in 0..=u8::MAX {
                let entry = unit.tables.root_entry(mem, bus);
                if !entry.present() {
                    continue;
                }
                let what = "root entry";
                let expected = RootEntry::link(entry.table());
                compare_entry(&unit.window, what, u32::from(bus), expected.into_bits(), entry.into_bits())?;
                ledger.claim("a context table", entry.table())?;
                for function in 0..=u8::MAX {
                    let source = u16::from(bus) << 8 | u16::from(function);
                    let found = unit.tables.context(mem, source);
                    let owner = self.owner(Bdf::from_requester_id(unit.segment, source));
                    if found.present() && owner.is_none() {
                        let (expected, found) = ([0; 2], pair(found.into_bits()));
                        let index = u32::from(source);
                        return Err(Error::Entry { unit: unit.base(), what: "context entry", index, expected, found });
                    }
                }
            }
        }
        self.compare_contexts(mem)
    }

    /// Compares the context entry of every recorded requester id.
    pub(super) fn compare_contexts(&self, mem: &dyn TableMemory) -> Result<(), Error> {
        for (device, attachment) in &self.devices {
            for source in attachment.sources(*device) {
                let one = Bdf::from_requester_id(device.segment(), source);
                let (unit, expected) = self.expected_context(one).ok_or(Error::NotAttached { device: *device })?;
                let unit = self.units.get(unit.0).ok_or(Error::BadUnit { index: unit.0 })?;
                let found = unit.tables.context(mem, source).into_bits();
                compare_entry(&unit.window, "context entry", u32::from(source), expected.into_bits(), found)?;
            }
        }
        Ok(())
    }

    /// The last snapshot has the same domains and devices as the one prepared from.
    pub(super) fn same_structure(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let changed = |what, name| Err(Error::BadRecord { what, value: name });
        for state in &snapshot.domains {
            unconsumed(state.consumed, "domain", state.token)?;
            let domain = self.domains.get(&Token(state.token)).map(|domain| &domain.table);
            if domain.is_none_or(|table| (table.root().0, table.levels()) != (state.root, state.levels)) {
                return changed("domain (not the one prepared)", state.token);
            }
        }
        for state in &snapshot.dids {
            let domain = self.domains.get(&Token(state.token));
            let id = self.unit_at(HostPhys(state.unit)).and_then(|unit| domain?.id_on(unit));
            if id != Some(state.did) {
                return changed("domain id (not the one prepared)", u64::from(state.did));
            }
        }
        for state in &snapshot.devices {
            unconsumed(state.consumed, "device", u64::from(state.source))?;
            let device = Bdf::from_requester_id(state.segment, state.source);
            if self.devices.get(&device).is_none_or(|attachment| attachment.token.0 != state.token) {
                return changed("device (not the one prepared)", u64::from(state.source));
            }
        }
        let ids: usize = self.domains.values().map(|domain| domain.ids.len()).sum();
        let aliases: usize = self.devices.values().map(|attachment| attachment.aliases.len()).sum();
        let prepared = [self.units.len(), self.domains.len(), ids, self.devices.len(), aliases];
        let recorded = [
            snapshot.units.len(),
            snapshot.domains.len(),
            snapshot.dids.len(),
            snapshot.devices.len(),
            snapshot.aliases.len(),
        ];
        if prepared != recorded {
            return changed("number of objects (not as prepared)", recorded.iter().sum::<usize>() as u64);
        }
        Ok(())
    }

    /// Compares every remapping table with the record and takes the allocation over.
    pub(super) fn take_interrupts(&mut self, snapshot: &Snapshot, mem: &dyn TableMemory) -> Result<(), Error> {
        for unit in &mut self.units {
            let base = unit.base().0;
            let recorded = || snapshot.irtes.iter().filter(move |irte| irte.unit == base);
            let Some(table) = &mut unit.interrupts else {
                match recorded().next() {
                    Some(irte) => {
                        return Err(Error::BadRecord { what: "interrupt entry", value: u64::from(irte.index) });
                    }
                    None => continue,
                }
            };
            table.entries.clear();
            for irte in recorded() {
                let entry = InterruptEntry::from_bits(unpair([irte.low, irte.high]));
                if u32::from(irte.index) >= table.size() || entry.posted() {
                    return Err(Error::BadRecord { what: "interrupt entry", value: u64::from(irte.index) });
                }
                if table.entries.insert(irte.index, entry).is_some() {
                    return Err(Error::Duplicate { what: "interrupt entry", name: u64::from(irte.index) });
                }
            }
            for index in (0..table.size()).filter_map(|index| u16::try_from(index).ok()) {
                let found = table.read(mem, index);
                match table.entries.get(&index) {
                    None if !found.present() => {}
                    expected => {
                        let expected = expected.map_or(0, |entry| entry.into_bits());
                        let what = "interrupt remapping entry";
                        compare_entry(&unit.window, what, u32::from(index), expected, found.into_bits())?;
                    }
                }
            }
        }
        Ok(())
    }
}
