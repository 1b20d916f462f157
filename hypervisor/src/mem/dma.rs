//! Buffers for devices of our own: heap memory, identity mapped, as its device sees it.
#![expect(unsafe_code, reason = "a device writes this memory behind Rust's back")]

use alloc::alloc::{alloc_zeroed, handle_alloc_error};
use core::alloc::Layout;

use machine::addr::{HostPhys, PAGE_SIZE};

use crate::net::nic::DmaMemory;

/// Page-aligned memory of one device. Lives as long as the image: a device may still
/// write to it until the image is gone.
pub struct DmaBuffer {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the buffer is owned; all accesses are volatile copies through &self or &mut self.
unsafe impl Send for DmaBuffer {}

impl DmaBuffer {
    /// Zeroed memory of at least `bytes` bytes, whole pages.
    pub fn leak(bytes: usize) -> Self {
        let bytes = bytes.next_multiple_of(PAGE_SIZE as usize).max(PAGE_SIZE as usize);
        let Ok(layout) = Layout::from_size_align(bytes, PAGE_SIZE as usize) else {
            panic!("a DMA buffer of {bytes} bytes is no layout");
        };
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        Self { base, bytes }
    }

    /// The physical address.
    pub fn address(&self) -> HostPhys {
        HostPhys(self.base as u64)
    }

    /// Bytes, a multiple of the page size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn check(&self, offset: usize, bytes: usize) {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(inside, "DMA buffer access at {offset}+{bytes} of {}", self.bytes);
    }
}
