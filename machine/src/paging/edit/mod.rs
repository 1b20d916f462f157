//! Changing a tree in two passes: the first counts and refuses, the second writes
//! and cannot fail.
//!
//! - `map`: onto nothing
//! - `change`: other permissions, other memory, nothing, or smaller leaves, where something is mapped
//! - `merge`: larger leaves where something is mapped
//! - `dirty`: what hardware noted of writes

mod change;
mod dirty;
mod map;
mod merge;

pub(super) use change::Change;

use super::error::PagingError;
use super::fill::{Fill, Shape};
use super::flush::Flush;
use super::format::{ENTRIES, Format, shift, span};
use super::kinds::LeafSizes;
use super::table::PageTable;
use crate::access::TableMemory;
use crate::addr::HostPhys;
use alloc::vec::Vec;
use core::ops::Range;

/// Entries read at once, at most.
const CHUNK: usize = 64;

/// What the second pass will need.
#[derive(Default)]
struct Needs {
    tables: usize,
    unlinked: usize,
}

/// A table: where it is, the level of its entries, and the first address it covers.
#[derive(Clone, Copy)]
struct Place {
    table: HostPhys,
    level: u8,
    base: u64,
}

impl Place {
    /// Where the entry is that covers `at`.
    fn entry(&self, at: u64) -> HostPhys {
        HostPhys(self.table.0 + (at - self.base) / span(self.level) * 8)
    }

    /// The first address above those that it covers.
    fn end(&self) -> u64 {
        self.base + span(self.level) * ENTRIES
    }

    /// The table that the present entry for `at` links.
    fn lower(&self, format: &Format, at: u64, entry: u64) -> Self {
        Self { table: format.table_address(entry), level: self.level - 1, base: at }
    }
}

/// Entries of a table as they were a moment ago.
#[derive(Clone, Copy)]
struct Chunk {
    values: [u64; CHUNK],
    count: usize,
    base: u64,
    span: u64,
}

impl Default for Chunk {
    fn default() -> Self {
        Self { values: [0; CHUNK], count: 0, base: 0, span: 0 }
    }
}

impl Chunk {
    /// Reads the first entries of `place` for the addresses in `rest`, and takes these off it. False when there are none.
    fn read(&mut self, mem: &dyn TableMemory, place: Place, rest: &mut Range<u64>) -> bool {
        (self.base, self.span) = (rest.start, span(place.level));
        // Few at first: many looks end soon.
        let size = (self.count * 8).clamp(8, CHUNK);
        self.count = (((rest.end - rest.start) >> shift(place.level)) as usize).min(size);
        mem.read_run(place.entry(rest.start), self.values.get_mut(..self.count).unwrap_or_default());
        rest.start += self.count as u64 * self.span;
        self.count > 0
    }

    /// The entries, each with the first address that it covers.
    fn entries(&self) -> impl Iterator<Item = (u64, u64)> {
        let addresses = (0..).map(|index: u64| self.base + index * self.span);
        addresses.zip(self.values.iter().take(self.count).copied())
    }
}

/// One change to one range of a tree.
pub(super) struct Edit<'a> {
    format: &'static Format,
    leafs: LeafSizes,
    root: Place,
    range: Range<u64>,
    mem: &'a mut dyn TableMemory,
    needs: Needs,
    pool: Vec<HostPhys>,
    flush: Flush,
}

impl<'a> Edit<'a> {
    pub(super) fn new(tree: &PageTable, range: Range<u64>, mem: &'a mut dyn TableMemory) -> Self {
        Self {
            format: tree.format,
            leafs: tree.leafs,
            root: Place { table: tree.root, level: tree.levels, base: 0 },
            flush: Flush::of(range.clone()),
            range,
            mem,
            needs: Needs::default(),
            pool: Vec::new(),
        }
    }

    /// The first addresses of the first entry of `place` that the range touches, and of
    /// the first behind it that it does not.
    fn touched(&self, place: Place) -> Range<u64> {
        let from = self.range.start.max(place.base);
        let to = self.range.end.min(place.end());
        let bits = shift(place.level);
        from >> bits << bits..(((to - 1) >> bits) + 1) << bits
    }

    /// The first address of the range in the entry that covers `at` and more.
    fn first(&self, at: u64) -> u64 {
        self.range.start.max(at)
    }

    fn covers(&self, at: u64, level: u8) -> bool {
        self.range.start <= at && at + span(level) <= self.range.end
    }

    /// Reads the entries of `place` for the addresses in `touched`, some at a time, until `visit`
    /// returns something.
    fn scan<T>(&self, place: Place, touched: Range<u64>, mut visit: impl FnMut(u64, u64) -> Option<T>) -> Option<T> {
        if touched.end.saturating_sub(touched.start) == span(place.level) {
            // Without the chunk, whose memory would have to be cleared first.
            return visit(touched.start, self.mem.read(place.entry(touched.start)));
        }
        let mut rest = touched;
        let mut chunk = Chunk::default();
        while chunk.read(self.mem, place, &mut rest) {
            for (at, entry) in chunk.entries() {
                if let Some(found) = visit(at, entry) {
                    return Some(found);
                }
            }
        }
        None
    }

    /// Writes entries of a live table.
    fn store_run(&mut self, first: HostPhys, count: u64, value: u64, step: u64) {
        self.mem.write_run(first, count, value, step);
        self.mem.flush(first, count * 8);
    }

    /// Replaces an entry of a live table that hardware may be about to mark; returns what it held.
    fn swap(&mut self, entry: HostPhys, value: u64) -> u64 {
        let old = self.mem.update(entry, u64::MAX, value);
        self.mem.flush(entry, 8);
        old
    }

    /// Takes everything a change needs, or nothing.
    fn reserve(&mut self) -> Result<(), PagingError> {
        let error = PagingError::OutOfMemory { tables: self.needs.tables };
        self.pool.try_reserve_exact(self.needs.tables).map_err(|_| error)?;
        self.flush.unlinked.try_reserve_exact(self.needs.unlinked).map_err(|_| error)?;
        while self.pool.len() < self.needs.tables {
            match self.mem.allocate() {
                Some(frame) => self.pool.push(frame),
                None => {
                    self.give_back();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Frees what was reserved and not used: nothing, unless counting and building disagreed.
    fn give_back(&mut self) {
        for frame in self.pool.drain(..) {
            self.mem.free(frame);
        }
    }

    fn done(mut self) -> Flush {
        self.give_back();
        self.flush
    }

    fn build(&mut self, fill: &Fill, level: u8, base: u64) -> u64 {
        fill.build(self.format, self.mem, &mut self.pool, level, base)
    }

    /// The finished entry at `level` for `at`, with all that is below it.
    fn entry_for(&mut self, fill: &Fill, level: u8, at: u64) -> u64 {
        match fill.shape(level, at, at + span(level)).0 {
            Shape::Nothing => 0,
            Shape::Leaf(source) => self.format.entry(level, source.target(at), source.attributes),
            Shape::Table => self.build(fill, level - 1, at),
        }
    }
}
