//! The tree itself: what it is, and its public changes.

use super::edit::{Change, Edit};
use super::error::PagingError;
use super::fill::Source;
use super::flush::Flush;
use super::format::{ENTRIES, Format};
use super::kinds::{Caching, Holes, LeafSizes, Permissions};
use crate::access::TableMemory;
use crate::addr::{HostPhys, PAGE_SIZE};
use core::ops::Range;

/// Physical addresses end here.
const PHYSICAL_END: u64 = 1 << 52;

/// A page table: a tree of 512-entry tables in memory that hardware walks.
///
/// The value is only a handle. Dropping it frees nothing; see [`destroy`](Self::destroy).
#[derive(Debug)]
pub struct PageTable {
    pub(super) root: HostPhys,
    pub(super) levels: u8,
    pub(super) leafs: LeafSizes,
    pub(super) format: &'static Format,
}

impl PageTable {
    /// An empty tree with a root from `mem`.
    pub fn new(
        mem: &mut dyn TableMemory,
        format: &'static Format,
        levels: u8,
        leafs: LeafSizes,
    ) -> Result<Self, PagingError> {
        Self::check_levels(format, levels)?;
        let root = mem.allocate().ok_or(PagingError::OutOfMemory { tables: 1 })?;
        // A walker that does not snoop must see the zeroes.
        mem.flush(root, PAGE_SIZE);
        Ok(Self { root, levels, leafs, format })
    }

    /// Takes over the tree at `root` without touching it. The caller vouches that
    /// it is a tree of this format and that nobody else changes it.
    pub fn adopt(format: &'static Format, root: HostPhys, levels: u8, leafs: LeafSizes) -> Result<Self, PagingError> {
        Self::check_levels(format, levels)?;
        if !root.is_aligned(PAGE_SIZE) || root.0 >= PHYSICAL_END {
            return Err(PagingError::Root { root });
        }
        Ok(Self { root, levels, leafs, format })
    }

    /// Physical address of the root table.
    #[must_use]
    pub fn root(&self) -> HostPhys {
        self.root
    }

    /// The format of its entries.
    #[must_use]
    pub fn format(&self) -> &'static Format {
        self.format
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
        1 << self.format.input_bits(self.levels)
    }

    /// Maps `bytes` from `at` to `to`, with the largest leaves that fit.
    ///
    /// All three are multiples of 4 KiB. Refuses with `AlreadyMapped` when any part
    /// is mapped, even to the same place.
    pub fn map(
        &mut self,
        mem: &mut dyn TableMemory,
        at: u64,
        to: HostPhys,
        bytes: u64,
        permissions: Permissions,
        caching: Caching,
    ) -> Result<Flush, PagingError> {
        let (range, source) = self.check_target(at, to, bytes, permissions, caching)?;
        Edit::new(self, range, mem).map(source)
    }

    /// Unmaps `bytes` from `at`, splitting leaves that stick out of the range.
    /// Tables that become empty are unlinked and wait in the token.
    pub fn unmap(
        &mut self,
        mem: &mut dyn TableMemory,
        at: u64,
        bytes: u64,
        holes: Holes,
    ) -> Result<Flush, PagingError> {
        let range = self.check_range(at, HostPhys(0), bytes)?;
        Edit::new(self, range, mem).change(Change::Unmap, holes)
    }

    /// Gives `bytes` from `at` other permissions, splitting leaves that stick out of
    /// the range. Targets and memory types stay.
    pub fn protect(
        &mut self,
        mem: &mut dyn TableMemory,
        at: u64,
        bytes: u64,
        permissions: Permissions,
        holes: Holes,
    ) -> Result<Flush, PagingError> {
        let range = self.check_range(at, HostPhys(0), bytes)?;
        if !self.format.accepts(permissions, Caching::WriteBack) {
            return Err(PagingError::Unsupported { format: self.format.name, permissions, caching: None });
        }
        Edit::new(self, range, mem).change(Change::Protect(permissions), holes)
    }

    /// Has `bytes` from `at`, all of which are mapped, lead to `to` instead, with these
    /// permissions and this memory type. All three are multiples of 4 KiB. At every
    /// moment an address leads to the old memory or to the new; until the invalidation
    /// is done, to either.
    ///
    /// What hardware notes of writes to the old memory while this runs may be lost:
    /// whoever must know takes the permission to write away first
    /// ([`protect`](Self::protect)), invalidates, and then looks.
    pub fn replace(
        &mut self,
        mem: &mut dyn TableMemory,
        at: u64,
        to: HostPhys,
        bytes: u64,
        permissions: Permissions,
        caching: Caching,
    ) -> Result<Flush, PagingError> {
        let (range, source) = self.check_target(at, to, bytes, permissions, caching)?;
        Edit::new(self, range, mem).change(Change::Replace(source), Holes::Refuse)
    }

    /// Splits the leaves that `bytes` from `at` touch until none is larger than `leafs` allows.
    /// Nothing leads elsewhere.
    pub fn split(
        &mut self,
        mem: &mut dyn TableMemory,
        at: u64,
        bytes: u64,
        leafs: LeafSizes,
    ) -> Result<Flush, PagingError> {
        let mut range = self.check_range(at, HostPhys(0), bytes)?;
        let leafs = self.leafs.and(leafs);
        // Whole leaves of the largest size that stays.
        range = range.start & !(leafs.largest() - 1)..range.end.next_multiple_of(leafs.largest());
        Edit::new(self, range, mem).change(Change::Split(leafs), Holes::Tolerate)
    }

    /// Puts large leaves, of the sizes that this tree may have, in the place of tables
    /// between `at` and `at + bytes` that say the same with small ones. Nothing leads elsewhere.
    ///
    /// A large leaf is dirty if one of the small ones was. What hardware notes in an
    /// unlinked table until the invalidation is done is lost: not for a range whose
    /// writes are being tracked.
    pub fn merge(&mut self, mem: &mut dyn TableMemory, at: u64, bytes: u64) -> Result<Flush, PagingError> {
        let range = self.check_range(at, HostPhys(0), bytes)?;
        Edit::new(self, range, mem).merge()
    }

    /// Reports which memory was written to since the last call, and starts over.
    ///
    /// `report` gets ranges of addresses in ascending order, a whole leaf at least: one
    /// that sticks out of `bytes` from `at` is reported as a whole. Split large leaves
    /// first to know more. Leaves that this code wrote may be dirty from the start (first
    /// stage, host, NPT): the first call begins the tracking, later ones report.
    ///
    /// Walkers set a dirty bit only where their cache holds none: the invalidation must be
    /// done before writes are noted again, and what a device writes until then counts as
    /// written before. Under VT-d this needs ECAP.SLADS and SLADE of the PASID entry for
    /// the second stage (VT-d 9.8), and ECAP.SMPWC for the first: without page-walk snoop a
    /// unit that must set the bit raises a fault instead.
    pub fn take_dirty(
        &mut self,
        mem: &mut dyn TableMemory,
        at: u64,
        bytes: u64,
        report: &mut dyn FnMut(Range<u64>),
    ) -> Result<Flush, PagingError> {
        let range = self.check_range(at, HostPhys(0), bytes)?;
        Ok(Edit::new(self, range, mem).take_dirty(report))
    }

    /// Frees every table, the root included. No hardware may use the tree any more,
    /// nor hold any of it in a cache. Memory that was mapped is not touched.
    pub fn destroy(self, mem: &mut dyn TableMemory) {
        self.free_below(mem, self.root, self.levels);
    }

    fn free_below(&self, mem: &mut dyn TableMemory, table: HostPhys, level: u8) {
        if level > 1 {
            for index in 0..ENTRIES {
                let entry = mem.read(HostPhys(table.0 + index * 8));
                if self.format.is_present(entry) && !self.format.is_leaf(entry, level) {
                    self.free_below(mem, self.format.table_address(entry), level - 1);
                }
            }
        }
        mem.free(table);
    }

    fn check_levels(format: &Format, levels: u8) -> Result<(), PagingError> {
        if format.has_levels(levels) { Ok(()) } else { Err(PagingError::Levels { format: format.name, levels }) }
    }

    fn check_target(
        &self,
        at: u64,
        to: HostPhys,
        bytes: u64,
        permissions: Permissions,
        caching: Caching,
    ) -> Result<(Range<u64>, Source), PagingError> {
        let range = self.check_range(at, to, bytes)?;
        if to.0.checked_add(bytes).is_none_or(|end| end > PHYSICAL_END) {
            return Err(PagingError::TargetOutOfRange { to, bytes });
        }
        if !self.format.accepts(permissions, caching) {
            return Err(PagingError::Unsupported { format: self.format.name, permissions, caching: Some(caching) });
        }
        Ok((range, Source { at, to, attributes: self.format.attributes(permissions, caching), leafs: self.leafs }))
    }

    fn check_range(&self, at: u64, to: HostPhys, bytes: u64) -> Result<Range<u64>, PagingError> {
        if bytes == 0 || !(at | to.0 | bytes).is_multiple_of(PAGE_SIZE) {
            return Err(PagingError::Misaligned { at, to, bytes });
        }
        match at.checked_add(bytes) {
            Some(end) if end <= self.limit() => Ok(at..end),
            _ => Err(PagingError::OutOfRange { at, bytes, bits: self.format.input_bits(self.levels) }),
        }
    }
}
