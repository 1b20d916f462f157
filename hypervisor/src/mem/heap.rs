//! The heap: talc over what the image leaves of its slot.
#![expect(unsafe_code, reason = "a global allocator is given raw memory")]

use core::alloc::Layout;
use core::sync::atomic::{AtomicU64, Ordering};

use machine::addr::{HostPhys, PAGE_SIZE};

use crate::boot_info::ImageLayout;
use crate::mem::layout::BOOT_TABLES_OFFSET;

/// On the host the tests have std's allocator.
#[cfg(target_os = "none")]
#[global_allocator]
static HEAP: super::guard::Guarded<talc::TalcLock<hermit_sync::RawInterruptTicketMutex, talc::source::Manual>> =
    super::guard::Guarded(talc::TalcLock::new(talc::source::Manual));

static BYTES: AtomicU64 = AtomicU64::new(0);

/// Gives the heap the slot's free part: from the image's end to the boot page tables.
///
/// # Safety
/// Once per image, before the first allocation, with the slot mapped writable.
pub unsafe fn init(image: &ImageLayout) {
    let start = image.end;
    let bytes = (image.base + BOOT_TABLES_OFFSET).saturating_sub(start);
    BYTES.store(bytes, Ordering::Relaxed);
    #[cfg(target_os = "none")]
    // SAFETY: the slot belongs to this image; the linker ends the image at `end`, the boot tables and the boot
    // stack begin behind the range, and the caller promises that this happens once.
    unsafe {
        let _heap = HEAP.0.lock().claim(start as usize as *mut u8, bytes as usize);
    }
}

/// Bytes the heap was given.
pub fn bytes() -> u64 {
    BYTES.load(Ordering::Relaxed)
}

/// Bytes of it that are in use.
pub fn used() -> u64 {
    #[cfg(target_os = "none")]
    {
        HEAP.0.lock().counters().allocated_bytes as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

/// Page-aligned zeroed memory; `None` when the heap is exhausted.
pub fn frames(bytes: usize) -> Option<HostPhys> {
    let layout = Layout::from_size_align(bytes, PAGE_SIZE as usize).ok()?;
    if bytes == 0 {
        return None;
    }
    // SAFETY: the layout's size is not zero.
    let memory = unsafe { alloc::alloc::alloc_zeroed(layout) };
    (!memory.is_null()).then_some(HostPhys(memory as u64))
}

/// Takes back what [`frames`] gave.
///
/// # Safety
/// `base` and `bytes` are those of one call of [`frames`], and nothing uses the memory any more.
pub unsafe fn free_frames(base: HostPhys, bytes: usize) {
    let Ok(layout) = core::alloc::Layout::from_size_align(bytes, PAGE_SIZE as usize) else { return };
    // SAFETY: the caller says that it was allocated with this layout, and is not used any more.
    unsafe { alloc::alloc::dealloc(base.get() as usize as *mut u8, layout) };
}
