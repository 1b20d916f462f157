//! The hypervisor's own page tables: identity map of what it owns, nothing writable and
//! executable at once, the page below the boot stack unmapped, guest memory not mapped.
#![expect(unsafe_code, reason = "frames of page tables come from the heap; control registers are set")]

use alloc::alloc::{alloc_zeroed, dealloc};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::sync::atomic::{AtomicU64, Ordering};

use hermit_sync::InterruptTicketMutex;
use machine::access::TableMemory;
use machine::addr::{HostPhys, PAGE_SIZE, PAGE_SIZE_2M};
use machine::paging::{Caching, HOST, Holes, LeafSizes, PageTable, PagingError, Permissions};

use super::layout::{AP_TRAMPOLINE, BOOT_STACK_BYTES, GUARD_BYTES, LOAD_BASE, SLOT_BYTES};
use super::window;
use crate::boot_info::ImageLayout;
use crate::cpu;

const EFER: u32 = 0xc000_0080;

/// Frames of tables that only this image uses: from its heap.
pub struct HeapFrames;

const FRAME: Layout = match Layout::from_size_align(PAGE_SIZE as usize, PAGE_SIZE as usize) {
    Ok(layout) => layout,
    Err(_) => panic!("a page is a layout"),
};

impl TableMemory for HeapFrames {
    fn allocate(&mut self) -> Option<HostPhys> {
        // SAFETY: the layout's size is not zero.
        let frame = unsafe { alloc_zeroed(FRAME) };
        (!frame.is_null()).then_some(HostPhys(frame as u64))
    }
    fn free(&mut self, frame: HostPhys) {
        // SAFETY: the contract of the trait: the frame came from `allocate` and nothing refers to it.
        unsafe { dealloc(frame.get() as usize as *mut u8, FRAME) };
    }
    fn read(&self, entry: HostPhys) -> u64 {
        // SAFETY: entries lie in frames from `allocate`, which are identity mapped.
        unsafe { (entry.get() as usize as *const u64).read_volatile() }
    }
    fn write(&mut self, entry: HostPhys, value: u64) {
        // SAFETY: as for `read`.
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
        self.write(HostPhys(entry.get() + 8), value[1]);
        self.write(entry, value[0]);
    }
    fn flush(&mut self, _: HostPhys, _: u64) {}
}

static MAP: InterruptTicketMutex<Option<PageTable>> = InterruptTicketMutex::new(None);
static ROOT: AtomicU64 = AtomicU64::new(0);

/// The physical address of the page tables.
pub fn root() -> u64 {
    ROOT.load(Ordering::Acquire)
}

fn leaf_sizes() -> LeafSizes {
    // 1 GiB leaves: CPUID 8000_0001, EDX 26.
    if cpu::cpuid(0x8000_0001, 0)[3] & 1 << 26 != 0 { LeafSizes::UP_TO_1G } else { LeafSizes::UP_TO_2M }
}

/// Builds the tables with the image, the low MiB's trampoline page and the windows. They count from [`activate`] on.
///
/// # Errors
/// The heap is exhausted.
pub fn build(image: &ImageLayout) -> Result<(), PagingError> {
    let mut memory = HeapFrames;
    let mut table = PageTable::new(&mut memory, &HOST, 4, leaf_sizes())?;
    let slot_end = image.base + SLOT_BYTES;
    let stack = slot_end - BOOT_STACK_BYTES;
    for (from, to, rights) in [
        (image.base, image.text_end, Permissions::READ_EXECUTE),
        (image.text_end, image.rodata_end, Permissions::READ),
        (image.rodata_end, stack - GUARD_BYTES, Permissions::READ_WRITE),
        (stack, slot_end, Permissions::READ_WRITE),
    ] {
        let flush = table.map(&mut memory, from, HostPhys(from), to - from, rights, Caching::WriteBack)?;
        flush.complete(&mut memory);
    }
    let trampoline = HostPhys(AP_TRAMPOLINE);
    table
        .map(&mut memory, AP_TRAMPOLINE, trampoline, PAGE_SIZE, Permissions::READ_WRITE, Caching::WriteBack)?
        .complete(&mut memory);
    // One mapping makes the windows' page table; then its entries belong to `window`.
    table
        .map(&mut memory, window::BASE, HostPhys(image.base), PAGE_SIZE, Permissions::READ, Caching::WriteBack)?
        .complete(&mut memory);
    let windows = last_table(&memory, table.root(), window::BASE);
    memory.write(windows, 0);
    window::init(windows);
    ROOT.store(table.root().get(), Ordering::Release);
    *MAP.lock() = Some(table);
    Ok(())
}

/// Loads the tables on this pCPU.
///
/// # Safety
/// [`build`] succeeded; what is in use besides the image, its heap and its boot stack has been mapped since.
pub unsafe fn activate() {
    adopt_control_registers();
    // SAFETY: code, data, heap and the stack in use are mapped at the addresses they have; the rest by contract.
    unsafe { cpu::control::set_cr3(root()) };
}

/// The page table (level 1) on the path to `address`, all levels of which are present.
fn last_table(memory: &HeapFrames, root: HostPhys, address: u64) -> HostPhys {
    let mut table = root;
    for level in (1..4).rev() {
        let index = address >> (12 + 9 * level) & 0x1ff;
        table = HostPhys(memory.read(HostPhys(table.get() + index * 8)) & 0x000f_ffff_ffff_f000);
    }
    table
}

/// Control registers as the hypervisor wants them on every pCPU: write protection for itself, NX, XSAVE for
/// the guests' state, no emulation or lazy switching of the FPU, caches on (CD and NW off: Bochs's BIOS leaves them as at reset).
pub fn adopt_control_registers() {
    let xsave = cpu::cpuid(1, 0)[2] & 1 << 26 != 0;
    let cr4_bits: u64 = 1 << 5 | 1 << 7 | 1 << 9 | 1 << 10 | if xsave { 1 << 18 } else { 0 };
    // SAFETY: PAE and NXE are on already in long mode with these tables; WP, PGE, OSFXSR, OSXMMEXCPT exist on every
    // x86-64, OSXSAVE when CPUID says XSAVE; EM and TS off and NE, MP on change nothing for code that uses no FPU; with CD and NW off
    // memory is cached as the MTRRs say.
    unsafe {
        cpu::control::set_cr0((cpu::control::cr0() | 1 << 16 | 1 << 5 | 1 << 1) & !(1 << 2 | 1 << 3 | 3 << 29));
        cpu::control::set_cr4(cpu::control::cr4() | cr4_bits);
        let efer = cpu::msr::read(EFER);
        cpu::msr::write(EFER, efer | 1 << 11);
    }
}

fn map(at: u64, bytes: u64, rights: Permissions, caching: Caching) -> Result<(), PagingError> {
    let start = at & !(PAGE_SIZE - 1);
    let end = (at + bytes).next_multiple_of(PAGE_SIZE);
    let mut guard = MAP.lock();
    let Some(table) = guard.as_mut() else { return Ok(()) };
    let mut memory = HeapFrames;
    let mut page = start;
    while page < end {
        // What is mapped already stays as it is: tables of the firmware share pages.
        let large = page.is_multiple_of(PAGE_SIZE_2M) && end - page >= PAGE_SIZE_2M;
        let steps: &[u64] = if large { &[PAGE_SIZE_2M, PAGE_SIZE] } else { &[PAGE_SIZE] };
        for step in steps {
            match table.map(&mut memory, page, HostPhys(page), *step, rights, caching) {
                Ok(flush) => flush.complete(&mut memory),
                Err(PagingError::AlreadyMapped { .. }) if *step == PAGE_SIZE => {}
                Err(PagingError::AlreadyMapped { .. }) => continue,
                Err(error) => return Err(error),
            }
            page += step;
            break;
        }
    }
    Ok(())
}

/// Maps memory of ours: the arena, the other slot, a module.
///
/// # Errors
/// The heap is exhausted.
pub fn map_memory(at: HostPhys, bytes: u64, rights: Permissions) -> Result<(), PagingError> {
    map(at.get(), bytes, rights, Caching::WriteBack)
}

/// Maps registers of a device, uncached.
///
/// # Errors
/// The heap is exhausted.
pub fn map_device(at: HostPhys, bytes: u64) -> Result<(), PagingError> {
    map(at.get(), bytes, Permissions::READ_WRITE, Caching::Uncached)
}

/// Changes the rights of mapped memory on this pCPU; others see it when they next load their tables.
///
/// # Errors
/// The range is not mapped, or the heap is exhausted.
pub fn protect(at: u64, bytes: u64, rights: Permissions) -> Result<(), PagingError> {
    let mut guard = MAP.lock();
    let Some(table) = guard.as_mut() else { return Ok(()) };
    let mut memory = HeapFrames;
    let flush = table.protect(&mut memory, at, bytes, rights, Holes::Refuse)?;
    forget_rights();
    flush.complete(&mut memory);
    Ok(())
}

/// The leaf entry that maps `address`, and the bytes it maps; `None` where something on the way is not present or not writable.
fn leaf(memory: &HeapFrames, root: HostPhys, address: u64) -> Option<(HostPhys, u64)> {
    let mut table = root;
    for level in (0..4u32).rev() {
        let entry = HostPhys(table.get() + (address >> (12 + 9 * level) & 0x1ff) * 8);
        let value = memory.read(entry);
        // SDM 3A 4.5: PS, in entries that could also lead to a table, is bit 7.
        if value & PRESENT != 0 && (level == 0 || level < 3 && value & 1 << 7 != 0) {
            return Some((entry, PAGE_SIZE << (9 * level)));
        }
        if value & (PRESENT | WRITABLE) != PRESENT | WRITABLE {
            return None;
        }
        table = HostPhys(value & 0x000f_ffff_ffff_f000);
    }
    None
}

/// SDM 3A 4.5: P and R/W of a paging entry.
const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;

/// The leaf entries that [`make_writable`] makes writable.
static TO_BECOME_WRITABLE: InterruptTicketMutex<Vec<HostPhys>> = InterruptTicketMutex::new(Vec::new());

/// Looks up what [`make_writable`] will have to write, so that it takes neither memory nor time then.
///
/// # Errors
/// A part of the range is not mapped by leaves of its own.
pub fn prepare_writable(at: u64, bytes: u64) -> Result<(), String> {
    let mut found = Vec::new();
    let mut page = at;
    while page < at + bytes {
        match leaf(&HeapFrames, HostPhys(root()), page) {
            Some((entry, size)) if page.is_multiple_of(size) && size <= at + bytes - page => {
                found.push(entry);
                page += size;
            }
            _ => return Err(format!("{page:#x} is not mapped by a leaf of its own")),
        }
    }
    *TO_BECOME_WRITABLE.lock() = found;
    Ok(())
}

/// Makes the range of [`prepare_writable`] writable on this pCPU.
pub fn make_writable() {
    let mut memory = HeapFrames;
    for entry in TO_BECOME_WRITABLE.lock().iter() {
        memory.update(*entry, 0, WRITABLE);
    }
    forget_rights();
}

/// Drops what this pCPU remembers of the tables.
pub fn forget_rights() {
    // SAFETY: the tables that are in force.
    unsafe { cpu::control::set_cr3(root()) };
}

/// The trampoline page has its code: from now on it is executable and no longer writable, but for the counter,
/// which the starting CPUs reach before they load anything else.
pub fn make_trampoline_executable() {
    // The counter lies in the code's page, so for the moments of the start it is both.
    if let Err(error) = protect(AP_TRAMPOLINE, PAGE_SIZE, Permissions::ALL) {
        log::error!("the trampoline page can't be made executable: {error}");
    }
}

/// All application processors have left the trampoline.
pub fn retire_trampoline() {
    if let Err(error) = protect(AP_TRAMPOLINE, PAGE_SIZE, Permissions::READ) {
        log::error!("the trampoline page can't be protected: {error}");
    }
}

const _: () = assert!(LOAD_BASE.is_multiple_of(PAGE_SIZE_2M));
