//! Short checked mappings of memory that the hypervisor does not keep mapped: guest
//! memory above all. Each pCPU has one page of address space for it.
#![expect(unsafe_code, reason = "maps, copies and unmaps raw memory")]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use machine::addr::{HostPhys, PAGE_SIZE};

use crate::cpu;
use crate::smp::pcpu;

/// First window; that of pCPU n lies n pages further. Far above any identity mapping.
pub const BASE: u64 = 0x0000_7f00_0000_0000;
/// Windows there are: one page table's worth.
pub const COUNT: u64 = 512;

/// Present, writable, not executable, accessed, dirty (SDM 3A 4.5).
const LEAF: u64 = 1 | 1 << 1 | 1 << 5 | 1 << 6 | 1 << 63;

static TABLE: AtomicU64 = AtomicU64::new(0);

/// Tells where the page table of the windows is.
pub fn init(table: HostPhys) {
    TABLE.store(table.get(), Ordering::Release);
}

#[inline(always)]
fn with_page<R>(frame: HostPhys, f: impl FnOnce(*mut u8) -> R) -> R {
    cpu::without_interrupts(|| {
        let index = u64::from(pcpu::index()) % COUNT;
        let address = BASE + index * PAGE_SIZE;
        let entry = (TABLE.load(Ordering::Acquire) + index * 8) as usize as *mut u64;
        // SAFETY: `init` named the identity-mapped page table that covers BASE; this entry is this pCPU's own and
        // interrupts are off, so nobody else uses it meanwhile.
        unsafe { entry.write_volatile(frame.align_down(PAGE_SIZE).get() | LEAF) };
        cpu::tlb::invalidate(address);
        let result = f(address as usize as *mut u8);
        // SAFETY: as above.
        unsafe { entry.write_volatile(0) };
        cpu::tlb::invalidate(address);
        result
    })
}

/// Copies `buffer.len()` bytes out of physical memory at `from`. The caller has checked whose memory it is.
pub fn read(from: HostPhys, buffer: &mut [u8]) {
    if let (Ok(word), true) = (<&mut [u8; 8]>::try_from(&mut *buffer), from.is_aligned(8)) {
        // An entry of a guest's page table, as it is read several times an exit: one load.
        let offset = (from.get() % PAGE_SIZE) as usize;
        // SAFETY: the window maps the whole page, and an aligned word does not leave it; any bits are a value.
        *word = with_page(from, |page| unsafe { page.add(offset).cast::<u64>().read_volatile() }).to_le_bytes();
        return;
    }
    let offset = (from.get() % PAGE_SIZE) as usize;
    if let (Ok(bytes), true) = (<&mut [u8; 4]>::try_from(&mut *buffer), offset <= PAGE_SIZE as usize - 4) {
        // An instruction that has exited before: one load, wherever it begins.
        // SAFETY: the window maps the whole page, and the bytes do not leave it; any bits are a value.
        *bytes = with_page(from, |page| unsafe { page.add(offset).cast::<[u8; 4]>().read_unaligned() });
        return;
    }
    read_any(from, buffer);
}

#[inline(never)]
fn read_any(from: HostPhys, buffer: &mut [u8]) {
    let mut done = 0;
    while done < buffer.len() {
        let at = HostPhys(from.get() + done as u64);
        let offset = (at.get() % PAGE_SIZE) as usize;
        let count = (buffer.len() - done).min(PAGE_SIZE as usize - offset);
        let part = &mut buffer[done..done + count];
        with_page(at, |page| {
            // SAFETY: the window maps the whole page, offset + count stay inside it. A guest may write meanwhile:
            // bytes are copied as they are, nothing relies on their value.
            unsafe { core::ptr::copy_nonoverlapping(page.add(offset), part.as_mut_ptr(), count) };
        });
        done += count;
    }
}

/// Copies `bytes` to physical memory at `to`. The caller has checked whose memory it is.
pub fn write(to: HostPhys, bytes: &[u8]) {
    let mut done = 0;
    while done < bytes.len() {
        let at = HostPhys(to.get() + done as u64);
        let offset = (at.get() % PAGE_SIZE) as usize;
        let count = (bytes.len() - done).min(PAGE_SIZE as usize - offset);
        let part = &bytes[done..done + count];
        with_page(at, |page| {
            // SAFETY: as in `read`.
            unsafe { core::ptr::copy_nonoverlapping(part.as_ptr(), page.add(offset), count) };
        });
        done += count;
    }
}

/// Fills `bytes` bytes at `at` with zeroes; both are multiples of the page size.
///
/// Uses XMM0, which the hypervisor's own code never does: only while no guest's registers live in this pCPU.
pub fn zero(at: HostPhys, bytes: u64) {
    for page in 0..bytes / PAGE_SIZE {
        with_page(HostPhys(at.get() + page * PAGE_SIZE), |address| {
            // SAFETY: the window maps exactly this page, 32 times 128 bytes. Every x86-64 CPU has SSE2; the stores go past the
            // caches, since nobody reads this memory soon, and SFENCE puts them before whatever follows.
            unsafe {
                asm!(
                    "pxor xmm0, xmm0",
                    "2:",
                    "movntdq [{at}], xmm0",
                    "movntdq [{at} + 16], xmm0",
                    "movntdq [{at} + 32], xmm0",
                    "movntdq [{at} + 48], xmm0",
                    "movntdq [{at} + 64], xmm0",
                    "movntdq [{at} + 80], xmm0",
                    "movntdq [{at} + 96], xmm0",
                    "movntdq [{at} + 112], xmm0",
                    "add {at}, 128",
                    "dec {lines:e}",
                    "jnz 2b",
                    "sfence",
                    at = inout(reg) address => _,
                    lines = inout(reg) 32u32 => _,
                    options(nostack),
                );
            }
        });
    }
}
