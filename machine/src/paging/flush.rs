//! What a change leaves to be invalidated, and the frames that wait for it.

use crate::access::TableMemory;
use crate::addr::HostPhys;
use alloc::vec::Vec;
use core::ops::Range;

/// What the caller of a change still owes.
///
/// First invalidate (TLB, nested TLB of every pCPU, IOTLB and device TLB of every
/// unit) whatever may hold [`range`](Self::range), if [`must_invalidate`](Self::must_invalidate)
/// says so; then call [`complete`](Self::complete), which frees the tables that the
/// change unlinked. A token dropped without that leaks the frames: hardware might
/// still walk them, so leaking is the safe side.
#[must_use = "invalidate what it names, then call complete(); dropping it leaks the unlinked tables"]
#[derive(Debug)]
pub struct Flush {
    pub(super) range: Range<u64>,
    pub(super) changed_present: bool,
    pub(super) changed_structure: bool,
    pub(super) unlinked: Vec<HostPhys>,
}

impl Flush {
    /// Nothing changed yet in `range`.
    pub(super) fn of(range: Range<u64>) -> Self {
        Self { range, changed_present: false, changed_structure: false, unlinked: Vec::new() }
    }

    /// The addresses that the change was about, in bytes.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Whether an entry that hardware could have cached was changed.
    ///
    /// If not (a map onto nothing), no invalidation is owed, unless the unit caches
    /// not-present entries (VT-d CAP.CM) or needs its write buffer flushed (CAP.RWBF).
    #[must_use]
    pub fn must_invalidate(&self) -> bool {
        self.changed_present
    }

    /// Whether nothing but leaves changed, so that caches of upper levels may stay
    /// (VT-d 6.5.2.3, invalidation hint).
    #[must_use]
    pub fn only_leaves(&self) -> bool {
        !self.changed_structure
    }

    /// The table frames that the change unlinked. They still hold what they held
    /// when they were linked, and must until the invalidation is done.
    #[must_use]
    pub fn unlinked(&self) -> &[HostPhys] {
        &self.unlinked
    }

    /// Frees the unlinked tables. Call it after the invalidation has completed on
    /// every walker, not after it was merely requested.
    pub fn complete(self, mem: &mut dyn TableMemory) {
        for frame in self.unlinked {
            mem.free(frame);
        }
    }
}
