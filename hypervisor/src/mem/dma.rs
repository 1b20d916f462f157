//! Buffers for devices of our own: heap memory, identity mapped, as its device sees it.
#![expect(unsafe_code, reason = "a device writes this memory behind Rust's back")]

use machine::addr::{HostPhys, PAGE_SIZE};

use crate::net::dma::DmaMemory;

/// Page-aligned memory of one device. Lives as long as the image, unless it is given back: a device may still
/// write to it until then.
pub struct DmaBuffer {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the buffer is owned; all accesses are volatile copies through &self or &mut self.
unsafe impl Send for DmaBuffer {}

impl DmaBuffer {
    /// Zeroed memory of at least `bytes` bytes, whole pages; `None` when the heap is exhausted.
    pub fn leak(bytes: usize) -> Option<Self> {
        let bytes = bytes.checked_next_multiple_of(PAGE_SIZE as usize)?;
        let base = super::heap::frames(bytes)?;
        Some(Self { base: base.get() as usize as *mut u8, bytes })
    }

    /// Gives the memory back to the heap.
    ///
    /// # Safety
    /// No device can reach it any more: it is in nobody's domain, and the units have forgotten that it was.
    pub unsafe fn give_back(self) {
        // SAFETY: it came from there with this size, and the caller says that nobody uses it any more.
        unsafe { super::heap::free_frames(self.address(), self.bytes) };
    }

    /// The physical address.
    pub fn address(&self) -> HostPhys {
        HostPhys(self.base as u64)
    }

    fn inside(&self, offset: usize, bytes: usize) -> bool {
        offset.checked_add(bytes).is_some_and(|end| end <= self.bytes)
    }
}

impl DmaMemory for DmaBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn iova(&self, offset: usize) -> u64 {
        self.base as u64 + offset as u64
    }
    fn read(&self, offset: usize, buffer: &mut [u8]) {
        if self.inside(offset, buffer.len()) {
            // SAFETY: inside the block, which lives as long as this object. The device may write meanwhile: bytes are copied as they
            // are and judged by the caller.
            unsafe { core::ptr::copy_nonoverlapping(self.base.add(offset), buffer.as_mut_ptr(), buffer.len()) };
        } else {
            buffer.fill(0);
        }
    }
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if self.inside(offset, bytes.len()) {
            // SAFETY: inside the block, of which this is the only writer besides the device.
            unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(offset), bytes.len()) };
        }
    }
    fn read_u64(&self, offset: usize) -> u64 {
        if !self.inside(offset, 8) || !offset.is_multiple_of(8) {
            return 0;
        }
        // SAFETY: inside the block and aligned.
        unsafe { self.base.add(offset).cast::<u64>().read_volatile() }
    }
    fn write_u64(&mut self, offset: usize, value: u64) {
        if self.inside(offset, 8) && offset.is_multiple_of(8) {
            // SAFETY: inside the block and aligned.
            unsafe { self.base.add(offset).cast::<u64>().write_volatile(value) };
        }
    }
}
