//! Multiboot 1 (version 0.6.96): iPXE on BIOS, GRUB, QEMU `-kernel`.
#![expect(bad_asm_style, reason = "the Intel dialect takes no difference of symbols as an address")]
#![expect(unsafe_code, reason = "the entry is assembly; the loader's structures are raw memory")]

use core::arch::global_asm;

use hypervisor::boot_info::{BootInfo, ColdBoot, MAX_MEMORY_RANGES, MAX_MODULES, MemoryRange, Module, Origin, Text};
use hypervisor::mem::layout::{BOOT_TABLES_OFFSET, LOAD_BASE, SLOT_BYTES};

/// Modules page aligned, memory information wanted, address fields valid.
const HEADER_FLAGS: u32 = 1 << 0 | 1 << 1 | 1 << 16;
const HEADER_MAGIC: u32 = 0x1BAD_B002;
const LOADER_MAGIC: u32 = 0x2BAD_B002;

// The header lies behind the first 64 bytes, which a PE/COFF header will need. `bss_end_addr` claims the
// whole slot, so that the loader puts modules behind it.
//
// The 32-bit code builds an identity map of the first 4 GiB with 2 MiB leaves at the end of the slot and
// enters long mode. Everything is addressed from LOAD_BASE, where the header made the loader put us.
global_asm!(
    ".section .head, \"ax\"",
    "baton_head:",
    ".skip 64",
    ".balign 8",
    "baton_multiboot_header:",
    ".long {magic}",
    ".long {flags}",
    ".long -({magic} + {flags})",
    ".long {load} + (baton_multiboot_header - baton_head)",
    ".long {load}",
    ".long 0",
    ".long {load} + {slot}",
    ".long {load} + (baton_multiboot_entry - baton_head)",
    "",
    ".balign 8",
    "baton_boot_gdt:",
    ".quad 0",
    ".quad 0x00af9b000000ffff", // 0x08: 64-bit code
    ".quad 0x00cf93000000ffff", // 0x10: data
    "baton_boot_gdt_pointer:",
    ".word 23",
    ".long {load} + (baton_boot_gdt - baton_head)",
    "",
    ".code32",
    ".global baton_multiboot_entry",
    "baton_multiboot_entry:",
    "cli",
    "cld",
    "cmp eax, {loader_magic}",
    "jne 9f",
    "mov esi, ebx",
    // PML4, PDPT, four page directories
    "mov edi, {load} + {tables}",
    "mov ecx, 6 * 1024",
    "xor eax, eax",
    "rep stosd",
    "mov edi, {load} + {tables}",
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
    "mov eax, 0x83",
    "mov ecx, 2048",
    "3:",
    "mov [edx], eax",
    "add eax, 0x200000",
    "add edx, 8",
    "loop 3b",
    // PAE, tables, LME + NXE, paging
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov cr3, edi",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 0x900",
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80010001",
    "mov cr0, eax",
    ".att_syntax prefix", // the Intel dialect takes no difference of symbols as an address
    "lgdt {load} + (baton_boot_gdt_pointer - baton_head)",
    ".intel_syntax noprefix",
    // A far jump without a relocation: push selector and offset, retf.
    "mov esp, {load} + {slot}",
    "push 0x08",
    ".att_syntax prefix",
    "pushl ${load} + (baton_multiboot_long - baton_head)",
    ".intel_syntax noprefix",
    "retf",
    "9:",
    "hlt",
    "jmp 9b",
    "",
    ".code64",
    "baton_multiboot_long:",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "xor eax, eax",
    "mov fs, ax",
    "mov gs, ax",
    "mov edi, esi",
    "lea rbx, [rip + {main}]",
    "jmp baton_relocate",
    magic = const HEADER_MAGIC,
    flags = const HEADER_FLAGS,
    loader_magic = const LOADER_MAGIC,
    load = const LOAD_BASE,
    slot = const SLOT_BYTES,
    tables = const BOOT_TABLES_OFFSET,
    main = sym multiboot_main,
);

/// Bits of the information structure's flags that say which fields are valid.
mod valid {
    pub const MODULES: u32 = 1 << 3;
    pub const COMMAND_LINE: u32 = 1 << 2;
    pub const MEMORY_MAP: u32 = 1 << 6;
    pub const LOADER_NAME: u32 = 1 << 9;
}

extern "C" fn multiboot_main(info: u32) -> ! {
    let cold = collect(info);
    hypervisor::run(BootInfo {
        image: crate::image::layout(),
        ap_trampoline: crate::ap::trampoline(),
        note: crate::note::bytes(),
        build_name: crate::note::build_name(),
        fault: crate::note::fault(),
        origin: Origin::Cold(cold),
    })
}

/// Reads a little-endian word of the loader's structures, which lie in the identity-mapped first 4 GiB.
fn word(address: u32) -> u32 {
    // SAFETY: the first 4 GiB are identity mapped here, reading RAM or holes has no side effect, any bit
    // pattern is a u32, and nothing else runs yet.
    unsafe { (address as usize as *const u32).read_unaligned() }
}

fn text(address: u32) -> Text {
    let mut text = Text::default();
    for offset in 0..Text::CAPACITY as u32 {
        let Some(at) = address.checked_add(offset) else { break };
        // SAFETY: as for `word`.
        let byte = unsafe { (at as usize as *const u8).read() };
        if byte == 0 || !text.push(byte) {
            break;
        }
    }
    text
}

fn collect(info: u32) -> ColdBoot {
    let mut cold = ColdBoot::default();
    let flags = word(info);
    if flags & valid::COMMAND_LINE != 0 {
        cold.command_line = text(word(info + 16));
    }
    if flags & valid::LOADER_NAME != 0 {
        cold.loader = text(word(info + 64));
    }
    if flags & valid::MODULES != 0 {
        let count = word(info + 20).min(MAX_MODULES as u32);
        let table = word(info + 24);
        for index in 0..count {
            let at = table.wrapping_add(index * 16);
            let (start, end) = (word(at), word(at.wrapping_add(4)));
            if end > start {
                cold.modules.push(Module {
                    start: u64::from(start),
                    bytes: u64::from(end - start),
                    name: text(word(at.wrapping_add(8))),
                });
            }
        }
    }
    if flags & valid::MEMORY_MAP != 0 {
        let (length, start) = (word(info + 44), word(info + 48));
        let mut at = start;
        for _ in 0..MAX_MEMORY_RANGES {
            if at < start || at - start >= length {
                break;
            }
            // The entry's size field does not count itself.
            let size = word(at);
            if size < 20 {
                break;
            }
            let base = u64::from(word(at + 4)) | u64::from(word(at + 8)) << 32;
            let bytes = u64::from(word(at + 12)) | u64::from(word(at + 16)) << 32;
            cold.memory.push(MemoryRange { base, bytes, kind: word(at + 20) });
            match at.checked_add(size).and_then(|next| next.checked_add(4)) {
                Some(next) => at = next,
                None => break,
            }
        }
    }
    cold
}
