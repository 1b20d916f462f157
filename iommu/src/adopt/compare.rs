//! The record against memory: root, context and PASID tables, interrupt remapping tables, and
//! the last snapshot against the one prepared from.

use super::unconsumed;
use crate::error::Error;
use crate::fleet::{Attachment, Iommu};
use crate::ids::{Token, UnitIndex};
use crate::intel::live::compare_entry;
use crate::intel::pasids::{OWN_PASID, PasidDirectory, TABLES};
use crate::intel::remap::Allocated;
use crate::intel::spec::interrupts::InterruptEntry;
use crate::intel::spec::scalable::{DirectoryEntry, PASIDS, PasidEntry};
use crate::intel::spec::tables::{pair, unpair};
use crate::ledger::Ledger;
use crate::posted::posted_at;
use crate::quarantine::quarantined_entry;
use crate::sources::InterruptSource;
use crate::state::{DomainState, Snapshot};
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;
use machine::pci::Bdf;

impl<R: Registers> Iommu<R> {
    /// Compares root, context and PASID tables with the recorded devices: each of them is
    /// there, and nobody else but those who leave.
    pub(crate) fn compare_tables(&self, mem: &dyn TableMemory, ledger: &mut Ledger<'_>) -> Result<(), Error> {
        for unit in &self.units {
            let wrong = |what, index, found| {
                Err(Error::Entry { unit: unit.base(), what, index: u32::from(index), expected: [0; 2], found })
            };
            for link in unit.tables.links(mem) {
                let link = match link {
                    Ok(link) => link,
                    Err(source) => return wrong("root entry of", source, unit.tables.root_words(mem, source)),
                };
                ledger.claim("a context table", link.table)?;
                for source in unit.tables.sources(&link) {
                    let found = unit.tables.context(mem, source);
                    let device = Bdf::from_requester_id(unit.segment, source);
                    let known = || self.owner(device).is_some() || self.leaving.contains(&device);
                    if found & 1 != 0 && !known() {
                        return wrong("context entry", source, pair(found));
                    }
                    let upper = unit.tables.context_upper(mem, source);
                    if upper != 0 {
                        return wrong("upper half of context entry", source, pair(upper));
                    }
                }
            }
        }
        for (device, attachment) in &self.devices {
            if let Some(directory) = attachment.directory {
                self.compare_directory(*device, attachment.unit, directory, mem, ledger)?;
            }
        }
        self.compare_contexts(mem)
    }

    /// Claims a device's PASID directory with every table of it, and looks for entries of nobody.
    fn compare_directory(
        &self,
        device: Bdf,
        unit: UnitIndex,
        directory: PasidDirectory,
        mem: &dyn TableMemory,
        ledger: &mut Ledger<'_>,
    ) -> Result<(), Error> {
        let unit = self.units.get(unit.0).ok_or(Error::BadUnit { index: unit.0 })?.base();
        let wrong = |what, index, found| Err(Error::Entry { unit, what, index, expected: [0; 2], found });
        ledger.claim("a PASID directory", directory.frame)?;
        for index in 0..TABLES {
            let link = directory.link(mem, index);
            if !link.present() {
                continue;
            }
            if link != DirectoryEntry::link(link.table()) {
                return wrong("PASID directory entry", index as u32, [link.into_bits(), 0]);
            }
            ledger.claim("a PASID table", link.table())?;
            let first = (index * PASIDS) as u32;
            for pasid in first..first + PASIDS as u32 {
                let known = pasid == OWN_PASID || self.pasids.contains_key(&(device, pasid));
                let found = directory.entry(mem, pasid);
                if (found.low.present() && !known) || !directory.upper_is_clear(mem, pasid) {
                    return wrong("PASID entry", pasid, pair(found.low.into_bits()));
                }
            }
        }
        Ok(())
    }

    /// Compares context and PASID entries of every recorded requester id and PASID.
    pub(super) fn compare_contexts(&self, mem: &dyn TableMemory) -> Result<(), Error> {
        for (device, attachment) in &self.devices {
            let missing = Error::NotAttached { device: *device };
            let index = attachment.unit;
            let unit = self.units.get(index.0).ok_or(Error::BadUnit { index: index.0 })?;
            let path = |token: Token| {
                let did = self.domains.get(&token).and_then(|domain| domain.id_on(index));
                self.path(token, did.ok_or(missing)?)
            };
            let own = path(attachment.token)?;
            let directory = attachment.directory.map(|directory| directory.frame);
            let expected = match attachment.quarantined {
                true => quarantined_entry().into_bits(),
                false => unit.context_entry(&own, directory, attachment.ats.is_some()),
            };
            for source in attachment.sources(*device) {
                let found = unit.tables.context(mem, source);
                compare_entry(&unit.window, "context entry", u32::from(source), expected, found)?;
            }
            let Some(directory) = attachment.directory else { continue };
            let of_device = self.pasids.range((*device, 0)..=(*device, u32::MAX));
            let pasids = of_device.map(|((_, pasid), other)| (*pasid, other.token));
            for (pasid, token) in core::iter::once((OWN_PASID, attachment.token)).chain(pasids) {
                let (expected, found) = (unit.pasid_entry(&path(token)?), directory.entry(mem, pasid));
                let halves = |entry: PasidEntry| [entry.low.into_bits(), entry.first.into_bits()];
                for (expected, found) in halves(expected).into_iter().zip(halves(found)) {
                    compare_entry(&unit.window, "PASID entry", pasid, expected, found)?;
                }
            }
        }
        Ok(())
    }

    /// Nobody who leaves has an entry any more.
    pub(super) fn compare_left(&self, mem: &dyn TableMemory) -> Result<(), Error> {
        for device in &self.leaving {
            // Where no unit translates there is no entry either.
            let Some(unit) = self.unit_of(*device).and_then(|index| self.units.get(index.0)) else { continue };
            let source = device.requester_id();
            let found = unit.tables.context(mem, source);
            compare_entry(&unit.window, "context entry", u32::from(source), 0, found)?;
        }
        Ok(())
    }

    /// The last snapshot has the same domains and devices as the one prepared from.
    pub(super) fn same_structure(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let changed = |what, name| Err(Error::BadRecord { what, value: name });
        for state in &snapshot.domains {
            unconsumed(state.consumed, "domain", state.token)?;
            let domain = self.domains.get(&Token(state.token)).map(DomainState::of);
            if domain != Some(DomainState { address_bits: domain.map_or(0, |one| one.address_bits), ..*state }) {
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
            let directory = |attachment: &Attachment| attachment.directory.map_or(0, |directory| directory.frame.0);
            let same = |found: &Attachment| {
                (found.token.0, directory(found), u8::from(found.quarantined))
                    == (state.token, state.directory, state.quarantined)
            };
            if !self.devices.get(&device).is_some_and(same) {
                return changed("device (not the one prepared)", u64::from(state.source));
            }
        }
        for state in &snapshot.pasids {
            unconsumed(state.consumed, "PASID", u64::from(state.pasid))?;
            let device = Bdf::from_requester_id(state.segment, state.source);
            if self.pasids.get(&(device, state.pasid)).is_none_or(|found| found.token.0 != state.token) {
                return changed("PASID (not the one prepared)", u64::from(state.pasid));
            }
        }
        if !self.posted.agrees(&snapshot.posted) {
            return changed("posted interrupt descriptors (not those prepared)", snapshot.posted.len() as u64);
        }
        let ids: usize = self.domains.values().map(|domain| domain.ids.len()).sum();
        let aliases: usize = self.devices.values().map(|attachment| attachment.aliases.len()).sum();
        let prepared = [self.units.len(), self.domains.len(), ids, self.devices.len(), self.pasids.len(), aliases];
        let recorded = [
            snapshot.units.len(),
            snapshot.domains.len(),
            snapshot.dids.len(),
            snapshot.devices.len(),
            snapshot.pasids.len(),
            snapshot.aliases.len(),
        ];
        if prepared != recorded {
            return changed("number of objects (not as prepared)", recorded.iter().sum::<usize>() as u64);
        }
        Ok(())
    }

    /// Compares every remapping table with the record and takes the allocation over.
    pub(super) fn take_interrupts(&mut self, snapshot: &Snapshot, mem: &dyn TableMemory) -> Result<(), Error> {
        let Self { units, routes, posted, .. } = self;
        for (index, unit) in units.iter_mut().enumerate() {
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
                let lie = Error::BadRecord { what: "interrupt entry", value: u64::from(irte.index) };
                let here = irte.owner.is_none_or(|owner| routes.unit(owner) == Some(UnitIndex(index)));
                let sound = InterruptSource::of(entry).is_some() && (!entry.posted() || unit.cap.posted_interrupts());
                if u32::from(irte.index) >= table.size() || !sound || !here {
                    return Err(lie);
                }
                if let Some(place) = posted_at(entry.into_bits()) {
                    posted.check(place)?;
                }
                if table.entries.insert(irte.index, Allocated { entry, owner: irte.owner }).is_some() {
                    return Err(Error::Duplicate { what: "interrupt entry", name: u64::from(irte.index) });
                }
            }
            let what = "interrupt remapping entry";
            for (index, allocated) in table.entries.iter() {
                let (expected, found) = (allocated.entry.into_bits(), table.read(mem, *index).into_bits());
                compare_entry(&unit.window, what, u32::from(*index), expected, found)?;
            }
            // Guests stand still meanwhile: all others by their present bits, many at a time.
            let foreign = table.first_present(mem, |index| !table.entries.contains_key(&index));
            if let Some(index) = foreign {
                compare_entry(&unit.window, what, u32::from(index), 0, table.read(mem, index).into_bits())?;
            }
        }
        Ok(())
    }
}
