//! Changing what is mapped, by one store for each entry that changes.

use super::{Edit, Place};
use crate::paging::error::PagingError;
use crate::paging::fill::{Fill, Source};
use crate::paging::flush::Flush;
use crate::paging::format::{ENTRIES, span};
use crate::paging::kinds::{Holes, LeafSizes, Permissions};
use crate::paging::walk::tables_below;
use core::ops::Range;

/// What becomes of the leaves in a range.
#[derive(Clone, Copy)]
pub(in crate::paging) enum Change {
    /// Nothing is left of them.
    Unmap,
    /// Other permissions.
    Protect(Permissions),
    /// Other memory.
    Replace(Source),
    /// The same in leaves of these sizes.
    Split(LeafSizes),
}

impl Change {
    /// Whether tables that lie in the range as a whole are of no more use.
    fn drops_tables(self) -> bool {
        matches!(self, Self::Unmap)
    }

    /// Whether something of the old leaf outlives the change inside the range.
    fn keeps(self) -> bool {
        matches!(self, Self::Protect(_) | Self::Split(_))
    }
}

impl Edit<'_> {
    /// Changes whatever is mapped in the range.
    pub(in crate::paging) fn change(mut self, to: Change, holes: Holes) -> Result<Flush, PagingError> {
        self.plan_change(to, holes, self.root)?;
        self.reserve()?;
        self.write_change(to, self.root);
        Ok(self.done())
    }

    /// What the leaf at `at` becomes: changed inside the range, itself elsewhere.
    fn refill(&self, old: u64, level: u8, at: u64, to: Change) -> Fill {
        let format = self.format;
        let (to_memory, attributes) = (format.leaf_address(old, level), format.attributes_of(old, level));
        let itself = Source { at, to: to_memory, attributes, leafs: self.leafs };
        let inside = match to {
            Change::Unmap => None,
            Change::Protect(permissions) => {
                Some(Source { attributes: format.with_permissions(itself.attributes, permissions), ..itself })
            }
            Change::Replace(source) => Some(source),
            Change::Split(leafs) => Some(Source { leafs, ..itself }),
        };
        // What does not change needs no border.
        let same = inside.is_some_and(|inside| inside.same(&itself) && inside.leafs.allow(level));
        let range = if same { 0..u64::MAX } else { self.range.clone() };
        Fill { range, inside, outside: Some(itself) }
    }

    fn plan_change(&mut self, to: Change, holes: Holes, place: Place) -> Result<(), PagingError> {
        let Place { level, .. } = place;
        let format = self.format;
        let mut touched = self.touched(place);
        if level == 1 && (!to.keeps() || matches!(to, Change::Split(_))) {
            // Whatever these entries hold, all of it goes or all of it stays.
            if holes == Holes::Tolerate {
                return Ok(());
            }
            let hole = self.scan(place, touched, |at, entry| (!format.is_present(entry)).then_some(at));
            return hole.map_or(Ok(()), |at| Err(PagingError::NotMapped { at }));
        }
        // Entries that need more than a look: tables, leaves that a table replaces, and errors.
        while let Some((at, old)) = self.scan(place, touched.clone(), |at, entry| {
            let settled = if !format.is_present(entry) {
                holes == Holes::Tolerate
            } else {
                level == 1 && format.knows(format.attributes_of(entry, level))
            };
            (!settled).then_some((at, entry))
        }) {
            if !format.is_present(old) {
                return Err(PagingError::NotMapped { at: self.first(at) });
            }
            if format.is_leaf(old, level) {
                let kept = to.keeps() || !self.covers(at, level);
                if kept && !format.knows(format.attributes_of(old, level)) {
                    return Err(PagingError::Foreign { at: self.first(at), entry: old });
                }
                let count = self.refill(old, level, at, to).count(level, at, at + span(level));
                self.needs.tables = self.needs.tables.saturating_add(count);
            } else {
                // Each table below may have to wait in the token.
                self.needs.unlinked = self.needs.unlinked.saturating_add(1);
                self.plan_change(to, holes, place.lower(format, at, old))?;
            }
            touched.start = at + span(level);
        }
        Ok(())
    }

    fn write_change(&mut self, to: Change, place: Place) {
        let touched = self.touched(place);
        if place.level == 1 {
            match to {
                Change::Unmap => return self.unmap_leaves(place, touched),
                Change::Split(_) => return,
                Change::Protect(_) | Change::Replace(_) => {}
            }
        }
        for at in touched.step_by(span(place.level) as usize) {
            let old = self.mem.read(place.entry(at));
            if !self.format.is_present(old) {
                continue;
            }
            if self.format.is_leaf(old, place.level) {
                self.change_leaf(to, place, at, old);
            } else {
                self.change_table(to, place, at, old);
            }
        }
    }

    /// Level-1 entries: they lie in the range as a whole.
    fn unmap_leaves(&mut self, place: Place, touched: Range<u64>) {
        let format = self.format;
        if self.scan(place, touched.clone(), |_, entry| format.is_present(entry).then_some(())).is_some() {
            self.store_run(place.entry(touched.start), (touched.end - touched.start) / span(1), 0, 0);
            self.flush.changed_present = true;
        }
    }

    fn change_leaf(&mut self, to: Change, place: Place, at: u64, old: u64) {
        let Place { level, .. } = place;
        let format = self.format;
        let fill = self.refill(old, level, at, to);
        let new = self.entry_for(&fill, level, at);
        if (new ^ old) & !format.hardware_bits() == 0 {
            return;
        }
        let linked = format.is_present(new) && !format.is_leaf(new, level);
        if let (Change::Protect(_), false) = (to, linked) {
            // What hardware notes at this moment is kept.
            self.mem.update(place.entry(at), old & !new, new & !old);
            self.mem.flush(place.entry(at), 8);
        } else {
            let last = self.swap(place.entry(at), new);
            if linked && last & !old & format.dirty != 0 {
                // A write through the large leaf since it was read.
                self.mark_dirty(place.lower(format, at, new));
            }
        }
        self.flush.changed_present = true;
        self.flush.changed_structure |= linked;
    }

    fn change_table(&mut self, to: Change, place: Place, at: u64, old: u64) {
        let format = self.format;
        let lower = place.lower(format, at, old);
        let whole = to.drops_tables() && self.covers(at, place.level);
        if whole {
            // One store takes away the whole subtree, whose tables stay intact
            // for walkers that are still in them.
            let unlinked = &mut self.flush.unlinked;
            tables_below(format, self.mem, lower.table, lower.level, &mut |frame| unlinked.push(frame));
        } else {
            self.write_change(to, lower);
            if !to.drops_tables() || !self.is_empty(lower) {
                return;
            }
            self.flush.unlinked.push(lower.table);
        }
        self.store_run(place.entry(at), 1, 0, 0);
        self.flush.changed_present = true;
        self.flush.changed_structure = true;
    }

    fn is_empty(&self, place: Place) -> bool {
        self.scan(place, place.base..place.end(), |_, entry| self.format.is_present(entry).then_some(())).is_none()
    }

    /// Marks every leaf of a table and of those below it.
    fn mark_dirty(&mut self, place: Place) {
        let Place { level, base, .. } = place;
        for at in (0..ENTRIES).map(|index| base + index * span(level)) {
            let entry = self.mem.read(place.entry(at));
            if !self.format.is_present(entry) {
                continue;
            }
            if self.format.is_leaf(entry, level) {
                self.mem.update(place.entry(at), 0, self.format.hardware_bits());
                self.mem.flush(place.entry(at), 8);
            } else {
                self.mark_dirty(place.lower(self.format, at, entry));
            }
        }
    }
}
