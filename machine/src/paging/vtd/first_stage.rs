//! VT-d first-stage tables (scalable mode): VT-d 9.7.

use crate::paging::format::Format;
use crate::paging::host::{A, D, P, RW, US};
use crate::paging::kinds::Caching;

/// A device's address space, from Iova to host physical addresses, in the CPU's own
/// shape.
///
/// - U/S at every level: requests without a PASID, and those with one that do not ask
///   for supervisor privilege, are user requests (VT-d 3.6.1).
/// - Memory cannot be made unreadable.
/// - Accessed and dirty are set from the start: a unit sets them with an atomic
///   access that needs snooped table walks (ECAP.SMPWC) and is a fault where it
///   cannot be had; and a walker that never writes leaves a checksum over the tables
///   alone. [`PageTable::take_dirty`](super::super::PageTable::take_dirty) clears dirty.
/// - EA (bit 10) stays clear: it is ignored as long as EAFE of the PASID entry is.
/// - Execute-disable stays clear: it is reserved unless the PASID entry enables it, and
///   devices do not fetch. G, PWT, PCD and PAT stay clear as well: the memory type
///   is the PASID entry's business, as is forced snooping (PGSNP), so every kind of
///   [`Caching`] encodes as nothing.
/// - Addresses must be canonical (VT-d 3.6), and only the lower half is used.
pub static VTD_FIRST_STAGE: Format = Format {
    name: "VT-d first stage",
    levels: (4, 5),
    canonical: true,
    present: P,
    table: P | RW | US | A,
    leaf: P | US | A,
    read: 0,
    write: RW,
    with_write: D,
    execute: 0,
    no_execute: 0,
    // Dirty stays when the permission goes: it was written to.
    permissions: RW,
    caching: [
        (Caching::WriteBack, Some(0)),
        (Caching::Uncached, Some(0)),
        (Caching::WriteCombining, Some(0)),
        (Caching::Coherent, Some(0)),
    ],
    caching_mask: 0,
    accessed: A,
    dirty: D,
    always_readable: true,
};
