//! PVH (Xen, docs/misc/pvh.pandoc): 32-bit protected mode, no paging, EBX points to `hvm_start_info`.
#![expect(unsafe_code, reason = "the entry is assembly; the loader's structures are raw memory")]

use core::arch::global_asm;
use core::ffi::CStr;

/// Bytes of the stack.
const STACK_BYTES: usize = 64 << 10;
/// 2 MiB leaf, writable, present; above the last RAM also uncached.
const LEAF: u32 = 0x83;
const UNCACHED: u32 = 0x1b;
/// The 32-bit PCI window begins here: what lies above is registers.
const DEVICES: u32 = 0xc000_0000;

// One to one for the first 4 GiB, in six pages: PML4, PDPT, four page directories.
global_asm!(
    ".section .note.Xen, \"a\", @note",
    ".balign 4",
    ".long 4",  // bytes of the name
    ".long 4",  // bytes of the description
    ".long 18", // XEN_ELFNOTE_PHYS32_ENTRY
    ".asciz \"Xen\"",
    ".long guest_entry",
    "",
    ".section .bss.boot, \"aw\", @nobits",
    ".balign 4096",
    "guest_tables:",
    ".skip 6 * 4096",
    "guest_stack:",
    ".skip {stack}",
    "",
    ".section .head, \"ax\"",
    ".balign 8",
    "guest_gdt:",
    ".quad 0",
    ".quad 0x00af9b000000ffff", // 0x08: 64-bit code
    ".quad 0x00cf93000000ffff", // 0x10: data
    "guest_gdt_pointer:",
    ".word 23",
    ".long guest_gdt",
    "",
    ".code32",
    ".global guest_entry",
    "guest_entry:",
    "cli",
    "cld",
    "mov edi, offset guest_tables",
    "lea eax, [edi + 0x1003]",
    "mov [edi], eax",
    "lea eax, [edi + 0x2003]",
    "lea edx, [edi + 0x1000]",
    "mov ecx, 4",
    "2:",
    "mov [edx], eax",
    "add eax, 0x1000",
    "add edx, 8",
    "loop 2b",
    "lea edx, [edi + 0x2000]",
    "mov eax, {leaf}",
    "mov ecx, 2048",
    "3:",
    "cmp eax, {devices}",
    "jb 4f",
    "or eax, {uncached}",
    "4:",
    "mov [edx], eax",
    "add eax, 0x200000",
    "add edx, 8",
    "loop 3b",
    // PAE, tables, LME, paging.
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov cr3, edi",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80010001",
    "mov cr0, eax",
    "mov eax, offset guest_gdt_pointer",
    "lgdt [eax]",
    "mov esp, offset guest_stack + {stack}",
    // A far jump in the only way both dialects of the assembler understand.
    "push 0x08",
    "mov eax, offset guest_long",
    "push eax",
    "retf",
    "",
    ".code64",
    "guest_long:",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov edi, ebx",
    "call guest_main",
    "ud2",
    stack = const STACK_BYTES,
    leaf = const LEAF,
    uncached = const UNCACHED,
    devices = const DEVICES,
);

/// Offset of `cmdline_paddr` in `hvm_start_info`.
const COMMAND_LINE: u64 = 24;

/// The kernel's command line.
pub fn command_line(info: u64) -> &'static str {
    // SAFETY: the loader has put its structure below 1 MiB, which is mapped and holds nothing of ours.
    let at = unsafe { ((info + COMMAND_LINE) as *const u64).read_unaligned() };
    if at == 0 {
        return "";
    }
    // SAFETY: likewise; the loader ends the text with a zero.
    unsafe { CStr::from_ptr(at as *const core::ffi::c_char) }.to_str().unwrap_or("")
}
