//! One unit: what it can do, the structures it walks, and the commands it takes.

use super::dids::DomainIds;
use super::mode::Mode;
use super::queue::Queue;
use super::remap::{Allocated, InterruptTable};
use super::spec::interrupts::InterruptEntry;
use super::spec::invalidation::{Descriptor, DeviceTlb, Drain};
use super::spec::registers::{Capability, ExtendedCapability, Global, QueueAddress, RootTableAddress};
use super::tables::Tables;
use super::window::Window;
use crate::domain::DomainId;
use crate::error::Error;
use crate::platform::Platform;
use crate::table::Stage;
use alloc::vec::Vec;
use core::ops::Range;
use machine::access::{Registers, TableMemory};
use machine::addr::{HostPhys, Iova};

/// The fault event: an MSI that the unit sends by itself. Not remapped (VT-d 5.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FaultEvent {
    /// FEUADDR in bits 63:32, FEADDR below: a message in compatibility format, with the
    /// upper 24 bits of an x2APIC id in bits 63:40.
    pub address: u64,
    /// FEDATA: the vector, in bits 7:0.
    pub data: u32,
}

/// One unit, translating.
#[derive(Debug)]
pub(crate) struct Unit<R> {
    pub(crate) window: Window<R>,
    pub(crate) segment: u16,
    pub(crate) version: u32,
    pub(crate) cap: Capability,
    pub(crate) ecap: ExtendedCapability,
    pub(crate) tables: Tables,
    pub(crate) queue: Queue,
    pub(crate) interrupts: Option<InterruptTable>,
    pub(crate) dids: DomainIds,
    pub(crate) fault_event: Option<FaultEvent>,
    /// FECTL.IM as last written: the fault event raises no interrupt.
    pub(crate) faults_masked: bool,
}

impl<R: Registers> Unit<R> {
    pub(crate) fn base(&self) -> HostPhys {
        self.window.base
    }

    /// What GSTS shows while the unit works.
    pub(crate) fn expected_status(&self) -> Global {
        let translation = Global::TE | Global::SRTP | Global::QIE;
        if self.interrupts.is_some() { translation | Global::IRE | Global::SIRTP } else { translation }
    }

    pub(crate) fn expected_root(&self) -> RootTableAddress {
        match self.mode() {
            Mode::Legacy => RootTableAddress::legacy(self.tables.root),
            Mode::Scalable => RootTableAddress::scalable(self.tables.root),
        }
    }

    pub(crate) fn expected_queue(&self) -> QueueAddress {
        self.queue.register()
    }

    /// Which requests an IOTLB invalidation drains.
    pub(crate) fn drain_bits(&self) -> Drain {
        Drain { reads: self.cap.drain_reads(), writes: self.cap.drain_writes() }
    }

    /// Has the unit forget what `batch` names; see [`Queue::submit`].
    pub(crate) fn submit(&mut self, platform: &mut Platform<'_>, batch: &[Descriptor]) -> Result<(), Error> {
        self.queue.submit(&self.window, platform, batch)
    }

    /// Makes a not-present entry that became present visible, where that takes more than
    /// the store: VT-d 6.8 (write buffers), 6.1 (caching mode). `descriptors`, in the order of
    /// VT-d 6.5.3.3, each complete before the next.
    pub(crate) fn after_first_mapping(
        &mut self,
        platform: &mut Platform<'_>,
        descriptors: &[&[Descriptor]],
    ) -> Result<(), Error> {
        if self.cap.caching_mode() {
            descriptors.iter().try_for_each(|batch| self.submit(platform, batch))
        } else if self.cap.write_buffer() {
            self.window.flush_write_buffer(platform.clock)
        } else {
            Ok(())
        }
    }

    /// Forgets every context entry, PASID table entry and translation: in this order, each
    /// complete before the next, since translations are looked up through the former (VT-d 6.5.3.3).
    pub(crate) fn forget_all(&mut self, platform: &mut Platform<'_>) -> Result<(), Error> {
        self.submit(platform, &[Descriptor::context_global()])?;
        if self.mode() == Mode::Scalable {
            self.submit(platform, &[Descriptor::pasid_cache_global()])?;
        }
        let drain = self.drain_bits();
        self.submit(platform, &[Descriptor::iotlb_global(drain)])
    }

    /// A device's TLB as descriptors for this unit name it. `physical`: the requester id of its physical function, its own if
    /// it is one. Units that do not count by it have it reserved (VT-d 6.5.2.5: PFSID, with ECAP.DIT).
    pub(crate) fn device_tlb(&self, source: u16, depth: u8, physical: u16) -> DeviceTlb {
        DeviceTlb { source, depth, physical: self.ecap.invalidation_throttle().then_some(physical) }
    }

    /// The descriptors that make the unit forget `range` of a domain with tables of `stage`.
    pub(crate) fn forget_stage(
        &self,
        id: &DomainId,
        stage: Stage,
        range: &Range<u64>,
        leaves_only: bool,
        batch: &mut Vec<Descriptor>,
    ) {
        let (did, start, bytes) = (id.did, Iova(range.start), range.end.saturating_sub(range.start));
        match stage {
            Stage::Second => batch.extend(self.forget_range(did, start, bytes, leaves_only).into_iter().flatten()),
            // What is cached of a first stage bears the PASID as well (VT-d 6.5.2.4).
            Stage::First => {
                let of = |pasid: &u32| self.forget_first(did, *pasid, start, bytes, leaves_only);
                batch.extend(id.pasids.iter().flat_map(of).flatten());
            }
            Stage::PassThrough | Stage::Nested => batch.push(Descriptor::iotlb_domain(did, self.drain_bits())),
        }
    }

    /// The descriptors that make the unit forget `bytes` from `start` of a second stage: one or
    /// two page-selective ones when they fit CAP.MAMV, otherwise the whole domain.
    fn forget_range(&self, did: u16, start: Iova, bytes: u64, leaves_only: bool) -> [Option<Descriptor>; 2] {
        let drain = self.drain_bits();
        let pages = |(at, mask): Block| Descriptor::iotlb_pages(did, Iova(at), mask, leaves_only, drain);
        match self.blocks(start, bytes) {
            Some((first, second)) => [Some(pages(first)), second.map(pages)],
            None => [Some(Descriptor::iotlb_domain(did, drain)), None],
        }
    }

    /// Likewise of a first stage, for the requests with one PASID: otherwise all of the PASID.
    fn forget_first(
        &self,
        did: u16,
        pasid: u32,
        start: Iova,
        bytes: u64,
        leaves_only: bool,
    ) -> [Option<Descriptor>; 2] {
        let pages = |(at, mask): Block| Descriptor::pasid_iotlb_pages(did, pasid, Iova(at), mask, leaves_only);
        match self.blocks(start, bytes) {
            Some((first, second)) => [Some(pages(first)), second.map(pages)],
            None => [Some(Descriptor::pasid_iotlb(did, pasid)), None],
        }
    }

    fn blocks(&self, start: Iova, bytes: u64) -> Option<(Block, Option<Block>)> {
        if self.cap.page_selective() { cover(start.0, bytes, self.cap.max_mask()) } else { None }
    }

    /// The remapping table, when no growth of it is pending.
    pub(crate) fn interrupt_table(&mut self, platform: &mut Platform<'_>) -> Result<&mut InterruptTable, Error> {
        self.settle_growth(platform)?;
        let unit = self.base();
        self.interrupts.as_mut().ok_or(Error::Unsupported { unit, what: "interrupt remapping (ECAP.IR)" })
    }

    /// Writes an allocated interrupt entry in one store and makes the unit forget the old one.
    pub(crate) fn set_interrupt(
        &mut self,
        platform: &mut Platform<'_>,
        index: u16,
        new: impl FnOnce(&InterruptTable, InterruptEntry) -> Result<InterruptEntry, Error>,
    ) -> Result<(), Error> {
        let unit = self.base();
        let table = self.interrupt_table(platform)?;
        let old = *table.entries.get(&index).ok_or(Error::NoSuchInterrupt { unit, index })?;
        let entry = new(table, old.entry)?;
        table.store(platform, index, Allocated { entry, ..old });
        self.submit(platform, &[Descriptor::interrupt_index(index, 0)])
    }

    /// What makes the unit forget the entries `first` to `last`: the aligned block around them,
    /// or everything where that is more than ECAP.MHMV.
    pub(crate) fn forget_interrupts(&self, first: u16, last: u16) -> Descriptor {
        let mask = (u16::BITS - (first ^ last).leading_zeros()) as u8;
        if mask > self.ecap.max_index_mask() {
            return Descriptor::interrupt_global();
        }
        Descriptor::interrupt_index(((u32::from(first) >> mask) << mask) as u16, mask)
    }

    /// Calls `visit` with every frame that the unit walks or writes, second stages not included.
    pub(crate) fn for_each_frame(&self, mem: &dyn TableMemory, visit: &mut dyn FnMut(HostPhys)) {
        self.tables.for_each_frame(mem, visit);
        visit(self.queue.ring);
        visit(self.queue.status);
        if let Some(table) = &self.interrupts {
            table.for_each_frame(visit);
        }
    }
}

/// An aligned block: its address, and log2 of its pages.
type Block = (u64, u8);

/// One or two aligned blocks that cover `bytes` from `start`, none of more than
/// 2^`max` pages, or `None`.
fn cover(start: u64, bytes: u64, max: u8) -> Option<(Block, Option<Block>)> {
    let block = |first: u64, last: u64| {
        let mask = (u64::BITS - (first ^ last).leading_zeros()) as u8;
        (mask <= max).then_some((first >> mask << mask << 12, mask))
    };
    let first = start >> 12;
    let last = start.checked_add(bytes.checked_sub(1)?)? >> 12;
    let width = u64::BITS - (first ^ last).leading_zeros();
    let pages = last - first + 1;
    if width == 0 || 1 << width <= pages * 2 {
        // A single block forgets at most as much again as it must.
        return Some((block(first, last)?, None));
    }
    // The most aligned page in the range: a block on either side.
    let middle = last >> (width - 1) << (width - 1);
    Some((block(first, middle - 1)?, Some(block(middle, last)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_by_hand() {
        assert_eq!(cover(0x5000, 0x1000, 18), Some(((0x5000, 0), None)));
        assert_eq!(cover(0x20_0000, 0x20_0000, 18), Some(((0x20_0000, 9), None)));
        assert_eq!(cover(0x1000, 0x2000, 18), Some(((0, 2), None)));
        // Across 1 GiB: two single pages, not 512 MiB.
        assert_eq!(cover(0x3fff_f000, 0x2000, 18), Some(((0x3fff_f000, 0), Some((0x4000_0000, 0)))));
        assert_eq!(cover(0, 0x4000_0000, 18), Some(((0, 18), None)));
        assert_eq!(cover(0, 0x8000_0000, 18), None);
        assert_eq!(cover(u64::MAX - 0xfff, 0x1000, 63), Some(((u64::MAX - 0xfff, 0), None)));
        assert_eq!((cover(0x1000, 0, 18), cover(0x1000, u64::MAX, 18)), (None, None));
    }

    proptest! {
        /// Every page of the range is in a block; blocks are aligned and no larger than allowed.
        #[test]
        fn blocks_cover(first in 0u64..1 << 36, pages in 1u64..1 << 20, max in 0u8..30) {
            let Some((one, two)) = cover(first << 12, pages << 12, max) else { return Ok(()) };
            let holds = |page: u64| core::iter::once(one).chain(two).any(|(at, mask)| page >> mask == at >> 12 >> mask);
            for (at, mask) in core::iter::once(one).chain(two) {
                prop_assert!(mask <= max && at % (1 << (12 + mask)) == 0);
            }
            prop_assert!(holds(first) && holds(first + pages - 1) && holds(first + pages / 2));
            prop_assert!(two.is_none() || one.0 + (1 << (12 + one.1)) == two.unwrap_or_default().0);
        }
    }
}
