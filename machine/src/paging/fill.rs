//! What a stretch of addresses shall hold, and the tables that hold it.

use super::format::{Attributes, ENTRIES, Format, span};
use super::kinds::LeafSizes;
use crate::access::TableMemory;
use crate::addr::{HostPhys, PAGE_SIZE};
use alloc::vec::Vec;
use core::ops::Range;

/// A linear mapping: `at` leads to `to`, and so on upwards.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) at: u64,
    pub(super) to: HostPhys,
    pub(super) attributes: Attributes,
    /// Sizes that its leaves may have.
    pub(super) leafs: LeafSizes,
}

impl Source {
    /// Whether both say the same of every address.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.attributes == other.attributes && self.to.0.wrapping_sub(self.at) == other.to.0.wrapping_sub(other.at)
    }

    /// Where `at` leads. Callers stay within what the mapping covers.
    pub(super) fn target(&self, at: u64) -> HostPhys {
        HostPhys(self.to.0.wrapping_add(at.wrapping_sub(self.at)))
    }
}

/// What a stretch of addresses shall hold: `inside` within `range`, `outside` elsewhere.
#[derive(Clone)]
pub(super) struct Fill {
    pub(super) range: Range<u64>,
    pub(super) inside: Option<Source>,
    pub(super) outside: Option<Source>,
}

/// What entries must be to hold a [`Fill`].
pub(super) enum Shape {
    Nothing,
    Leaf(Source),
    Table,
}

impl Fill {
    /// What the entry at `level` for `base` must be, and how many from there on, up to
    /// the entry for `end`, must be of that shape.
    pub(super) fn shape(&self, level: u8, base: u64, end: u64) -> (Shape, u64) {
        let (start, stop) = (self.range.start, self.range.end);
        let next = base + span(level);
        let (uniform, last) = if next <= start {
            (self.outside, start)
        } else if stop <= base {
            (self.outside, end)
        } else if start <= base && next <= stop {
            (self.inside, stop)
        } else {
            // Mixed; at level 1 this cannot be, ranges are in units of 4 KiB.
            return (Shape::Table, 1);
        };
        let count = (last.min(end) - base) / span(level);
        match uniform {
            None => (Shape::Nothing, count),
            Some(source) if source.leafs.allow(level) && source.target(base).is_aligned(span(level)) => {
                (Shape::Leaf(source), count)
            }
            Some(_) => (Shape::Table, count),
        }
    }

    /// How many tables the entries at `level` from `base` to `end` need below themselves.
    pub(super) fn count(&self, level: u8, base: u64, end: u64) -> usize {
        let mut tables = 0usize;
        let mut at = base;
        while at < end {
            let (shape, count) = self.shape(level, at, end);
            let next = at + count * span(level);
            match shape {
                Shape::Nothing | Shape::Leaf(_) => {}
                // Level-1 entries never need more; no need to ask 512 of them.
                Shape::Table if level <= 2 => tables = tables.saturating_add(count as usize),
                Shape::Table => {
                    for base in (at..next).step_by(span(level) as usize) {
                        let lower = self.count(level - 1, base, base + span(level));
                        tables = tables.saturating_add(lower).saturating_add(1);
                    }
                }
            }
            at = next;
        }
        tables
    }

    /// A finished table of entries at `level` for `base`, written back as those below it are.
    /// Returns the entry that links it.
    pub(super) fn build(
        &self,
        format: &Format,
        mem: &mut dyn TableMemory,
        pool: &mut Vec<HostPhys>,
        level: u8,
        base: u64,
    ) -> u64 {
        // The pool holds what `count` said. Should the two ever disagree, an
        // entry stays not present: a fault, never a wrong translation.
        let Some(table) = pool.pop() else { return 0 };
        let end = base + span(level) * ENTRIES;
        let mut at = base;
        while at < end {
            let entry = HostPhys(table.0 + (at - base) / span(level) * 8);
            let (shape, mut count) = self.shape(level, at, end);
            match shape {
                Shape::Nothing => {}
                Shape::Leaf(source) => {
                    mem.write_run(entry, count, format.entry(level, source.target(at), source.attributes), span(level));
                }
                Shape::Table => {
                    let link = self.build(format, mem, pool, level - 1, at);
                    mem.write(entry, link);
                    count = 1;
                }
            }
            at += count * span(level);
        }
        mem.flush(table, PAGE_SIZE);
        format.table(table)
    }
}
