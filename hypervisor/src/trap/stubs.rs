//! 256 entry points. Each pushes its vector (and a zero where the CPU pushes no error
//! code) and joins the common path, which saves the registers and calls `dispatch`.
#![cfg_attr(target_os = "none", expect(unsafe_code, reason = "the entry points are assembly"))]

#[cfg(target_os = "none")]
use core::arch::global_asm;

/// Bytes from one entry point to the next.
pub const STRIDE: u64 = 16;

// Exceptions with an error code: 8, 10-14, 17, 21, 29, 30 (APM2 8.1, SDM 3A 6.3.1).
#[cfg(target_os = "none")]
global_asm!(
    ".section .text.stubs, \"ax\"",
    ".balign 16",
    ".global baton_trap_stubs",
    "baton_trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)",
    "push vector",
    ".else",
    "push 0",
    "push vector",
    ".endif",
    "jmp baton_trap_common",
    ".set vector, vector + 1",
    ".endr",
    "baton_trap_common:",
    // The error code lies above the vector; Frame wants the vector first.
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "push rbp",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "cld",
    "mov rdi, rsp",
    "mov rbp, rsp",
    "and rsp, -16",
    "call {dispatch}",
    "mov rsp, rbp",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rbp",
    "pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    dispatch = sym super::dispatch::dispatch,
);

#[cfg(target_os = "none")]
unsafe extern "C" {
    fn baton_trap_stubs();
}

/// The first entry point.
pub fn first() -> u64 {
    #[cfg(target_os = "none")]
    {
        baton_trap_stubs as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}
