//! The places of virtual CPUs between two images: memory of the arena that PLAN sets aside, a piece for each, in which FREEZE leaves
//! its registers and its XSAVE area, each pCPU those of its own. The new image reads them there.
#![expect(unsafe_code, reason = "memory of the arena that two images share")]

use alloc::sync::Arc;
use alloc::vec::Vec;

use handover::graph::place_bytes;
use handover::state::machine::FrameTag;
use handover::state::page::{VcpuPage, VcpuPlaceV1};
use machine::access::TableMemory;
use machine::addr::{HostPhys, PAGE_SIZE};

use super::convert::{self, Converted};
use crate::guest::platform::VcpuPlatformState;
use crate::machine_cpus;
use crate::mem::frames::{self, ArenaFrames};
use crate::vcpu::state::ArchState;
use crate::vm::Vm;

/// Owner of the frames: they go when the stream goes.
const TAG: FrameTag = FrameTag::new(FrameTag::STREAM, 0);
/// An XSAVE area and the page behind it start at multiples of this (SDM 1 13.4).
const ALIGNMENT: u32 = 64;

/// Where one virtual CPU's state goes at FREEZE.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    record: VcpuPlaceV1,
    generation: u64,
    /// FREEZE has filled it, and nobody has asked yet.
    fresh: bool,
}

impl Place {
    fn new(record: VcpuPlaceV1, generation: u64) -> Self {
        Self { record, generation, fresh: false }
    }

    /// The page, and the memory before it.
    fn memory(&mut self) -> (&mut VcpuPage, &mut [u8]) {
        let at = self.record.base as usize;
        let page = (at + self.record.page_offset as usize) as *mut VcpuPage;
        // SAFETY: the frames were allocated for this virtual CPU's place, are identity mapped and as long as the record says; page and area
        // do not overlap, are aligned, and any bytes are values of both. This image alone writes there until the jump, and only by the one
        // `Place` that a virtual CPU has, behind its lock.
        unsafe { (&mut *page, core::slice::from_raw_parts_mut(at as *mut u8, self.record.area_bytes as usize)) }
    }

    /// Leaves a virtual CPU's state there; `area` fills its XSAVE area and says its length.
    ///
    /// # Errors
    /// Something of it has no place in the records.
    pub fn fill(
        &mut self,
        registers: &ArchState,
        platform: &VcpuPlatformState,
        area: impl FnOnce(&mut [u8]) -> usize,
    ) -> Converted<()> {
        let VcpuPlaceV1 { guest, vcpu, pcpu, .. } = self.record;
        let generation = self.generation;
        let (page, bytes) = self.memory();
        let length = area(bytes) as u32;
        convert::vcpu::fill(&mut page.vcpu, (guest, vcpu, pcpu), registers, length)?;
        convert::lapic::fill(page, guest, vcpu, platform);
        page.seal(generation);
        self.fresh = true;
        Ok(())
    }

    /// Whether FREEZE has filled it since this was asked last.
    pub fn take_fresh(&mut self) -> bool {
        core::mem::take(&mut self.fresh)
    }

    /// What was left there, for a stream that has records of it.
    pub fn left(&mut self) -> (&VcpuPage, &[u8]) {
        let (page, area) = self.memory();
        let length = page.vcpu.xsave_bytes as usize;
        (page, area.get(..length).unwrap_or_default())
    }
}

/// The places of all virtual CPUs of an upgrade.
pub struct Pages {
    records: Vec<VcpuPlaceV1>,
}

impl Pages {
    /// Sets memory aside for each virtual CPU of these guests, and tells it where. `None` when the arena has no room.
    pub fn allocate(vms: &[Arc<Vm>], generation: u64) -> Option<Self> {
        let area_bytes = machine_cpus::common().xstate.size as u32;
        let mut pages = Self { records: Vec::new() };
        for (vm, index, shared) in each(vms) {
            let mut record = VcpuPlaceV1 {
                guest: vm.token,
                base: 0,
                vcpu: index,
                pcpu: shared.pcpu,
                area_bytes,
                page_offset: area_bytes.next_multiple_of(ALIGNMENT),
            };
            let Some(base) = frames::allocate((place_bytes(&record) / PAGE_SIZE) as usize, TAG) else {
                pages.free(vms);
                return None;
            };
            record.base = base.get();
            pages.records.push(record);
            *shared.place.lock() = Some(Place::new(record, generation));
        }
        Some(pages)
    }

    /// The records of the plan.
    pub fn records(&self) -> &[VcpuPlaceV1] {
        &self.records
    }

    /// Gives the memory back: the virtual CPUs of these guests have no places any more.
    pub fn free(&self, vms: &[Arc<Vm>]) {
        each(vms).for_each(|(_, _, shared)| *shared.place.lock() = None);
        self.records.iter().for_each(free);
    }
}

/// Every virtual CPU of these guests.
pub fn each(vms: &[Arc<Vm>]) -> impl Iterator<Item = (&Arc<Vm>, u32, &crate::vm::VcpuShared)> {
    vms.iter().flat_map(|vm| (0u32..).zip(&vm.vcpus).map(move |(index, shared)| (vm, index, shared)))
}

/// Gives a place's memory back, as far as it is one's.
pub fn free(place: &VcpuPlaceV1) {
    for frame in (place.base..place.base.saturating_add(place_bytes(place))).step_by(PAGE_SIZE as usize) {
        ArenaFrames(TAG).free(HostPhys(frame));
    }
}

/// What the image before this one has left at `place`: the page and the memory for the XSAVE area.
///
/// # Safety
/// The place is of a plan that was judged: in the arena, which is mapped. Nobody writes there while the result is in use.
pub unsafe fn read<'a>(place: &VcpuPlaceV1) -> (&'a VcpuPage, &'a [u8]) {
    let at = place.base as usize;
    let page = (at + place.page_offset as usize) as *const VcpuPage;
    // SAFETY: by contract; any bytes are values of both types, and the offset is a multiple of 64.
    unsafe { (&*page, core::slice::from_raw_parts(at as *const u8, place.area_bytes as usize)) }
}
