//! Memory is taken from one piece of .bss and never given back.
#![expect(unsafe_code, reason = "the allocator's own memory; frames that devices write to")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// All memory that there is.
const HEAP_BYTES: usize = 704 << 10;

#[repr(C, align(4096))]
struct Heap {
    bytes: UnsafeCell<[u8; HEAP_BYTES]>,
    used: AtomicUsize,
}

// SAFETY: pieces are handed out once each, by an atomic counter.
unsafe impl Sync for Heap {}

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: Heap = Heap { bytes: UnsafeCell::new([0; HEAP_BYTES]), used: AtomicUsize::new(0) };

// SAFETY: every piece lies in the heap, is aligned as asked, and overlaps no other.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut start = 0;
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            start = used.next_multiple_of(layout.align());
            start.checked_add(layout.size()).filter(|end| *end <= HEAP_BYTES)
        });
        // The heap is aligned to a page; nothing here asks for more.
        if taken.is_err() || layout.align() > PAGE {
            return ptr::null_mut();
        }
        self.bytes.get().cast::<u8>().wrapping_add(start)
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// A run of pages that devices read and write: everything here is volatile.
#[derive(Clone, Copy)]
pub struct Frames {
    base: *mut u64,
    words: usize,
}

impl Frames {
    /// Takes `pages` pages of zeroes.
    ///
    /// # Panics
    /// When there are no more.
    #[must_use]
    pub fn take(pages: usize) -> Self {
        let layout = Layout::from_size_align(pages * PAGE, PAGE).expect("a size");
        // SAFETY: the size is not zero; .bss is zero, and nothing is handed out twice.
        let base = unsafe { HEAP.alloc(layout) };
        assert!(!base.is_null(), "the guest has no more memory");
        Self { base: base.cast(), words: pages * PAGE / 8 }
    }

    /// The page at `address` of the memory that no program lies in and no loader needs any more: above the command line, below
    /// the reserved part (ACPI tables) of the first MiB.
    #[must_use]
    pub fn at(address: u64) -> Option<Self> {
        let free = (0x3_0000..0xa_0000).contains(&address) && address.is_multiple_of(PAGE as u64);
        free.then(|| Self { base: core::ptr::with_exposed_provenance_mut(address as usize), words: PAGE / 8 })
    }

    /// Where devices find it: the guest's memory is mapped one to one.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.base as u64
    }

    /// How many 64-bit words it has.
    #[must_use]
    pub fn words(&self) -> usize {
        self.words
    }

    /// Reads a word.
    ///
    /// # Panics
    /// Beyond the end.
    #[must_use]
    pub fn read(&self, word: usize) -> u64 {
        assert!(word < self.words);
        // SAFETY: in bounds; any bits are a u64.
        unsafe { self.base.add(word).read_volatile() }
    }

    /// Writes a word.
    ///
    /// # Panics
    /// Beyond the end.
    pub fn write(&self, word: usize, value: u64) {
        assert!(word < self.words);
        // SAFETY: in bounds; nothing but this type and devices reaches the frames.
        unsafe { self.base.add(word).write_volatile(value) }
    }
}
