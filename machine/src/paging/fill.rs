//! What a stretch of addresses shall hold, and the tables that hold it.

use super::format::{ENTRIES, Format, span};
use super::kinds::{Caching, LeafSizes, Permissions};
use crate::access::TableMemory;
use crate::addr::{HostPhys, PAGE_SIZE};
use alloc::vec::Vec;
use core::ops::Range;

/// A linear mapping: `at` leads to `to`, and so on upwards.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) at: u64,
    pub(super) to: HostPhys,
    pub(super) permissions: Permissions,
    pub(super) caching: Caching,
}

impl Source {
    /// Where `at` leads. Callers stay within what the mapping covers.
    fn target(&self, at: u64) -> HostPhys {
        HostPhys(self.to.0.wrapping_add(at.wrapping_sub(self.at)))
    }
}

/// What a stretch of addresses shall hold: `inside` within `range`, `outside` elsewhere.
pub(super) struct Fill {
    pub(super) range: Range<u64>,
    pub(super) inside: Option<Source>,
    pub(super) outside: Option<Source>,
}

/// What an entry must be to hold a [`Fill`].
enum Shape {
    Nothing,
    Leaf(Source),
    Table,
}

impl Fill {
    /// `source` in `range`, nothing elsewhere.
    pub(super) fn map(range: Range<u64>, source: Source) -> Self {
        Self { range, inside: Some(source), outside: None }
    }

    fn shape(&self, leafs: LeafSizes, level: u8, base: u64) -> Shape {
        let end = base + span(level);
        let uniform = if self.range.start <= base && end <= self.range.end {
            self.inside
        } else if end <= self.range.start || self.range.end <= base {
            self.outside
        } else {
            // Mixed; at level 1 this cannot be, ranges are in units of 4 KiB.
            return Shape::Table;
        };
        match uniform {
            None => Shape::Nothing,
            Some(source) if leafs.allow(level) && source.target(base).is_aligned(span(level)) => Shape::Leaf(source),
            Some(_) => Shape::Table,
        }
    }

    /// How many tables an entry at `level` for `base` needs below itself.
    pub(super) fn count(&self, leafs: LeafSizes, level: u8, base: u64) -> usize {
        match self.shape(leafs, level, base) {
            Shape::Nothing | Shape::Leaf(_) => 0,
            // Level-1 entries never need more; no need to ask 512 of them.
            Shape::Table if level <= 2 => 1,
            Shape::Table => {
                let lower = (0..ENTRIES).map(|index| self.count(leafs, level - 1, base + index * span(level - 1)));
                lower.fold(1, usize::saturating_add)
            }
        }
    }

    /// The finished entry at `level` for `base`; the tables below it are complete and written back.
    pub(super) fn build<F: Format>(
        &self,
        mem: &mut (impl TableMemory + ?Sized),
        leafs: LeafSizes,
        pool: &mut Vec<HostPhys>,
        level: u8,
        base: u64,
    ) -> u64 {
        match self.shape(leafs, level, base) {
            Shape::Nothing => 0,
            Shape::Leaf(source) => F::leaf(level, source.target(base), source.permissions, source.caching),
            Shape::Table => {
                // The pool holds what `count` said. Should the two ever disagree, an
                // entry stays not present: a fault, never a wrong translation.
                let Some(table) = pool.pop() else { return 0 };
                for index in 0..ENTRIES {
                    let entry = self.build::<F>(mem, leafs, pool, level - 1, base + index * span(level - 1));
                    if entry != 0 {
                        mem.write(HostPhys(table.0 + index * 8), entry);
                    }
                }
                mem.flush(table, PAGE_SIZE);
                F::table(table)
            }
        }
    }
}
