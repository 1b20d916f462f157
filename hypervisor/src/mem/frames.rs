//! The machine's one arena behind its lock, and its frames as page tables and IOMMU
//! structures want them.
#![expect(unsafe_code, reason = "the arena's frames are raw, identity-mapped memory that hardware reads")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use handover::state::machine::FrameTag;
use hermit_sync::InterruptTicketMutex;
use machine::access::TableMemory;
use machine::addr::{HostPhys, PAGE_SIZE};

use super::arena::{Arena, FrameTable};
use super::layout::ARENA_BYTES;

/// The frame table at the start of the arena itself.
pub struct MachineTable {
    base: HostPhys,
}

impl MachineTable {
    fn word(&self, index: usize) -> *mut u32 {
        debug_assert!(index < self.frames());
        (self.base.get() as usize as *mut u32).wrapping_add(index)
    }
}

impl FrameTable for MachineTable {
    fn frames(&self) -> usize {
        (ARENA_BYTES / PAGE_SIZE) as usize
    }
    fn get(&self, index: usize) -> u32 {
        // SAFETY: the arena is identity mapped; the table's words lie in its first frames, which stay the table's.
        unsafe { self.word(index).read_volatile() }
    }
    fn set(&mut self, index: usize, word: u32) {
        // SAFETY: as for `get`; the lock around the arena makes this the only writer.
        unsafe { self.word(index).write_volatile(word) };
    }
    fn zero(&mut self, index: usize) {
        let frame = (self.base.get() + index as u64 * PAGE_SIZE) as usize as *mut u8;
        // SAFETY: `index` is a frame of the arena that is being handed out: nobody refers to it.
        unsafe { core::ptr::write_bytes(frame, 0, PAGE_SIZE as usize) };
    }
}

static ARENA: InterruptTicketMutex<Option<Arena<MachineTable>>> = InterruptTicketMutex::new(None);

/// Makes the memory at `base` (ARENA_BYTES, identity mapped) the arena of a machine that was just powered on.
///
/// # Safety
/// The range is the arena's alone.
pub unsafe fn create(base: HostPhys) {
    *ARENA.lock() = Some(Arena::create(base, MachineTable { base }));
}

/// Takes over the arena of the image before this one.
///
/// # Safety
/// `base` is that arena, identity mapped, and that image no longer changes it.
pub unsafe fn adopt(base: HostPhys) {
    *ARENA.lock() = Some(Arena::adopt(base, MachineTable { base }));
}

/// Does something with the arena; `None` before there is one.
pub fn with<R>(f: impl FnOnce(&mut Arena<MachineTable>) -> R) -> Option<R> {
    ARENA.lock().as_mut().map(f)
}

/// `count` contiguous zeroed frames.
pub fn allocate(count: usize, tag: FrameTag) -> Option<HostPhys> {
    with(|arena| arena.allocate(count, tag)).flatten()
}

/// One owner's frames.
#[derive(Clone, Copy, Debug)]
pub struct ArenaFrames(pub FrameTag);

impl TableMemory for ArenaFrames {
    fn allocate(&mut self) -> Option<HostPhys> {
        allocate(1, self.0)
    }
    fn free(&mut self, frame: HostPhys) {
        let tag = self.0;
        with(|arena| {
            if arena.owner(frame) == Some(tag) {
                arena.free(frame);
            }
        });
    }
    fn read(&self, entry: HostPhys) -> u64 {
        // SAFETY: entries lie in frames of the arena, which is identity mapped; adopted ones were checked against
        // its bounds when their records were read.
        unsafe { (entry.get() as usize as *const u64).read_volatile() }
    }
    fn read_run(&self, first: HostPhys, into: &mut [u64]) {
        for (at, value) in into.iter_mut().enumerate() {
            // SAFETY: as for `read`: consecutive entries of one table.
            *value = unsafe { (first.get() as usize as *const u64).add(at).read_volatile() };
        }
    }
    fn any_low(&self, first: HostPhys, count: u64) -> u64 {
        let low = |index: u64| {
            // SAFETY: as for `read`: consecutive entries of one table.
            unsafe { (first.get() as usize as *const u64).add(2 * index as usize).read_volatile() }
        };
        // Whole tables are looked at in the pause: eight entries in a turn of the loop.
        let mut all = 0;
        let mut index = 0;
        while index + 8 <= count {
            let [a, b, c, d] = [low(index), low(index + 1), low(index + 2), low(index + 3)];
            let [e, f, g, h] = [low(index + 4), low(index + 5), low(index + 6), low(index + 7)];
            all |= (a | b) | (c | d) | (e | f) | (g | h);
            index += 8;
        }
        (index..count).fold(all, |all, index| all | low(index))
    }
    fn write(&mut self, entry: HostPhys, value: u64) {
        // SAFETY: as for `read`. x86 stores are ordered, and volatile keeps the compiler from moving them.
        unsafe { (entry.get() as usize as *mut u64).write_volatile(value) };
    }
    fn update(&mut self, entry: HostPhys, clear: u64, set: u64) -> u64 {
        // SAFETY: as for `read`; everyone who writes it, hardware included, does so in one aligned access.
        let word = unsafe { AtomicU64::from_ptr(entry.get() as usize as *mut u64) };
        let mut old = word.load(Ordering::Relaxed);
        while let Err(now) = word.compare_exchange_weak(old, old & !clear | set, Ordering::AcqRel, Ordering::Relaxed) {
            old = now;
        }
        old
    }
    fn write_pair(&mut self, entry: HostPhys, value: [u64; 2]) {
        let at = entry.get() as usize as *mut [u64; 2];
        // SAFETY: as for `read`; a 16-byte aligned LOCK CMPXCHG16B is one store to hardware (SDM 3A 8.1.2.2). It is repeated
        // until nobody interfered; rbx is reserved by LLVM and therefore saved by hand
        // (the operands name their registers, for a free choice could fall on rbx).
        unsafe {
            let old = at.read_volatile();
            asm!(
                "xchg rbx, rsi",
                "2:",
                "lock cmpxchg16b [rdi]",
                "jne 2b",
                "xchg rbx, rsi",
                in("rdi") at,
                inout("rsi") value[0] => _,
                in("rcx") value[1],
                inout("rax") old[0] => _,
                inout("rdx") old[1] => _,
                options(nostack),
            );
        }
    }
    fn flush(&mut self, address: HostPhys, bytes: u64) {
        let first = address.get() & !63;
        let mut line = first;
        while line < address.get() + bytes {
            // SAFETY: CLFLUSH writes a line of mapped memory back and drops it; contents stay the same.
            unsafe { core::arch::x86_64::_mm_clflush(line as usize as *const u8) };
            line += 64;
        }
        // SAFETY: a fence has no effect but order.
        unsafe { core::arch::x86_64::_mm_mfence() };
    }
}
