//! A device with a TLB of its own (ATS): it keeps translations until it is told to forget them, whatever the unit
//! does meanwhile. PCIe 10.2, 10.3; VT-d 6.5.2.5, 6.5.2.6.

use super::unit::{ModelUnit, State};
use alloc::collections::BTreeMap;
use machine::addr::HostPhys;

/// By PASID, page number and whether it was a write: where the page is.
pub(super) type DeviceTlb = BTreeMap<(Option<u32>, u64, bool), u64>;

impl ModelUnit {
    /// From here on `source` has a TLB, and uses it.
    pub fn give_tlb(&self, source: u16) {
        self.state.borrow_mut().tlbs.entry(source).or_default();
    }
}

impl State {
    /// What the device asks nobody for.
    pub(super) fn known_to_device(&self, source: u16, pasid: Option<u32>, iova: u64, write: bool) -> Option<HostPhys> {
        let page = self.tlbs.get(&source)?.get(&(pasid, iova >> 12, write))?;
        Some(HostPhys(page | iova & 0xfff))
    }

    /// The device keeps the answer.
    pub(super) fn told_to_device(&mut self, source: u16, pasid: Option<u32>, iova: u64, write: bool, to: HostPhys) {
        if let Some(tlb) = self.tlbs.get_mut(&source) {
            tlb.insert((pasid, iova >> 12, write), to.0 & !0xfff);
        }
    }

    /// `range` is the descriptor's second word, with S at bit `size`.
    pub(super) fn forgotten_by_device(&mut self, source: u16, pasid: Option<u32>, range: u64, size: u32) {
        let order = if range >> size & 1 == 0 { 0 } else { (range >> 12).trailing_ones() + 1 };
        let same = |page: u64| order >= 52 || page >> order == range >> 12 >> order;
        if let Some(tlb) = self.tlbs.get_mut(&source) {
            tlb.retain(|(of, page, _), _| *of != pasid || !same(*page));
        }
    }
}
