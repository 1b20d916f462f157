//! Devices: attaching to and detaching from domains.

use crate::domain::DomainId;
use crate::error::Error;
use crate::fleet::{Attachment, Iommu};
use crate::ids::{Token, UnitIndex};
use crate::intel::spec::invalidation::Descriptor;
use crate::intel::spec::tables::{ContextEntry, TranslationType, pair};
use crate::platform::Platform;
use alloc::vec::Vec;
use core::ops::Range;
use machine::access::Registers;
use machine::addr::Iova;
use machine::pci::Bdf;

/// Mask of a device TLB invalidation that means everything.
const ALL_PAGES: u8 = 52;

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
        let attachment = self.check_attach(device, aliases, token, ats)?;
        let index = attachment.unit;
        let domain = self.domain_mut(token)?;
        let (root, levels, held) = (domain.table.root(), domain.table.levels(), domain.id_on(index));

        let unit = self.unit_mut(index)?;
        let base = unit.base();
        for source in attachment.sources(device) {
            let found = unit.tables.context(platform.mem, source);
            if found.present() {
                let (what, found) = ("context entry", pair(found.into_bits()));
                return Err(Error::Entry { unit: base, what, index: u32::from(source), expected: [0; 2], found });
            }
        }
        let did = match held {
            Some(did) => did,
            None => unit.dids.allocate().ok_or(Error::NoDomainId { unit: base })?,
        };
        for source in attachment.sources(device) {
            if let Err(error) = unit.tables.prepare(platform, source) {
                if held.is_none() {
                    // Never in an entry: nothing can be tagged with it.
                    unit.dids.release_invalidated(did);
                }
                return Err(error);
            }
        }
        let translation = if ats.is_some() { TranslationType::DEVICE_TLB } else { TranslationType::SECOND_STAGE };
        let entry = ContextEntry::second_stage(root, levels, did, translation);
        for source in attachment.sources(device) {
            unit.tables.set_context(platform, source, entry);
        }
        // With caching mode, absence is cached, tagged with domain id 0 (VT-d 6.1).
        let drain = unit.drain_bits();
        let contexts: Vec<Descriptor> =
            attachment.sources(device).map(|source| Descriptor::context_device(0, source)).collect();
        let seen = unit.after_first_mapping(platform, &[&contexts, &[Descriptor::iotlb_domain(did, drain)]]);

        // From here on the device is attached, whatever `seen` says: hardware may have
        // the entries, so they are taken back only by `detach`, which invalidates.
        let domain = self.domain_mut(token)?;
        match domain.ids.iter_mut().find(|id| id.unit == index) {
            Some(id) => id.devices += 1,
            None => domain.ids.push(DomainId { unit: index, did, devices: 1 }),
        }
        self.devices.insert(device, attachment);
        seen
    }

    /// Detaches `device` from its domain: its DMA is blocked, and nothing of it is left in
    /// any cache, when this returns `Ok`. After an error call it again; until it succeeds
    /// the device stays recorded and the domain is stale.
    pub fn detach(&mut self, platform: &mut Platform<'_>, device: Bdf) -> Result<(), Error> {
        self.must_be_live()?;
        let attachment = self.devices.get(&device).cloned().ok_or(Error::NotAttached { device })?;
        let (token, index) = (attachment.token, attachment.unit);
        let domain = self.domain_mut(token)?;
        domain.mutable("detaching a device")?;
        let did = domain.id_on(index).ok_or(Error::NotAttached { device })?;

        if let Err(error) = self.cut_off(platform, device, &attachment, did) {
            self.domain_mut(token)?.stale = true;
            return Err(error);
        }
        self.devices.remove(&device);
        let domain = self.domain_mut(token)?;
        let mut unused = false;
        if let Some(id) = domain.ids.iter_mut().find(|id| id.unit == index) {
            id.devices = id.devices.saturating_sub(1);
            unused = id.devices == 0;
        }
        if unused {
            domain.ids.retain(|id| id.unit != index);
            // Each unit that had an id has forgotten all of it.
            domain.stale &= !domain.ids.is_empty();
            self.unit_mut(index)?.dids.release_invalidated(did);
        }
        Ok(())
    }

    /// Clears the context entries and invalidates in the order of VT-d 6.5.3.3: context
    /// cache, (PASID cache: none in legacy mode,) IOTLB, device TLB, each complete
    /// before the next.
    fn cut_off(
        &mut self,
        platform: &mut Platform<'_>,
        device: Bdf,
        attachment: &Attachment,
        did: u16,
    ) -> Result<(), Error> {
        let unit = self.unit_mut(attachment.unit)?;
        for source in attachment.sources(device) {
            unit.tables.set_context(platform, source, ContextEntry::new());
        }
        let contexts: Vec<Descriptor> =
            attachment.sources(device).map(|source| Descriptor::context_device(did, source)).collect();
        unit.submit(platform, &contexts)?;
        let drain = unit.drain_bits();
        unit.submit(platform, &[Descriptor::iotlb_domain(did, drain)])?;
        if let Some(depth) = attachment.ats {
            let tlb = unit.device_tlb(device.requester_id(), depth);
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
        let levels = domain.table.levels();
        let index = self.unit_of(device).ok_or(Error::NoUnit { device })?;
        let mut aliases: Vec<u16> = aliases.iter().copied().filter(|alias| *alias != device.requester_id()).collect();
        aliases.sort_unstable();
        aliases.dedup();
        let attachment = Attachment { unit: index, token, aliases, ats };
        for source in attachment.sources(device) {
            let one = Bdf::from_requester_id(device.segment(), source);
            if self.unit_of(one) != Some(index) {
                return Err(Error::AliasElsewhere { device, alias: source });
            }
            if let Some((owner, token)) = self.owner(one) {
                return Err(Error::DeviceClaimed { device: one, owner, token });
            }
        }
        let unit = self.unit_mut(index)?;
        let base = unit.base();
        if !unit.supports_levels(levels) {
            return Err(Error::Unsupported { unit: base, what: "tables with as many levels as the domain's" });
        }
        if ats.is_some() && !unit.ecap.device_tlb() {
            return Err(Error::Unsupported { unit: base, what: "device TLBs (ECAP.DT); attach without ATS" });
        }
        Ok(attachment)
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

    /// What makes the TLBs of the domain's devices behind `unit` forget `range`.
    pub(crate) fn device_tlb_descriptors(&self, token: Token, unit: UnitIndex, range: &Range<u64>) -> Vec<Descriptor> {
        // One block for all: a device's queue is shallow.
        let (first, last) = (range.start >> 12, range.end.saturating_sub(1) >> 12);
        let mask = (u64::BITS - (first ^ last).leading_zeros()) as u8;
        let of_domain = |attachment: &&Attachment| attachment.token == token && attachment.unit == unit;
        let with_tlb = self.devices.iter().filter(|(_, attachment)| of_domain(attachment));
        with_tlb
            .filter_map(|(device, attachment)| {
                let tlb = self.units.get(unit.0)?.device_tlb(device.requester_id(), attachment.ats?);
                Some(Descriptor::device_tlb(tlb, Iova(range.start), mask))
            })
            .collect()
    }
}
