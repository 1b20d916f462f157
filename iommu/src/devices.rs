//! Devices: attaching to and detaching from domains.

use crate::error::Error;
use crate::fleet::{Attachment, Iommu};
use crate::ids::{Token, UnitIndex};
use crate::intel::pasids::OWN_PASID;
use crate::intel::spec::invalidation::Descriptor;
use crate::intel::spec::tables::pair;
use crate::platform::Platform;
use crate::quarantine::ALL_PAGES;
use crate::table::Stage;
use alloc::vec::Vec;
use machine::access::Registers;
use machine::addr::Iova;
use machine::pci::Bdf;

impl<R: Registers> Iommu<R> {
    /// Attaches `device`, with every other requester id it may send as, to the domain:
    /// from here on its DMA goes through the domain's table.
    ///
    /// `ats`: the device's TLB is in use, with this invalidate queue depth. Enable ATS
    /// in the device afterwards, and disable it only after it is detached.
    pub fn attach(
        &mut self,
        platform: &mut Platform<'_>,
        device: Bdf,
        aliases: &[u16],
        token: Token,
        ats: Option<u8>,
    ) -> Result<(), Error> {
        self.must_be_live()?;
        if self.domain_mut(token)?.stage() == Stage::PassThrough {
            return Err(Error::WrongStage { token, what: "pass-through, which only Baton's own devices get" });
        }
        self.enter(platform, device, aliases, token, ats)
    }

    /// Lets a device of Baton's own reach all memory, under the id of a pass-through domain
    /// ([`create_pass_through`](Self::create_pass_through)). Never for a guest's device.
    pub fn attach_pass_through(
        &mut self,
        platform: &mut Platform<'_>,
        device: Bdf,
        aliases: &[u16],
        token: Token,
    ) -> Result<(), Error> {
        self.must_be_live()?;
        if self.domain_mut(token)?.stage() != Stage::PassThrough {
            return Err(Error::WrongStage { token, what: "not pass-through; attach the device as any other" });
        }
        self.enter(platform, device, aliases, token, None)
    }

    fn enter(
        &mut self,
        platform: &mut Platform<'_>,
        device: Bdf,
        aliases: &[u16],
        token: Token,
        ats: Option<u8>,
    ) -> Result<(), Error> {
        let mut attachment = self.check_attach(device, aliases, token, ats)?;
        let index = attachment.unit;
        let mut path = self.path(token, 0)?;
        let held = self.domain_mut(token)?.id_on(index);

        let unit = self.unit_mut(index)?;
        let base = unit.base();
        for source in attachment.sources(device) {
            let found = unit.tables.context(platform.mem, source);
            if found & 1 != 0 {
                let (what, found) = ("context entry", pair(found));
                return Err(Error::Entry { unit: base, what, index: u32::from(source), expected: [0; 2], found });
            }
        }
        path.did = match held {
            Some(did) => did,
            None => unit.dids.allocate().ok_or(Error::NoDomainId { unit: base })?,
        };
        match unit.prepare_tables(platform, attachment.sources(device)) {
            Ok(directory) => attachment.directory = directory,
            Err(error) => {
                if held.is_none() {
                    // Never in an entry: nothing can be tagged with it.
                    unit.dids.release_invalidated(path.did);
                }
                return Err(error);
            }
        }
        if let Some(directory) = attachment.directory {
            directory.set(platform, OWN_PASID, unit.pasid_entry(&path));
        }
        let entry = unit.context_entry(&path, attachment.directory.map(|directory| directory.frame), ats.is_some());
        for source in attachment.sources(device) {
            unit.tables.set_context(platform, source, entry);
        }
        // With caching mode, absence is cached, tagged with domain id 0 (VT-d 6.1).
        let contexts: Vec<Descriptor> =
            attachment.sources(device).map(|source| Descriptor::context_device(0, source)).collect();
        let seen = unit.after_first_entry(platform, &contexts, path.did, OWN_PASID);

        // From here on the device is attached, whatever `seen` says: hardware may have
        // the entries, so they are taken back only by `detach`, which invalidates.
        self.domain_mut(token)?.enter(index, path.did, OWN_PASID);
        self.devices.insert(device, attachment);
        seen
    }

    /// Detaches `device` from its domain: its DMA is blocked, and nothing of it is left in
    /// any cache, when this returns `Ok`. After an error call it again; until it succeeds
    /// the device stays recorded and the domain is stale. PASIDs are detached before.
    pub fn detach(&mut self, platform: &mut Platform<'_>, device: Bdf) -> Result<(), Error> {
        self.must_be_live()?;
        let attachment = self.devices.get(&device).cloned().ok_or(Error::NotAttached { device })?;
        if let Some(((_, pasid), _)) = self.pasids.range((device, 0)..=(device, u32::MAX)).next() {
            return Err(Error::PasidAttached { device, pasid: *pasid });
        }
        let (token, index) = (attachment.token, attachment.unit);
        let domain = self.domain_mut(token)?;
        domain.mutable("detaching a device")?;
        let did = domain.id_on(index).ok_or(Error::NotAttached { device })?;

        if let Err(error) = self.cut_off(platform, device, &attachment, did) {
            self.domain_mut(token)?.stale = true;
            return Err(error);
        }
        self.devices.remove(&device);
        if let Some(directory) = attachment.directory {
            directory.free(platform.mem);
        }
        self.leave(token, index, OWN_PASID)
    }

    /// Counts one user of a domain less, whom the unit has forgotten; the last one on the
    /// unit frees the domain's id there.
    pub(crate) fn leave(&mut self, token: Token, index: UnitIndex, pasid: u32) -> Result<(), Error> {
        let still = match pasid {
            OWN_PASID => self.devices.values().any(|one| (one.token, one.unit) == (token, index)),
            _ => self.pasids.iter().any(|((_, other), one)| (*other, one.token, one.unit) == (pasid, token, index)),
        };
        let domain = self.domain_mut(token)?;
        let mut unused = None;
        if let Some(id) = domain.ids.iter_mut().find(|id| id.unit == index) {
            id.users = id.users.saturating_sub(1);
            if !still {
                id.pasids.retain(|one| *one != pasid);
            }
            unused = (id.users == 0).then_some(id.did);
        }
        if let Some(did) = unused {
            domain.ids.retain(|id| id.unit != index);
            // Each unit that had an id has forgotten all of it.
            domain.stale &= !domain.ids.is_empty();
            self.unit_mut(index)?.dids.release_invalidated(did);
        }
        Ok(())
    }

    /// Clears the context entries and invalidates in the order of VT-d 6.5.3.3: context
    /// cache, PASID cache (in scalable mode), IOTLB, device TLB, each complete before the next.
    fn cut_off(
        &mut self,
        platform: &mut Platform<'_>,
        device: Bdf,
        attachment: &Attachment,
        did: u16,
    ) -> Result<(), Error> {
        let tlb = attachment.ats.and_then(|depth| self.tlb_of(attachment.unit, device, depth));
        let unit = self.unit_mut(attachment.unit)?;
        for source in attachment.sources(device) {
            unit.tables.set_context(platform, source, 0);
        }
        if let Some(directory) = attachment.directory {
            directory.clear(platform, OWN_PASID);
        }
        let contexts: Vec<Descriptor> =
            attachment.sources(device).map(|source| Descriptor::context_device(did, source)).collect();
        unit.submit(platform, &contexts)?;
        if attachment.directory.is_some() {
            unit.submit(platform, &[Descriptor::pasid_cache(did, OWN_PASID)])?;
        }
        let drain = unit.drain_bits();
        unit.submit(platform, &[Descriptor::iotlb_domain(did, drain)])?;
        if let Some(tlb) = tlb {
            unit.submit(platform, &[Descriptor::device_tlb(tlb, Iova(0), ALL_PAGES)])?;
        }
        Ok(())
    }

    /// Everything that can be refused is refused here.
    fn check_attach(
        &mut self,
        device: Bdf,
        aliases: &[u16],
        token: Token,
        ats: Option<u8>,
    ) -> Result<Attachment, Error> {
        let domain = self.domain_mut(token)?;
        domain.mutable("attaching a device")?;
        domain.fresh()?;
        let index = self.unit_of(device).ok_or(Error::NoUnit { device })?;
        let mut aliases: Vec<u16> = aliases.iter().copied().filter(|alias| *alias != device.requester_id()).collect();
        aliases.sort_unstable();
        aliases.dedup();
        let attachment = Attachment { unit: index, token, aliases, ats, directory: None, quarantined: false };
        for source in attachment.sources(device) {
            let one = Bdf::from_requester_id(device.segment(), source);
            if self.unit_of(one) != Some(index) {
                return Err(Error::AliasElsewhere { device, alias: source });
            }
            if let Some((owner, token)) = self.owner(one) {
                return Err(Error::DeviceClaimed { device: one, owner, token });
            }
        }
        self.check_format(token, index)?;
        let unit = self.unit_mut(index)?;
        let base = unit.base();
        if ats.is_some() && !unit.ecap.device_tlb() {
            return Err(Error::Unsupported { unit: base, what: "device TLBs (ECAP.DT); attach without ATS" });
        }
        Ok(attachment)
    }

    /// Refuses a domain whose tables a unit cannot walk, or that relies on what it lacks.
    pub(crate) fn check_format(&mut self, token: Token, index: UnitIndex) -> Result<(), Error> {
        let domain = self.domain_mut(token)?;
        let (stage, levels) = (domain.stage(), domain.levels());
        let (coherent, snoop, bits) = (domain.coherent, domain.snoop, domain.address_bits);
        let leafs = domain.leaf_sizes();
        let unit = self.unit_mut(index)?;
        let base = unit.base();
        let must = |able: bool, what| if able { Ok(()) } else { Err(Error::Format { unit: base, token, what }) };
        must(unit.supports(stage, levels), "cannot walk tables of the domain's kind and number of levels")?;
        let able = unit.leaf_sizes(stage);
        let fits = (able.two_mib || !leafs.two_mib) && (able.one_gib || !leafs.one_gib);
        must(fits, "does not have all the leaf sizes of the domain's tables")?;
        must(!coherent || unit.walks_coherently(), "does not snoop, and the domain's tables are not written back")?;
        must(!snoop || unit.ecap.snoop_control(), "cannot force snooping (ECAP.SC)")?;
        must(unit.address_bits() >= bits, "accepts fewer address bits than the domain has")
    }

    /// The attached device that sends as `source`, and its domain.
    #[must_use]
    pub fn owner(&self, source: Bdf) -> Option<(Bdf, Token)> {
        let sends = |device: &Bdf, attachment: &Attachment| {
            device.segment() == source.segment() && attachment.sources(*device).any(|one| one == source.requester_id())
        };
        let found = self.devices.iter().find(|(device, attachment)| sends(device, attachment));
        found.map(|(device, attachment)| (*device, attachment.token))
    }
}
