//! The first half: domains, their ids, devices, from the record into run-time types.

use super::unconsumed;
use crate::domain::{Domain, DomainId};
use crate::error::Error;
use crate::fleet::{Attachment, Iommu};
use crate::ids::Token;
use crate::ledger::Ledger;
use crate::state::{DeviceState, DomainState, Snapshot};
use alloc::vec::Vec;
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;
use machine::paging::{LeafSizes, PageTable, VTD_SECOND_STAGE};
use machine::pci::Bdf;

impl<R: Registers> Iommu<R> {
    pub(super) fn adopt_domain(
        &mut self,
        state: &DomainState,
        mem: &dyn TableMemory,
        ledger: &mut Ledger<'_>,
    ) -> Result<(), Error> {
        let token = Token(state.token);
        unconsumed(state.consumed, "domain", state.token)?;
        if state.leaf_sizes > 3 || state.snoop > 1 || (state.snoop == 1 && !self.geometry.snoop) {
            return Err(Error::BadRecord { what: "kind of page table", value: u64::from(state.leaf_sizes) });
        }
        let common = self.geometry.leaf_sizes;
        let leafs = LeafSizes {
            two_mib: state.leaf_sizes & 1 != 0 && common.two_mib,
            one_gib: state.leaf_sizes & 2 != 0 && common.one_gib,
        };
        let table = PageTable::adopt(&VTD_SECOND_STAGE, HostPhys(state.root), state.levels, leafs)
            .map_err(|cause| Error::Paging { token, cause })?;
        ledger.claim_second_stage(mem, table.root(), table.levels())?;
        let domain = Domain { token, table, snoop: state.snoop == 1, frozen: 0, stale: false, ids: Vec::new() };
        match self.domains.insert(token, domain) {
            None => Ok(()),
            Some(_) => Err(Error::Duplicate { what: "domain", name: state.token }),
        }
    }

    pub(super) fn adopt_dids(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        for state in &snapshot.dids {
            let token = Token(state.token);
            let base = HostPhys(state.unit);
            let unit = self.unit_at(base).ok_or(Error::Dangling { what: "unit", name: state.unit })?;
            let levels = match self.domains.get(&token) {
                None => {
                    return Err(Error::Dangling { what: "domain", name: state.token });
                }
                Some(domain) if domain.id_on(unit).is_some() => {
                    return Err(Error::Duplicate { what: "domain id of domain", name: state.token });
                }
                Some(domain) => domain.table.levels(),
            };
            let owner = self.unit_mut(unit)?;
            if !owner.supports_levels(levels) {
                return Err(Error::BadRecord { what: "number of page table levels", value: u64::from(levels) });
            }
            if !owner.dids.reserve(state.did) {
                return Err(Error::DomainIdClaimed { unit: base, did: state.did, token });
            }
            self.domain_mut(token)?.ids.push(DomainId { unit, did: state.did, devices: 0 });
        }
        Ok(())
    }

    pub(super) fn adopt_device(&mut self, snapshot: &Snapshot, state: &DeviceState) -> Result<(), Error> {
        let device = Bdf::from_requester_id(state.segment, state.source);
        let name = u64::from(device.segment()) << 16 | u64::from(device.requester_id());
        unconsumed(state.consumed, "device", name)?;
        let unit = self.unit_at(HostPhys(state.unit)).ok_or(Error::Dangling { what: "unit", name: state.unit })?;
        if state.ats > 1 || (state.ats == 1 && !self.unit_mut(unit)?.ecap.device_tlb()) {
            return Err(Error::BadRecord { what: "use of a device TLB", value: u64::from(state.ats) });
        }
        let mut aliases: Vec<u16> = snapshot
            .aliases
            .iter()
            .filter(|alias| (alias.segment, alias.source) == (state.segment, state.source))
            .map(|alias| alias.alias)
            .collect();
        aliases.sort_unstable();
        let ats = (state.ats == 1).then_some(state.ats_depth);
        let attachment = Attachment { unit, token: Token(state.token), aliases, ats };
        let mut sources: Vec<u16> = attachment.sources(device).collect();
        sources.sort_unstable();
        if let Some(&[twice, _]) = sources.windows(2).find(|two| two.first() == two.last()) {
            return Err(Error::Duplicate { what: "requester id", name: u64::from(twice) });
        }
        for source in sources {
            let one = Bdf::from_requester_id(device.segment(), source);
            if self.owner(one).is_some() {
                return Err(Error::Duplicate { what: "requester id", name: u64::from(source) });
            }
            if self.unit_of(one) != Some(unit) {
                return Err(Error::AliasElsewhere { device, alias: source });
            }
        }
        let domain = self.domains.get_mut(&Token(state.token));
        let domain = domain.ok_or(Error::Dangling { what: "domain", name: state.token })?;
        let id = domain.ids.iter_mut().find(|id| id.unit == unit);
        id.ok_or(Error::Dangling { what: "domain id for domain", name: state.token })?.devices += 1;
        self.devices.insert(device, attachment);
        Ok(())
    }

    /// Nothing in the record is left over.
    pub(super) fn check_references(&self, snapshot: &Snapshot) -> Result<(), Error> {
        for domain in self.domains.values() {
            if let Some(id) = domain.ids.iter().find(|id| id.devices == 0) {
                return Err(Error::Dangling { what: "device for domain id", name: u64::from(id.did) });
            }
        }
        let device = |segment, source| Bdf::from_requester_id(segment, source);
        let lone = snapshot.aliases.iter().find(|a| !self.devices.contains_key(&device(a.segment, a.source)));
        if let Some(alias) = lone {
            return Err(Error::Dangling { what: "device of alias", name: u64::from(alias.alias) });
        }
        let lost = snapshot.irtes.iter().find(|irte| self.unit_at(HostPhys(irte.unit)).is_none());
        match lost {
            Some(irte) => Err(Error::Dangling { what: "unit", name: irte.unit }),
            None => Ok(()),
        }
    }
}
