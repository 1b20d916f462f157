//! Making units and devices forget what a domain's tables no longer say.
//!
//! However large the range, and however many PASIDs and nested domains there are: a unit gets two
//! submissions at most. First its own caches, then the TLBs of devices, which may ask again as soon as
//! theirs is empty.

use crate::error::Error;
use crate::fleet::{Attachment, Iommu};
use crate::ids::{Token, UnitIndex};
use crate::intel::queue::BATCH;
use crate::intel::spec::invalidation::Descriptor;
use crate::platform::Platform;
use alloc::vec::Vec;
use core::ops::Range;
use machine::access::Registers;
use machine::addr::Iova;
use machine::pci::Bdf;

/// All addresses: what a change of a parent may mean to the domains nested in it.
const EVERYTHING: Range<u64> = 0..u64::MAX;

impl<R: Registers> Iommu<R> {
    /// Has every unit and device forget `range` of a domain, and all of what is nested in it.
    pub(crate) fn forget_range(
        &mut self,
        platform: &mut Platform<'_>,
        token: Token,
        range: &Range<u64>,
        leaves_only: bool,
    ) -> Result<(), Error> {
        self.with_batch(|this, batch| {
            for index in (0..this.units.len()).map(UnitIndex) {
                this.own_descriptors(batch, index, token, range, leaves_only);
                if batch.is_empty() {
                    continue;
                }
                this.unit_mut(index)?.submit(platform, batch)?;
                batch.clear();
                this.device_descriptors(batch, index, token, range);
                if !batch.is_empty() {
                    this.unit_mut(index)?.submit(platform, batch)?;
                    batch.clear();
                }
            }
            Ok(())
        })
    }

    /// Likewise all of it.
    pub(crate) fn forget_whole(&mut self, platform: &mut Platform<'_>, token: Token) -> Result<(), Error> {
        self.forget_range(platform, token, &EVERYTHING, false)
    }

    /// Has every unit see `range`, of which nothing was mapped before: where absence is cached
    /// (CAP.CM) or stores are buffered (CAP.RWBF).
    pub(crate) fn show_range(
        &mut self,
        platform: &mut Platform<'_>,
        token: Token,
        range: &Range<u64>,
    ) -> Result<(), Error> {
        self.with_batch(|this, batch| {
            for index in (0..this.units.len()).map(UnitIndex) {
                this.own_descriptors(batch, index, token, range, false);
                if !batch.is_empty() {
                    this.unit_mut(index)?.after_first_mapping(platform, &[batch])?;
                    batch.clear();
                }
            }
            Ok(())
        })
    }

    /// One list for all of them: it grows once, and no change of a mapping allocates for it.
    fn with_batch(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Vec<Descriptor>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut batch = core::mem::take(&mut self.batch);
        let done = work(self, &mut batch);
        batch.clear();
        self.batch = batch;
        done
    }

    /// What makes a unit forget `range` of a domain and all of what is nested in it; nothing when none of them
    /// is on the unit. More than fits a submission gives way to whole domains, and these to everything.
    fn own_descriptors(
        &self,
        batch: &mut Vec<Descriptor>,
        index: UnitIndex,
        token: Token,
        range: &Range<u64>,
        leaves_only: bool,
    ) {
        let (Some(unit), Some(domain)) = (self.units.get(index.0), self.domains.get(&token)) else { return };
        let drain = unit.drain_bits();
        let whole = |did| Descriptor::iotlb_domain(did, drain);
        let nested = || self.children(token).filter_map(|child| child.id_on(index)).map(whole);
        if let Some(id) = domain.ids.iter().find(|id| id.unit == index) {
            unit.forget_stage(id, domain.stage(), range, leaves_only, batch);
        }
        batch.extend(nested());
        if batch.len() > BATCH {
            batch.clear();
            batch.extend(domain.id_on(index).map(whole));
            batch.extend(nested());
        }
        if batch.len() > BATCH {
            batch.clear();
            batch.push(Descriptor::iotlb_global(drain));
        }
    }

    /// What makes the TLBs of devices behind a unit forget `range` of their domain, and everything of domains nested in it.
    fn device_descriptors(&self, batch: &mut Vec<Descriptor>, index: UnitIndex, token: Token, range: &Range<u64>) {
        self.device_descriptors_of(batch, index, token, range);
        for child in self.children(token) {
            self.device_descriptors_of(batch, index, child.token(), &EVERYTHING);
        }
    }

    fn device_descriptors_of(&self, batch: &mut Vec<Descriptor>, index: UnitIndex, token: Token, range: &Range<u64>) {
        // One block for all: a device's queue is shallow.
        let (first, last) = (range.start >> 12, range.end.saturating_sub(1) >> 12);
        let mask = (u64::BITS - (first ^ last).leading_zeros()) as u8;
        let mine = |to: Token, through: UnitIndex| (to, through) == (token, index);
        let tlb =
            |device: &Bdf, attachment: &Attachment| attachment.ats.and_then(|depth| self.tlb_of(index, *device, depth));
        let own = self.devices.iter().filter(|(_, attachment)| mine(attachment.token, attachment.unit));
        batch.extend(own.filter_map(|(device, attachment)| {
            Some(Descriptor::device_tlb(tlb(device, attachment)?, Iova(range.start), mask))
        }));
        let pasids = self.pasids.iter().filter(|(_, attachment)| mine(attachment.token, attachment.unit));
        batch.extend(pasids.filter_map(|((device, pasid), _)| {
            let tlb = tlb(device, self.devices.get(device)?)?;
            Some(Descriptor::pasid_device_tlb(tlb, *pasid, Iova(range.start), mask))
        }));
    }
}
