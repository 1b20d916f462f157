//! Quarantine: a device that attacks, or is broken, reaches nothing any more and is not heard of any more. It stays
//! recorded where it was attached, across images too, until it is detached.

use crate::error::Error;
use crate::fleet::Iommu;
use crate::intel::spec::invalidation::Descriptor;
use crate::intel::spec::tables::ContextEntry;
use crate::platform::Platform;
use alloc::vec::Vec;
use machine::access::Registers;
use machine::addr::Iova;
use machine::pci::Bdf;

/// Mask of a device TLB invalidation that means everything.
pub(crate) const ALL_PAGES: u8 = 52;

/// The context entry of a quarantined device, in either mode: not present, and what it blocks is not
/// recorded (FPD, which counts whether P is set or not: VT-d 9.3), so that others' faults find room.
pub(crate) fn quarantined_entry() -> ContextEntry {
    ContextEntry::new().with_fault_disable(true)
}

impl<R: Registers> Iommu<R> {
    /// Blocks every request of an attached device, under all its ids and PASIDs, and stops
    /// recording its faults. When this returns `Ok` nothing of it is left in any cache. Turn its bus
    /// mastering off as well: its interrupts pass until their entries are cleared.
    ///
    /// After an error call it again: the domain is stale until the device is detached. `Busy` while the domain is
    /// frozen. Only [`detach`](Self::detach) ends a quarantine.
    pub fn quarantine(&mut self, platform: &mut Platform<'_>, device: Bdf) -> Result<(), Error> {
        self.must_be_live()?;
        let attachment = self.devices.get(&device).cloned().ok_or(Error::NotAttached { device })?;
        if attachment.quarantined {
            return Ok(());
        }
        let domain = self.domain_mut(attachment.token)?;
        domain.mutable("putting a device in quarantine")?;
        let was_stale = core::mem::replace(&mut domain.stale, true);
        let pasids: Vec<u32> =
            self.pasids.range((device, 0)..=(device, u32::MAX)).map(|((_, pasid), _)| *pasid).collect();
        let tlb = attachment.ats.and_then(|depth| self.tlb_of(attachment.unit, device, depth));
        let unit = self.unit_mut(attachment.unit)?;
        for source in attachment.sources(device) {
            unit.tables.set_context(platform, source, quarantined_entry().into_bits());
        }
        // Everything: it happens rarely, and whatever the device had attached is gone with it.
        unit.forget_all(platform)?;
        if let Some(tlb) = tlb {
            let of_pasid = |pasid: &u32| Descriptor::pasid_device_tlb(tlb, *pasid, Iova(0), ALL_PAGES);
            let all = core::iter::once(Descriptor::device_tlb(tlb, Iova(0), ALL_PAGES));
            let all: Vec<Descriptor> = all.chain(pasids.iter().map(of_pasid)).collect();
            unit.submit(platform, &all)?;
        }
        self.domain_mut(attachment.token)?.stale = was_stale;
        if let Some(attachment) = self.devices.get_mut(&device) {
            attachment.quarantined = true;
        }
        Ok(())
    }

    /// Whether a device is in quarantine.
    #[must_use]
    pub fn is_quarantined(&self, device: Bdf) -> bool {
        self.devices.get(&device).is_some_and(|attachment| attachment.quarantined)
    }
}
