//! Intel extended page tables: SDM 3C 29.3.2.

use super::format::Format;
use super::kinds::Caching;

/// Read.
const R: u64 = 1 << 0;
/// Write.
const W: u64 = 1 << 1;
/// Execute (for both modes, as long as mode-based execute control is off).
const X: u64 = 1 << 2;
/// Where the memory type of a leaf stands, bits 5:3.
const TYPE_SHIFT: u32 = 3;
/// All of the memory type.
const TYPE: u64 = 7 << TYPE_SHIFT;
/// Uncacheable.
const UC: u64 = 0 << TYPE_SHIFT;
/// Write combining.
const WC: u64 = 1 << TYPE_SHIFT;
/// Write-back.
const WB: u64 = 6 << TYPE_SHIFT;
/// Ignore the guest's PAT.
const IPAT: u64 = 1 << 6;
/// Accessed, written by hardware when EPTP bit 6 asks for it, ignored otherwise.
const A: u64 = 1 << 8;
/// Dirty, likewise.
const D: u64 = 1 << 9;

/// A guest's physical address space under VMX.
///
/// Writable but not readable is a misconfiguration, and execute-only needs a
/// capability: both are refused.
pub static EPT: Format = Format {
    name: "EPT",
    levels: (4, 5),
    canonical: false,
    present: R | W | X,
    table: R | W | X,
    leaf: 0,
    read: R,
    write: W,
    with_write: 0,
    execute: X,
    no_execute: 0,
    permissions: R | W | X,
    caching: [
        (Caching::WriteBack, Some(WB)),
        (Caching::Uncached, Some(UC)),
        (Caching::WriteCombining, Some(WC)),
        (Caching::Coherent, Some(WB | IPAT)),
    ],
    caching_mask: TYPE | IPAT,
    accessed: A,
    dirty: D,
    always_readable: true,
};
