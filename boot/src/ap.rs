//! The real-mode start of application processors (SDM 3A 8.4.4; APM2 15.27.8 for the SIPI).
#![expect(bad_asm_style, reason = "the Intel dialect takes no difference of symbols as an address")]
#![expect(unsafe_code, reason = "the trampoline is assembly, found through symbols")]

use core::arch::global_asm;
use core::ptr::addr_of;

use hypervisor::boot_info::ApTrampoline;
use hypervisor::mem::layout::AP_TRAMPOLINE;

// Copied to AP_TRAMPOLINE and run there: no relocation may be needed, so every address is computed from
// that constant. Long mode is entered in one step, PE and PG together. The mailbox behind the code is filled
// by `hypervisor::smp`: CR3, entry, table of stacks, counter.
global_asm!(
    ".section .rodata.ap, \"a\"",
    ".balign 16",
    ".code16",
    "baton_ap_start:",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    ".att_syntax prefix", // the Intel dialect takes no difference of symbols as an address
    "movl baton_ap_mailbox - baton_ap_start, %eax",
    ".intel_syntax noprefix",
    "mov cr3, eax",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 0x900",
    "wrmsr",
    ".att_syntax prefix",
    "lgdtl baton_ap_gdt_pointer - baton_ap_start",
    ".intel_syntax noprefix",
    "mov eax, cr0",
    "and eax, 0x9fffffff", // caches on: CD and NW are set after INIT
    "or eax, 0x80010001",
    "mov cr0, eax",
    ".byte 0x66, 0xea", // ljmp 0x08, 32-bit offset
    ".long {page} + (baton_ap_long - baton_ap_start)",
    ".word 0x08",
    ".code64",
    "baton_ap_long:",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov eax, 1",
    "lock xadd dword ptr [rip + baton_ap_counter], eax",
    "mov edi, eax",
    "mov rdx, [rip + baton_ap_stacks]",
    "mov rsp, [rdx + rdi * 8]",
    "xor ebp, ebp",
    "push rbp",
    "jmp [rip + baton_ap_entry]",
    ".balign 8",
    "baton_ap_gdt:",
    ".quad 0",
    ".quad 0x00af9b000000ffff",
    ".quad 0x00cf93000000ffff",
    "baton_ap_gdt_pointer:",
    ".word 23",
    ".long {page} + (baton_ap_gdt - baton_ap_start)",
    ".balign 8",
    "baton_ap_mailbox:",
    ".quad 0",
    "baton_ap_entry:",
    ".quad 0",
    "baton_ap_stacks:",
    ".quad 0",
    "baton_ap_counter:",
    ".quad 0",
    "baton_ap_end:",
    page = const AP_TRAMPOLINE,
);

unsafe extern "C" {
    static baton_ap_start: u8;
    static baton_ap_mailbox: u8;
    static baton_ap_end: u8;
}

/// The code to be copied to [`AP_TRAMPOLINE`] and where its mailbox is.
pub fn trampoline() -> ApTrampoline {
    let start = addr_of!(baton_ap_start);
    let bytes = addr_of!(baton_ap_end) as usize - start as usize;
    ApTrampoline {
        // SAFETY: both symbols bound one read-only block of this image, which is mapped as long as it runs.
        code: unsafe { core::slice::from_raw_parts(start, bytes) },
        mailbox: addr_of!(baton_ap_mailbox) as usize - start as usize,
    }
}
