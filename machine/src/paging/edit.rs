//! Changing a tree in two passes: the first counts and refuses, the second writes
//! and cannot fail.

use super::error::PagingError;
use super::fill::{Fill, Source};
use super::flush::Flush;
use super::format::{ENTRIES, Format, shift, span};
use super::kinds::{Holes, LeafSizes, Permissions};
use super::table::PageTable;
use crate::access::TableMemory;
use crate::addr::HostPhys;
use alloc::vec::Vec;
use core::marker::PhantomData;
use core::ops::Range;

/// What the second pass will need.
#[derive(Default)]
struct Needs {
    tables: usize,
    unlinked: usize,
}

/// One change to one range of a tree.
pub(super) struct Edit<F: Format> {
    root: HostPhys,
    levels: u8,
    leafs: LeafSizes,
    range: Range<u64>,
    format: PhantomData<fn() -> F>,
}

/// One entry of a table that a range touches.
struct Slot {
    /// Where the entry is.
    entry: HostPhys,
    /// The first address it covers.
    base: u64,
}

impl<F: Format> Edit<F> {
    pub(super) fn new(tree: &PageTable<F>, range: Range<u64>) -> Self {
        Self { root: tree.root, levels: tree.levels, leafs: tree.leafs, range, format: PhantomData }
    }

    /// The entries of `table` (at `level`, for `base`) that the range touches.
    fn slots(&self, table: HostPhys, level: u8, base: u64) -> impl Iterator<Item = Slot> + use<F> {
        let from = self.range.start.max(base);
        // The last byte, since an end may be the start of the next table.
        let last = (self.range.end - 1).min(base + (span(level) * ENTRIES - 1));
        let (first, last) = ((from - base) >> shift(level), (last - base) >> shift(level));
        (first..=last).map(move |index| Slot { entry: HostPhys(table.0 + index * 8), base: base + index * span(level) })
    }

    /// The first address of the range within the slot.
    fn first(&self, slot: &Slot) -> u64 {
        self.range.start.max(slot.base)
    }

    fn covers(&self, slot: &Slot, level: u8) -> bool {
        self.range.start <= slot.base && slot.base + span(level) <= self.range.end
    }

    fn flush_token(&self, unlinked: Vec<HostPhys>) -> Flush {
        Flush { range: self.range.clone(), changed_present: false, changed_structure: false, unlinked }
    }

    /// Writes one entry of a live table.
    fn store(mem: &mut (impl TableMemory + ?Sized), entry: HostPhys, value: u64) {
        mem.write(entry, value);
        mem.flush(entry, 8);
    }

    /// Takes everything a change needs, or nothing.
    fn reserve(
        mem: &mut (impl TableMemory + ?Sized),
        needs: &Needs,
    ) -> Result<(Vec<HostPhys>, Vec<HostPhys>), PagingError> {
        let error = PagingError::OutOfMemory { tables: needs.tables };
        let mut pool = Vec::new();
        let mut unlinked = Vec::new();
        pool.try_reserve_exact(needs.tables).map_err(|_| error)?;
        unlinked.try_reserve_exact(needs.unlinked).map_err(|_| error)?;
        while pool.len() < needs.tables {
            match mem.allocate() {
                Some(frame) => pool.push(frame),
                None => {
                    for frame in pool {
                        mem.free(frame);
                    }
                    return Err(error);
                }
            }
        }
        Ok((pool, unlinked))
    }

    /// Maps `fill`.
    pub(super) fn map(self, mem: &mut (impl TableMemory + ?Sized), fill: &Fill) -> Result<Flush, PagingError> {
        let mut needs = Needs::default();
        self.plan_map(mem, fill, &mut needs, self.root, self.levels, 0)?;
        let (mut pool, unlinked) = Self::reserve(mem, &needs)?;
        self.write_map(mem, fill, &mut pool, self.root, self.levels, 0);
        // Empty, unless counting and building disagreed.
        for frame in pool {
            mem.free(frame);
        }
        Ok(self.flush_token(unlinked))
    }

    fn plan_map(
        &self,
        mem: &(impl TableMemory + ?Sized),
        fill: &Fill,
        needs: &mut Needs,
        table: HostPhys,
        level: u8,
        base: u64,
    ) -> Result<(), PagingError> {
        for slot in self.slots(table, level, base) {
            let old = mem.read(slot.entry);
            if !F::is_present(old) {
                needs.tables = needs.tables.saturating_add(fill.count(self.leafs, level, slot.base));
            } else if F::is_leaf(old, level) {
                return Err(PagingError::AlreadyMapped { at: self.first(&slot) });
            } else {
                self.plan_map(mem, fill, needs, F::table_address(old), level - 1, slot.base)?;
            }
        }
        Ok(())
    }

    fn write_map(
        &self,
        mem: &mut (impl TableMemory + ?Sized),
        fill: &Fill,
        pool: &mut Vec<HostPhys>,
        table: HostPhys,
        level: u8,
        base: u64,
    ) {
        for slot in self.slots(table, level, base) {
            let old = mem.read(slot.entry);
            if F::is_present(old) {
                // A table: the plan found no leaf.
                self.write_map(mem, fill, pool, F::table_address(old), level - 1, slot.base);
            } else {
                let new = fill.build::<F>(mem, self.leafs, pool, level, slot.base);
                Self::store(mem, slot.entry, new);
            }
        }
    }

    /// Unmaps the range (`to` is `None`) or gives it other permissions.
    pub(super) fn change(
        self,
        mem: &mut (impl TableMemory + ?Sized),
        to: Option<Permissions>,
        holes: Holes,
    ) -> Result<Flush, PagingError> {
        let mut needs = Needs::default();
        self.plan_change(mem, to, holes, &mut needs, self.root, self.levels, 0)?;
        let (mut pool, unlinked) = Self::reserve(mem, &needs)?;
        let mut flush = self.flush_token(unlinked);
        self.write_change(mem, to, &mut pool, &mut flush, self.root, self.levels, 0);
        for frame in pool {
            mem.free(frame);
        }
        Ok(flush)
    }

    /// What a leaf becomes: other permissions inside the range, itself elsewhere.
    fn refill(&self, old: u64, level: u8, base: u64, to: Option<Permissions>) -> Fill {
        let outside = Source {
            at: base,
            to: F::leaf_address(old, level),
            permissions: F::permissions(old),
            caching: F::caching(old),
        };
        let inside = to.map(|permissions| Source { permissions, ..outside });
        Fill { range: self.range.clone(), inside, outside: Some(outside) }
    }

    #[expect(clippy::too_many_arguments, reason = "a recursion: four say what to do, three where")]
    fn plan_change(
        &self,
        mem: &(impl TableMemory + ?Sized),
        to: Option<Permissions>,
        holes: Holes,
        needs: &mut Needs,
        table: HostPhys,
        level: u8,
        base: u64,
    ) -> Result<(), PagingError> {
        for slot in self.slots(table, level, base) {
            let old = mem.read(slot.entry);
            if !F::is_present(old) {
                if holes == Holes::Refuse {
                    return Err(PagingError::NotMapped { at: self.first(&slot) });
                }
            } else if F::is_leaf(old, level) {
                let keep_nothing = to.is_none() && self.covers(&slot, level);
                if !keep_nothing && !Self::is_ours(old, level) {
                    return Err(PagingError::Foreign { at: self.first(&slot), entry: old });
                }
                let count = self.refill(old, level, slot.base, to).count(self.leafs, level, slot.base);
                needs.tables = needs.tables.saturating_add(count);
            } else {
                // Each table below may have to wait in the token.
                needs.unlinked = needs.unlinked.saturating_add(1);
                self.plan_change(mem, to, holes, needs, F::table_address(old), level - 1, slot.base)?;
            }
        }
        Ok(())
    }

    /// Whether decoding a leaf and encoding it again loses nothing.
    fn is_ours(old: u64, level: u8) -> bool {
        let again = F::leaf(level, F::leaf_address(old, level), F::permissions(old), F::caching(old));
        (again ^ old) & !F::HARDWARE_BITS == 0
    }

    #[expect(clippy::too_many_arguments, reason = "a recursion: four say what to do, three where")]
    fn write_change(
        &self,
        mem: &mut (impl TableMemory + ?Sized),
        to: Option<Permissions>,
        pool: &mut Vec<HostPhys>,
        flush: &mut Flush,
        table: HostPhys,
        level: u8,
        base: u64,
    ) {
        for slot in self.slots(table, level, base) {
            let old = mem.read(slot.entry);
            if !F::is_present(old) {
                continue;
            }
            if F::is_leaf(old, level) {
                let fill = self.refill(old, level, slot.base, to);
                let new = fill.build::<F>(mem, self.leafs, pool, level, slot.base);
                if (new ^ old) & !F::HARDWARE_BITS != 0 {
                    Self::store(mem, slot.entry, new);
                    flush.changed_present = true;
                    flush.changed_structure |= F::is_present(new) && !F::is_leaf(new, level);
                }
                continue;
            }
            let lower = F::table_address(old);
            if to.is_none() && self.covers(&slot, level) {
                // One store takes away the whole subtree, whose tables stay intact
                // for walkers that are still in them.
                PageTable::<F>::tables_below(mem, lower, level - 1, &mut |frame| flush.unlinked.push(frame));
            } else {
                self.write_change(mem, to, pool, flush, lower, level - 1, slot.base);
                if to.is_some() || !Self::is_empty(mem, lower) {
                    continue;
                }
                flush.unlinked.push(lower);
            }
            Self::store(mem, slot.entry, 0);
            flush.changed_present = true;
            flush.changed_structure = true;
        }
    }

    fn is_empty(mem: &(impl TableMemory + ?Sized), table: HostPhys) -> bool {
        (0..ENTRIES).all(|index| !F::is_present(mem.read(HostPhys(table.0 + index * 8))))
    }
}
