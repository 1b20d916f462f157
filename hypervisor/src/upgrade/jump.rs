//! The few instructions between two images.
//!
//! The boot CPU jumps with a place to come back to: until COMMIT the new image may give up, and then
//! it is as if [`leave`] had returned. Other CPUs wait in the old image until COMMIT and jump for good.
#![expect(unsafe_code, reason = "control leaves this image")]

#[cfg(target_os = "none")]
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where an image left, for the way back: stack pointer and page tables.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct WayBack {
    /// Address of the code that goes on.
    pub resume: u64,
    /// Stack pointer, with the callee-saved registers on the stack.
    pub stack: u64,
    /// CR3.
    pub tables: u64,
}

/// For CPUs that enter a new image behind the boot CPU: page tables, and the table of stacks by pCPU index.
pub static AP_TABLES: AtomicU64 = AtomicU64::new(0);
/// See [`AP_TABLES`].
pub static AP_STACKS: AtomicU64 = AtomicU64::new(0);

// baton_leave(jump_block, entry, *mut WayBack): saves what the ABI preserves, notes the way back, jumps.
// baton_return(*const WayBack): the new image gives up; runs in the new slot, which the old tables map as well.
#[cfg(target_os = "none")]
global_asm!(
    ".section .text.baton_jump, \"ax\"",
    "baton_leave:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "lea rax, [rip + 2f]",
    "mov [rdx], rax",
    "mov [rdx + 8], rsp",
    "mov rax, cr3",
    "mov [rdx + 16], rax",
    "jmp rsi",
    "2:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    "baton_return:",
    "cli",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 16]",
    "mov rsp, [rdi + 8]",
    "mov cr3, rcx",
    "jmp rax",
);

#[cfg(target_os = "none")]
unsafe extern "sysv64" {
    fn baton_leave(jump_block: u64, entry: u64, way_back: *mut WayBack);
    fn baton_return(way_back: *const WayBack) -> !;
}

/// Jumps to `entry` of the new image with the jump block's address. Returns only when the new image gave up.
/// The way back is stored at `way_back` before the jump.
///
/// # Safety
/// Interrupts are off; `entry` is the verified image's, in a slot that is mapped executable; the caller
/// reloads descriptor tables, GS base and LAPIC when this returns.
pub unsafe fn leave(jump_block: u64, entry: u64, way_back: *mut WayBack) {
    #[cfg(target_os = "none")]
    // SAFETY: by contract.
    unsafe {
        baton_leave(jump_block, entry, way_back);
    }
    #[cfg(not(target_os = "none"))]
    let _ = (jump_block, entry, way_back);
}

/// Gives the machine back to the image before this one.
///
/// # Safety
/// Before COMMIT, on the boot CPU; nothing of the old image's has been changed.
pub unsafe fn give_back(way_back: WayBack) -> ! {
    #[cfg(target_os = "none")]
    // SAFETY: by contract; the structure is on this image's stack, which the old tables map until the jump is done.
    unsafe {
        baton_return(&raw const way_back)
    }
    #[cfg(not(target_os = "none"))]
    unreachable!("there is no image before this one on the host: {way_back:?}")
}

/// Jumps for good: pCPU `index` enters the new image at `entry`.
///
/// # Safety
/// After COMMIT; interrupts are off; `entry` is the new image's entry for CPUs behind the boot CPU.
pub unsafe fn follow(jump_block: u64, entry: u64, index: u32) -> ! {
    // SAFETY: by contract.
    unsafe {
        core::arch::asm!(
            "jmp {entry}",
            entry = in(reg) entry,
            in("rdi") jump_block,
            in("rsi") u64::from(index),
            options(noreturn),
        )
    }
}

/// Prepares this image for the CPUs that follow.
pub fn expect_followers(tables: u64, stacks: u64) {
    AP_STACKS.store(stacks, Ordering::Release);
    AP_TABLES.store(tables, Ordering::Release);
}
