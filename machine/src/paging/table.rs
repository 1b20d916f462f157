//! The tree itself: what it is, and its public changes.

use super::edit::Edit;
use super::error::PagingError;
use super::fill::{Fill, Source};
use super::flush::Flush;
use super::format::Format;
use super::kinds::{Caching, Holes, LeafSizes, Permissions};
use crate::access::TableMemory;
use crate::addr::{HostPhys, PAGE_SIZE};
use core::marker::PhantomData;
use core::ops::Range;

/// Physical addresses end here.
const PHYSICAL_END: u64 = 1 << 52;

/// A page table: a tree of 512-entry tables in memory that hardware walks.
///
/// The value is only a handle. Dropping it frees nothing; see [`destroy`](Self::destroy).
#[derive(Debug)]
pub struct PageTable<F: Format> {
    pub(super) root: HostPhys,
    pub(super) levels: u8,
    pub(super) leafs: LeafSizes,
    format: PhantomData<fn() -> F>,
}

impl<F: Format> PageTable<F> {
    /// An empty tree with a root from `mem`.
    pub fn new(mem: &mut (impl TableMemory + ?Sized), levels: u8, leafs: LeafSizes) -> Result<Self, PagingError> {
        Self::check_levels(levels)?;
        let root = mem.allocate().ok_or(PagingError::OutOfMemory { tables: 1 })?;
        // A walker that does not snoop must see the zeroes.
        mem.flush(root, PAGE_SIZE);
        Ok(Self { root, levels, leafs, format: PhantomData })
    }

    /// Takes over the tree at `root` without touching it. The caller vouches that
    /// it is a tree of this format and that nobody else changes it.
    pub fn adopt(root: HostPhys, levels: u8, leafs: LeafSizes) -> Result<Self, PagingError> {
        Self::check_levels(levels)?;
        if !root.is_aligned(PAGE_SIZE) || root.0 >= PHYSICAL_END {
            return Err(PagingError::Root { root });
        }
        Ok(Self { root, levels, leafs, format: PhantomData })
    }

    /// Physical address of the root table.
    #[must_use]
    pub fn root(&self) -> HostPhys {
        self.root
    }

    /// Levels of the tree, 3 to 5.
    #[must_use]
    pub fn levels(&self) -> u8 {
        self.levels
    }

    /// Leaf sizes that new leaves may have.
    #[must_use]
    pub fn leaf_sizes(&self) -> LeafSizes {
        self.leafs
    }

    /// The first address above what the tree translates.
    #[must_use]
    pub fn limit(&self) -> u64 {
        1 << F::input_bits(self.levels)
    }

    /// Maps `bytes` from `at` to `to`, with the largest leaves that fit.
    ///
    /// All three are multiples of 4 KiB. Refuses with `AlreadyMapped` when any part
    /// is mapped, even to the same place.
    pub fn map(
        &mut self,
        mem: &mut (impl TableMemory + ?Sized),
        at: u64,
        to: HostPhys,
        bytes: u64,
        permissions: Permissions,
        caching: Caching,
    ) -> Result<Flush, PagingError> {
        let range = self.check_range(at, to, bytes)?;
        if to.0.checked_add(bytes).is_none_or(|end| end > PHYSICAL_END) {
            return Err(PagingError::TargetOutOfRange { to, bytes });
        }
        if !F::accepts(permissions, caching) {
            return Err(PagingError::Unsupported { format: F::NAME, permissions, caching: Some(caching) });
        }
        let source = Source { at, to, permissions, caching };
        Edit::new(self, range).map(mem, &Fill::map(at..at + bytes, source))
    }

    /// Unmaps `bytes` from `at`, splitting leaves that stick out of the range.
    /// Tables that become empty are unlinked and wait in the token.
    pub fn unmap(
        &mut self,
        mem: &mut (impl TableMemory + ?Sized),
        at: u64,
        bytes: u64,
        holes: Holes,
    ) -> Result<Flush, PagingError> {
        let range = self.check_range(at, HostPhys(0), bytes)?;
        Edit::new(self, range).change(mem, None, holes)
    }

    /// Gives `bytes` from `at` other permissions, splitting leaves that stick out of
    /// the range. Targets and memory types stay.
    pub fn protect(
        &mut self,
        mem: &mut (impl TableMemory + ?Sized),
        at: u64,
        bytes: u64,
        permissions: Permissions,
        holes: Holes,
    ) -> Result<Flush, PagingError> {
        let range = self.check_range(at, HostPhys(0), bytes)?;
        if !F::accepts(permissions, Caching::WriteBack) {
            return Err(PagingError::Unsupported { format: F::NAME, permissions, caching: None });
        }
        Edit::new(self, range).change(mem, Some(permissions), holes)
    }

    /// Frees every table, the root included. No hardware may use the tree any more,
    /// nor hold any of it in a cache. Memory that was mapped is not touched.
    pub fn destroy(self, mem: &mut (impl TableMemory + ?Sized)) {
        self.free_below(mem, self.root, self.levels);
    }

    fn free_below(&self, mem: &mut (impl TableMemory + ?Sized), table: HostPhys, level: u8) {
        if level > 1 {
            for index in 0..super::format::ENTRIES {
                let entry = mem.read(HostPhys(table.0 + index * 8));
                if F::is_present(entry) && !F::is_leaf(entry, level) {
                    self.free_below(mem, F::table_address(entry), level - 1);
                }
            }
        }
        mem.free(table);
    }

    fn check_levels(levels: u8) -> Result<(), PagingError> {
        if levels < F::LEVELS.0 || levels > F::LEVELS.1 {
            return Err(PagingError::Levels { format: F::NAME, levels });
        }
        Ok(())
    }

    fn check_range(&self, at: u64, to: HostPhys, bytes: u64) -> Result<Range<u64>, PagingError> {
        if bytes == 0 || !(at | to.0 | bytes).is_multiple_of(PAGE_SIZE) {
            return Err(PagingError::Misaligned { at, to, bytes });
        }
        match at.checked_add(bytes) {
            Some(end) if end <= self.limit() => Ok(at..end),
            _ => Err(PagingError::OutOfRange { at, bytes, bits: F::input_bits(self.levels) }),
        }
    }
}
