//! Who takes memory while guests stand still for an upgrade, where nobody should: the pause is to be short whatever the heap looks like.
#![expect(unsafe_code, reason = "a global allocator")]

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Whether guests stand still for an upgrade.
static PAUSED: AtomicBool = AtomicBool::new(false);
/// How often memory was taken meanwhile.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// An allocator that counts what is taken in the pause.
pub struct Guarded<A>(pub A);

impl<A> Guarded<A> {
    fn note(&self) {
        if PAUSED.load(Ordering::Relaxed) {
            TAKEN.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: all is the inner allocator's; a count is kept beside it.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Guarded<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.note();
        // SAFETY: by this function's contract, which is the same.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: by this function's contract, which is the same.
        unsafe { self.0.dealloc(memory, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.note();
        // SAFETY: by this function's contract, which is the same.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        self.note();
        // SAFETY: by this function's contract, which is the same.
        unsafe { self.0.realloc(memory, layout, bytes) }
    }
}

/// The pause begins: from here on whoever takes memory is counted.
pub fn pause() {
    TAKEN.store(0, Ordering::Relaxed);
    PAUSED.store(true, Ordering::Release);
}

/// The pause ends for this image.
pub fn go_on() {
    PAUSED.store(false, Ordering::Release);
}

/// How often memory was taken in the pause that this image was part of last.
pub fn taken_in_pause() -> u64 {
    TAKEN.load(Ordering::Acquire)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::alloc::System;

    use super::*;

    #[test]
    fn only_what_is_taken_in_the_pause_counts() {
        let heap = Guarded(System);
        let layout = Layout::new::<u64>();
        let take = || {
            // SAFETY: the layout has a size; what is taken is given back with the same layout.
            unsafe {
                let memory = heap.alloc(layout);
                let memory = heap.realloc(memory, layout, 64);
                heap.dealloc(memory, Layout::from_size_align_unchecked(64, layout.align()));
                heap.dealloc(heap.alloc_zeroed(layout), layout);
            }
        };
        take();
        pause();
        take();
        go_on();
        take();
        assert_eq!(taken_in_pause(), 3);
        pause();
        assert_eq!(taken_in_pause(), 0);
        go_on();
    }
}
