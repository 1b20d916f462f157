//! VT-d second-stage tables (legacy mode's only kind): VT-d 9.8.

use crate::paging::format::Format;
use crate::paging::kinds::Caching;

/// Read.
const R: u64 = 1 << 0;
/// Write.
const W: u64 = 1 << 1;
/// Accessed, written by hardware when SLADE of the PASID entry asks for it (ECAP.SLADS), ignored otherwise.
const A: u64 = 1 << 8;
/// Dirty, likewise.
const D: u64 = 1 << 9;
/// Snoop: requests with the no-snoop attribute are snooped all the same. Reserved when ECAP.SC = 0.
const SNP: u64 = 1 << 11;

/// A device's address space, from Iova to host physical addresses.
///
/// Entries carry read, write, the leaf bit and, for [`Caching::Coherent`], SNP; no
/// other bit, because on one unit or another each is reserved. A device's requests
/// have no memory type here and are not instruction fetches: the other kinds of
/// [`Caching`] and [`Permissions::execute`](super::super::Permissions::execute) are
/// accepted and encode as nothing.
pub static VTD_SECOND_STAGE: Format = Format {
    name: "VT-d second stage",
    levels: (3, 5),
    canonical: false,
    present: R | W,
    table: R | W,
    leaf: 0,
    read: R,
    write: W,
    with_write: 0,
    execute: 0,
    no_execute: 0,
    permissions: R | W,
    caching: [
        (Caching::WriteBack, Some(0)),
        (Caching::Uncached, Some(0)),
        (Caching::WriteCombining, Some(0)),
        (Caching::Coherent, Some(SNP)),
    ],
    caching_mask: SNP,
    accessed: A,
    dirty: D,
    always_readable: false,
};
