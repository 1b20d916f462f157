//! Where this image lies: the linker's symbols, and the code both entries share.
#![expect(unsafe_code, reason = "linker symbols are extern statics, entries are assembly")]

use core::arch::global_asm;
use core::ptr::addr_of;

use hypervisor::boot_info::ImageLayout;
use hypervisor::mem::layout::{BOOT_STACK_BYTES, SLOT_BYTES};

unsafe extern "C" {
    static __image_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __image_end: u8;
}

/// The layout of the running image, in identity-mapped addresses.
pub fn layout() -> ImageLayout {
    ImageLayout {
        base: addr_of!(__image_start) as u64,
        text_end: addr_of!(__text_end) as u64,
        rodata_end: addr_of!(__rodata_end) as u64,
        end: addr_of!(__image_end) as u64,
    }
}

// Self-relocation, shared by every 64-bit entry. In: rbx = continuation, rdi, rsi = its arguments (kept).
// The linker emits only R_X86_64_RELATIVE, in two forms: *(base + offset) = base + addend, and RELR (ELF gABI, "Relative
// Relocation Table"): *(base + offset) += base, where an even word is an offset, and an odd one has a bit for each of the 63
// words behind the last. What was added already is remembered, so that entering a second time adds nothing. The .bss is
// zeroed here and not by a loader, because a slot that is used again holds what the image before left there.
global_asm!(
    ".section .head.code, \"ax\"",
    ".code64",
    ".balign 8",
    "baton_relocated:",
    ".quad 0",
    ".global baton_relocate",
    "baton_relocate:",
    "cld",
    "lea r8, [rip + __image_start]",
    "lea r9, [rip + __rela_start]",
    "lea r10, [rip + __rela_end]",
    "2:",
    "cmp r9, r10",
    "jae 3f",
    "mov rax, [r9]",
    "mov rdx, [r9 + 16]",
    "add rdx, r8",
    "mov [r8 + rax], rdx",
    "add r9, 24",
    "jmp 2b",
    "3:",
    "mov r11, r8",
    "sub r11, [rip + baton_relocated]",
    "mov [rip + baton_relocated], r8",
    "lea r9, [rip + __relr_start]",
    "lea r10, [rip + __relr_end]",
    "4:",
    "cmp r9, r10",
    "jae 8f",
    "mov rax, [r9]",
    "add r9, 8",
    "test al, 1",
    "jnz 5f",
    "lea rdx, [r8 + rax]",
    "add [rdx], r11",
    "add rdx, 8",
    "jmp 4b",
    "5:",
    "mov rcx, rdx",
    "6:",
    "shr rax, 1",
    "jz 7f",
    "test al, 1",
    "jz 9f",
    "add [rcx], r11",
    "9:",
    "add rcx, 8",
    "jmp 6b",
    "7:",
    "add rdx, 63 * 8",
    "jmp 4b",
    "8:",
    "mov r9, rdi",
    "lea rdi, [rip + __bss_start]",
    "lea rcx, [rip + __bss_end]",
    "sub rcx, rdi",
    "xor eax, eax",
    "rep stosb",
    "mov rdi, r9",
    // The boot stack is the last part of the slot.
    "lea rsp, [r8 + {slot}]",
    "xor ebp, ebp",
    "push rbp",
    "jmp rbx",
    slot = const SLOT_BYTES,
);

const _: () = assert!(BOOT_STACK_BYTES >= 16 << 10);
