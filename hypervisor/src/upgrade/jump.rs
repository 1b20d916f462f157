//! The few instructions between two images.
//!
//! A pCPU leaves with a place to come back to, kept in its part of the jump block: until COMMIT the
//! new image may give up, and then it is as if [`leave`] had returned.
#![expect(unsafe_code, reason = "control leaves this image")]

#[cfg(target_os = "none")]
use core::arch::global_asm;
use core::sync::atomic::{AtomicU64, Ordering};

#[cfg(target_os = "none")]
use super::rescue;
use super::rescue::Rescue;

/// Where a pCPU left its image, in the order of `JumpCpu`'s rollback words.
#[derive(Clone, Copy, Debug, Default)]
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

// baton_leave(jump_block, index, entry, *mut WayBack, *mut Rescue): saves what the ABI preserves, notes the way back in the
// block and in the rescue tables, puts those in force, jumps.
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
    "push r8",
    "lea rax, [rip + baton_resume]",
    "mov r9, cr3",
    "mov [rcx], rax",
    "mov [rcx + 8], rsp",
    "mov [rcx + 16], r9",
    "mov [r8 + {way}], rax",
    "mov [r8 + {way} + 8], rsp",
    "mov [r8 + {way} + 16], r9",
    "mov qword ptr [r8 + {armed}], {away}",
    "sub rsp, 16",
    "mov word ptr [rsp], 0xfff",
    "mov [rsp + 2], r8",
    "lidt [rsp]",
    "xor esp, esp",
    "jmp rdx",
    "baton_resume:",
    "pop r8",
    "mov qword ptr [r8 + {armed}], 0",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "cld",
    "ret",
    "baton_return:",
    "cli",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 16]",
    "mov rsp, [rdi + 8]",
    "mov cr3, rcx",
    "jmp rax",
    way = const rescue::WAY,
    armed = const rescue::ARMED,
    away = const rescue::AWAY,
);

#[cfg(target_os = "none")]
unsafe extern "sysv64" {
    fn baton_leave(jump_block: u64, index: u64, entry: u64, way_back: *mut WayBack, rescue: *mut Rescue);
    fn baton_return(way_back: *const WayBack) -> !;
    fn baton_follow_entry();
    fn baton_continue_entry();
    fn baton_warm_call(number: u64, argument: u64) -> !;
    fn baton_resume();
}

/// Where a pCPU goes on in this image when it comes back.
pub fn resume() -> u64 {
    #[cfg(target_os = "none")]
    {
        baton_resume as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

/// Where the CPUs behind the boot CPU enter this image.
pub fn follow_entry() -> u64 {
    #[cfg(target_os = "none")]
    {
        baton_follow_entry as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

/// Where the boot CPU enters this image when it is ready.
pub fn continue_entry() -> u64 {
    #[cfg(target_os = "none")]
    {
        baton_continue_entry as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

/// Ends the sandbox with the hypercall `number`. The image before this one does not come back to it.
///
/// # Safety
/// In the sandbox.
pub unsafe fn warm_call(number: u64, argument: u64) -> ! {
    #[cfg(target_os = "none")]
    // SAFETY: by contract; the hypercall leaves the sandbox.
    unsafe {
        baton_warm_call(number, argument)
    }
    #[cfg(not(target_os = "none"))]
    unreachable!("there is no sandbox on the host: {number:#x}, {argument:#x}")
}

/// pCPU `index` jumps to `entry` of the new image with the jump block's address. Returns only when the
/// new image gave up. The way back is stored at `way_back` and in `rescue` before the jump.
///
/// # Safety
/// Interrupts are off; `entry` is the verified image's, in a slot that is mapped executable; `way_back` and `rescue` are valid for
/// writes, and `rescue` is this pCPU's, prepared; the caller takes the pCPU over again when this returns.
pub unsafe fn leave(jump_block: u64, index: u32, entry: u64, way_back: *mut WayBack, rescue: *mut Rescue) {
    #[cfg(target_os = "none")]
    // SAFETY: by contract.
    unsafe {
        baton_leave(jump_block, u64::from(index), entry, way_back, rescue);
    }
    #[cfg(not(target_os = "none"))]
    let _ = (jump_block, index, entry, way_back, rescue);
}

/// Gives this pCPU back to the image before this one.
///
/// # Safety
/// Before COMMIT; `way_back` is where this pCPU left, and nothing of the old image's has been changed.
pub unsafe fn give_back(way_back: WayBack) -> ! {
    #[cfg(target_os = "none")]
    // SAFETY: by contract; the structure is on this image's stack, which the old tables map until the jump is done.
    unsafe {
        baton_return(&raw const way_back)
    }
    #[cfg(not(target_os = "none"))]
    unreachable!("there is no image before this one on the host: {way_back:?}")
}

/// Prepares this image for the CPUs that follow.
pub fn expect_followers(tables: u64, stacks: u64) {
    AP_STACKS.store(stacks, Ordering::Release);
    AP_TABLES.store(tables, Ordering::Release);
}
