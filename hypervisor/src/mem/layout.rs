//! The constants of Baton's own memory.
//!
//! An image slot, from its first byte: the image file, its bss, the heap, the boot page
//! tables (power-on only), the boot stack of pCPU 0. Two slots take turns.

/// Where a multiboot loader puts the image: the first slot of the first generation.
pub const LOAD_BASE: u64 = 0x20_0000;
/// Bytes of an image slot.
pub const SLOT_BYTES: u64 = 8 << 20;
/// The stack of pCPU 0 at the slot's end.
pub const BOOT_STACK_BYTES: u64 = 256 << 10;
/// The page below the boot stack stays unmapped.
pub const GUARD_BYTES: u64 = 4096;
/// Six boot page tables below the guard page, as an offset in the slot.
pub const BOOT_TABLES_OFFSET: u64 = SLOT_BYTES - BOOT_STACK_BYTES - GUARD_BYTES - 6 * 4096;
/// The page that application processors start in; below 1 MiB, as a SIPI demands.
pub const AP_TRAMPOLINE: u64 = 0x8000;
/// Bytes of the handover arena: tables, records, whatever the next image must find.
pub const ARENA_BYTES: u64 = 8 << 20;
/// Bytes of the scratch region: promised to the next image, never preserved. The jump block lies in it.
/// Behind it, for each pCPU, the stacks of the exception handlers that are in force from SWITCH to COMMIT.
pub const SCRATCH_BYTES: u64 = 512 << 10;
/// Bytes of these stacks per pCPU: two of 512, one for NMIs.
pub const RESCUE_STACK_BYTES: u64 = 1 << 10;

const _: () = assert!(
    handover::jump::STACKS_OFFSET + RESCUE_STACK_BYTES * handover::jump::PCPUS as u64 <= SCRATCH_BYTES,
    "the exception stacks of all pCPUs lie in the scratch"
);
