//! x86-64 long mode: SDM 3A 4.5, APM2 5.3.

use super::format::Format;
use super::kinds::Caching;

/// Present.
pub(super) const P: u64 = 1 << 0;
/// Writable.
pub(super) const RW: u64 = 1 << 1;
/// User.
pub(super) const US: u64 = 1 << 2;
/// Page-level write-through: bit 0 of the PAT index.
const PWT: u64 = 1 << 3;
/// Page-level cache disable: bit 1 of the PAT index.
const PCD: u64 = 1 << 4;
/// Accessed.
pub(super) const A: u64 = 1 << 5;
/// Dirty.
pub(super) const D: u64 = 1 << 6;
/// No execution.
const NX: u64 = 1 << 63;

/// The hypervisor's own address space.
///
/// - Supervisor only (U/S clear); EFER.NXE must be on.
/// - Uncached is PCD and PWT, entry 3 of the PAT as it is after reset (UC). Nothing
///   else of the PAT is used, so its other entries don't matter.
/// - Accessed and dirty are set from the start: the walker then never writes into
///   tables, which may be mapped read-only. Dirty without writable would be a shadow
///   stack page (SDM 1 17.2.3), so it goes with the permission.
/// - The global bit is never set: a jump to another image is a write to CR3, and it
///   must not leave translations of the old image behind.
/// - Only the lower half of the address space (the identity map) is reachable.
pub static HOST: Format = LONG_MODE;

/// What the host's format and nested paging share.
pub(super) const LONG_MODE: Format = Format {
    name: "host",
    levels: (4, 5),
    canonical: true,
    present: P,
    table: P | RW | A,
    leaf: P | A,
    read: 0,
    write: RW,
    with_write: D,
    execute: 0,
    no_execute: NX,
    permissions: RW | D | NX,
    caching: [
        (Caching::WriteBack, Some(0)),
        (Caching::Uncached, Some(PCD | PWT)),
        (Caching::WriteCombining, None),
        (Caching::Coherent, None),
    ],
    caching_mask: PCD | PWT,
    accessed: A,
    dirty: D,
    always_readable: true,
};
