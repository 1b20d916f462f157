//! Who takes memory while guests stand still for an upgrade, where nobody should: the pause is to be short whatever the heap looks like.
#![expect(unsafe_code, reason = "a global allocator")]

use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::smp::pcpu;

/// The pCPUs that are in the pause, a bit each: one that still runs its guests may take memory for them.
static PAUSED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// Whether there is any.
static ANY: AtomicBool = AtomicBool::new(false);
/// How often memory was taken by those.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// The word and the bit of pCPU `index`. Those beyond the last bit are not told from pCPU 0.
fn place(index: u32) -> (&'static AtomicU64, u64) {
    PAUSED.get(index as usize / 64).map_or((&PAUSED[0], 1), |word| (word, 1 << (index % 64)))
}

/// An allocator that counts what is taken in the pause.
pub struct Guarded<A>(pub A);

impl<A> Guarded<A> {
    fn note(&self) {
        if !ANY.load(Ordering::Relaxed) {
            return;
        }
        let (word, bit) = place(pcpu::index());
        if word.load(Ordering::Relaxed) & bit != 0 {
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

/// The pause begins, on pCPU 0: what is counted begins anew.
pub fn begin() {
    TAKEN.store(0, Ordering::Relaxed);
    pause(0);
}

/// pCPU `index`, which executes this, is in the pause: from here on it is counted when it takes memory.
pub fn pause(index: u32) {
    let (word, bit) = place(index);
    word.fetch_or(bit, Ordering::AcqRel);
    ANY.store(true, Ordering::Release);
}

/// pCPU `index` is not, any more.
pub fn leave(index: u32) {
    let (word, bit) = place(index);
    word.fetch_and(!bit, Ordering::AcqRel);
}

/// The pause ends for this image.
pub fn go_on() {
    ANY.store(false, Ordering::Release);
    PAUSED.iter().for_each(|word| word.store(0, Ordering::Release));
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
        begin();
        take();
        go_on();
        take();
        assert_eq!(taken_in_pause(), 3);
        begin();
        assert_eq!(taken_in_pause(), 0);
        go_on();
    }
}
