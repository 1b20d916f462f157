//! The first half: domains, their ids, devices, from the record into run-time types.

use super::unconsumed;
use crate::domain::{Domain, DomainId};
use crate::error::Error;
use crate::fleet::{Attachment, Iommu, PasidAttachment};
use crate::ids::{Token, UnitIndex};
use crate::intel::mode::Mode;
use crate::intel::pasids::{OWN_PASID, PasidDirectory};
use crate::ledger::Ledger;
use crate::state::{DeviceState, DomainState, FIRST_STAGE, NESTED, PASS_THROUGH, PasidState, SECOND_STAGE, Snapshot};
use crate::table::{Stage, Table};
use alloc::vec::Vec;
use machine::access::{Registers, TableMemory};
use machine::addr::{HostPhys, Iova, PAGE_SIZE};
use machine::paging::{LeafSizes, PageTable};
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
        let bad = |what, value: u8| Err(Error::BadRecord { what, value: u64::from(value) });
        if state.leaf_sizes > 3 {
            return bad("kind of page table", state.leaf_sizes);
        }
        if state.snoop > 1 || state.coherent > 1 {
            return bad("way of snooping", state.snoop.max(state.coherent));
        }
        let bits = match state.address_bits {
            0 => self.geometry.address_bits,
            bits => bits,
        };
        let table = adopt_table(state, token, mem, ledger)?;
        // A nested domain's and a pass-through one's are those of the units or of the parent.
        let address_bits = if table.tree().is_some() { bits } else { 0 };
        let (snoop, coherent) = (state.snoop == 1, state.coherent == 1);
        let domain = Domain { token, table, snoop, coherent, address_bits, frozen: 0, stale: false, ids: Vec::new() };
        match self.domains.insert(token, domain) {
            None => Ok(()),
            Some(_) => Err(Error::Duplicate { what: "domain", name: state.token }),
        }
    }

    /// A nested domain stands on a second stage that is there.
    pub(super) fn check_parents(&self) -> Result<(), Error> {
        for parent in self.domains.values().filter_map(|domain| domain.table.parent()) {
            if self.domains.get(&parent).is_none_or(|domain| domain.stage() != Stage::Second) {
                return Err(Error::Dangling { what: "parent domain", name: parent.0 });
            }
        }
        Ok(())
    }

    pub(super) fn adopt_dids(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        for state in &snapshot.dids {
            let token = Token(state.token);
            let base = HostPhys(state.unit);
            let unit = self.unit_at(base).ok_or(Error::Dangling { what: "unit", name: state.unit })?;
            match self.domains.get(&token) {
                None => {
                    return Err(Error::Dangling { what: "domain", name: state.token });
                }
                Some(domain) if domain.id_on(unit).is_some() => {
                    return Err(Error::Duplicate { what: "domain id of domain", name: state.token });
                }
                Some(_) => {}
            }
            self.check_format(token, unit)?;
            if !self.unit_mut(unit)?.dids.reserve(state.did) {
                return Err(Error::DomainIdClaimed { unit: base, did: state.did, token });
            }
            self.domain_mut(token)?.ids.push(DomainId { unit, did: state.did, users: 0, pasids: Vec::new() });
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
        if state.quarantined > 1 {
            return Err(Error::BadRecord { what: "quarantine", value: u64::from(state.quarantined) });
        }
        let mut aliases: Vec<u16> = snapshot
            .aliases
            .iter()
            .filter(|alias| (alias.segment, alias.source) == (state.segment, state.source))
            .map(|alias| alias.alias)
            .collect();
        aliases.sort_unstable();
        let ats = (state.ats == 1).then_some(state.ats_depth);
        let coherent = self.unit_mut(unit)?.ecap.coherent();
        let directory = match (self.unit_mut(unit)?.mode(), state.directory) {
            (Mode::Legacy, 0) => None,
            (Mode::Legacy, _) => {
                return Err(Error::UnsupportedDevice { device, what: "it has a PASID directory in legacy mode" });
            }
            (Mode::Scalable, frame) => Some(PasidDirectory { frame: HostPhys(frame), coherent }),
        };
        let quarantined = state.quarantined == 1;
        let attachment = Attachment { unit, token: Token(state.token), aliases, ats, directory, quarantined };
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
        self.count_user(Token(state.token), unit, OWN_PASID)?;
        self.devices.insert(device, attachment);
        Ok(())
    }

    pub(super) fn adopt_pasid(&mut self, state: &PasidState) -> Result<(), Error> {
        let device = Bdf::from_requester_id(state.segment, state.source);
        unconsumed(state.consumed, "PASID", u64::from(state.pasid))?;
        let owner = Error::Dangling { what: "device of PASID", name: u64::from(state.pasid) };
        let attachment = self.devices.get(&device).ok_or(owner)?;
        let (unit, token) = (attachment.unit, Token(state.token));
        if self.unit_at(HostPhys(state.unit)) != Some(unit) {
            return Err(Error::Dangling { what: "unit", name: state.unit });
        }
        let limit = self.unit_mut(unit)?.pasid_limit();
        if limit == 0 {
            let what = "it has PASIDs, and its VT-d unit knows none in the mode it is in";
            return Err(Error::UnsupportedDevice { device, what });
        }
        if !(1..limit).contains(&state.pasid) {
            return Err(Error::PasidRange { device, pasid: state.pasid, limit });
        }
        if self.domains.get(&token).is_some_and(|domain| domain.stage() == Stage::PassThrough) {
            return Err(Error::UnsupportedDevice { device, what: "one of its PASIDs passes through" });
        }
        self.count_user(token, unit, state.pasid)?;
        match self.pasids.insert((device, state.pasid), PasidAttachment { unit, token }) {
            None => Ok(()),
            Some(_) => Err(Error::Duplicate { what: "PASID", name: u64::from(state.pasid) }),
        }
    }

    fn count_user(&mut self, token: Token, unit: UnitIndex, pasid: u32) -> Result<(), Error> {
        let domain = self.domains.get_mut(&token);
        let domain = domain.ok_or(Error::Dangling { what: "domain", name: token.0 })?;
        let did = domain.id_on(unit).ok_or(Error::Dangling { what: "domain id for domain", name: token.0 })?;
        domain.enter(unit, did, pasid);
        Ok(())
    }

    /// Notes who leaves: nobody that stays.
    pub(super) fn adopt_leaving(&mut self, snapshot: &Snapshot) -> Result<(), Error> {
        for state in &snapshot.leaving {
            let one = Bdf::from_requester_id(state.segment, state.source);
            if self.owner(one).is_some() {
                return Err(Error::Duplicate { what: "requester id", name: u64::from(state.source) });
            }
            self.leaving.push(one);
        }
        Ok(())
    }

    /// Nothing in the record is left over.
    pub(super) fn check_references(&self, snapshot: &Snapshot) -> Result<(), Error> {
        for domain in self.domains.values() {
            if let Some(id) = domain.ids.iter().find(|id| id.users == 0) {
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

/// The tables that a record describes, each of them the IOMMU's own and used once.
fn adopt_table(
    state: &DomainState,
    token: Token,
    mem: &dyn TableMemory,
    ledger: &mut Ledger<'_>,
) -> Result<Table, Error> {
    let stage = match state.stage {
        SECOND_STAGE => Stage::Second,
        FIRST_STAGE => Stage::First,
        PASS_THROUGH if (state.root, state.levels, state.parent) == (0, 0, 0) => return Ok(Table::PassThrough),
        NESTED if (4..=5).contains(&state.levels) && state.root.is_multiple_of(PAGE_SIZE) => {
            let (root, parent) = (Iova(state.root), Token(state.parent));
            return Ok(Table::Nested { root, levels: state.levels, parent });
        }
        other => return Err(Error::BadRecord { what: "kind of domain", value: u64::from(other) }),
    };
    if state.parent != 0 {
        return Err(Error::BadRecord { what: "parent of a domain that is not nested", value: state.parent });
    }
    let leafs = LeafSizes { two_mib: state.leaf_sizes & 1 != 0, one_gib: state.leaf_sizes & 2 != 0 };
    let tree = PageTable::adopt(stage.format(), HostPhys(state.root), state.levels, leafs)
        .map_err(|cause| Error::Paging { token, cause })?;
    ledger.claim_tree(mem, stage.format(), tree.root(), tree.levels())?;
    Ok(Table::Tree { stage, tree })
}
