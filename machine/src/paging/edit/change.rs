//! Changing what is mapped, by one store for each entry that changes.

use super::{Chunk, Edit, Place};
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
        let touched = self.touched(place);
        if level == 1 {
            return self.plan_leaves(to, holes, place, touched);
        }
        if touched.end - touched.start == span(level) {
            let old = self.mem.read(place.entry(touched.start));
            return self.plan_entry(to, holes, place, touched.start, old);
        }
        let mut rest = touched;
        let mut chunk = Chunk::default();
        while chunk.read(self.mem, place, &mut rest) {
            for (at, old) in chunk.entries() {
                self.plan_entry(to, holes, place, at, old)?;
            }
        }
        Ok(())
    }

    /// An entry above level 1.
    fn plan_entry(&mut self, to: Change, holes: Holes, place: Place, at: u64, old: u64) -> Result<(), PagingError> {
        let format = self.format;
        if !format.is_present(old) {
            return match holes {
                Holes::Tolerate => Ok(()),
                Holes::Refuse => Err(PagingError::NotMapped { at: self.first(at) }),
            };
        }
        if format.is_leaf(old, place.level) {
            return self.plan_leaf(to, place.level, at, old);
        }
        // Each table below may have to wait in the token.
        self.needs.unlinked = self.needs.unlinked.saturating_add(1);
        self.plan_change(to, holes, place.lower(format, at, old))
    }

    /// Level-1 entries lie in the range as a whole and need no tables.
    fn plan_leaves(&self, to: Change, holes: Holes, place: Place, touched: Range<u64>) -> Result<(), PagingError> {
        let format = self.format;
        let unknown = if matches!(to, Change::Protect(_)) { format.unknown_bits() } else { 0 };
        if unknown == 0 {
            // Hundreds of thousands of entries: one bit each, or none.
            let hole = match holes {
                Holes::Tolerate => None,
                Holes::Refuse => self.scan(place, touched, |at, entry| (!format.is_present(entry)).then_some(at)),
            };
            return hole.map_or(Ok(()), |at| Err(PagingError::NotMapped { at }));
        }
        let found = self.scan(place, touched, |at, entry| {
            let present = format.is_present(entry);
            let bad = if present { entry & unknown != 0 } else { holes == Holes::Refuse };
            bad.then_some((at, entry, present))
        });
        match found {
            None => Ok(()),
            Some((at, entry, true)) => Err(PagingError::Foreign { at, entry }),
            Some((at, _, false)) => Err(PagingError::NotMapped { at }),
        }
    }

    /// A large leaf.
    fn plan_leaf(&mut self, to: Change, level: u8, at: u64, old: u64) -> Result<(), PagingError> {
        let whole = self.covers(at, level);
        if (to.keeps() || !whole) && !self.format.knows(self.format.attributes_of(old, level)) {
            return Err(PagingError::Foreign { at: self.first(at), entry: old });
        }
        // One that goes as a whole needs no table.
        if !(whole && matches!(to, Change::Unmap)) {
            let count = self.refill(old, level, at, to).count(level, at, at + span(level));
            self.needs.tables = self.needs.tables.saturating_add(count);
        }
        Ok(())
    }

    /// Whether an entry was emptied.
    fn write_change(&mut self, to: Change, place: Place) -> bool {
        let touched = self.touched(place);
        if place.level == 1 {
            match to {
                Change::Unmap => self.unmap_leaves(place, touched),
                Change::Protect(permissions) => self.protect_leaves(place, touched, permissions),
                Change::Replace(source) => {
                    let first = self.format.entry(1, source.target(touched.start), source.attributes);
                    let count = (touched.end - touched.start) / span(1);
                    self.store_run(place.entry(touched.start), count, first, span(1));
                    self.flush.changed_present = true;
                }
                Change::Split(_) => {}
            }
            return matches!(to, Change::Unmap);
        }
        if touched.end - touched.start == span(place.level) {
            let old = self.mem.read(place.entry(touched.start));
            return self.write_entry(to, place, touched.start, old);
        }
        let mut rest = touched;
        let mut chunk = Chunk::default();
        let mut emptied = false;
        while chunk.read(self.mem, place, &mut rest) {
            for (at, old) in chunk.entries() {
                emptied |= self.write_entry(to, place, at, old);
            }
        }
        emptied
    }

    /// An entry above level 1; whether it was emptied.
    fn write_entry(&mut self, to: Change, place: Place, at: u64, old: u64) -> bool {
        if !self.format.is_present(old) {
            false
        } else if self.format.is_leaf(old, place.level) {
            self.change_leaf(to, place, at, old)
        } else {
            self.change_table(to, place, at, old)
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

    /// Likewise.
    fn protect_leaves(&mut self, place: Place, touched: Range<u64>, permissions: Permissions) {
        let format = self.format;
        let (known, bits) = (format.permissions, format.permission_bits(permissions));
        let mut rest = touched;
        let mut chunk = Chunk::default();
        while chunk.read(self.mem, place, &mut rest) {
            let mut changed = false;
            for (at, old) in chunk.entries() {
                let new = old & !known | bits;
                if format.is_present(old) && (new ^ old) & !format.hardware_bits() != 0 {
                    // What hardware notes at this moment is kept.
                    self.mem.update(place.entry(at), old & !new, new & !old);
                    changed = true;
                }
            }
            if changed {
                self.mem.flush(place.entry(chunk.base), chunk.count as u64 * 8);
                self.flush.changed_present = true;
            }
        }
    }

    fn change_leaf(&mut self, to: Change, place: Place, at: u64, old: u64) -> bool {
        let Place { level, .. } = place;
        let format = self.format;
        let fill = self.refill(old, level, at, to);
        let new = self.entry_for(&fill, level, at);
        if (new ^ old) & !format.hardware_bits() == 0 {
            return false;
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
        !format.is_present(new)
    }

    fn change_table(&mut self, to: Change, place: Place, at: u64, old: u64) -> bool {
        let format = self.format;
        let lower = place.lower(format, at, old);
        let whole = to.drops_tables() && self.covers(at, place.level);
        if whole {
            // One store takes away the whole subtree, whose tables stay intact
            // for walkers that are still in them.
            let unlinked = &mut self.flush.unlinked;
            tables_below(format, self.mem, lower.table, lower.level, &mut |frame| unlinked.push(frame));
        } else {
            let emptied = self.write_change(to, lower);
            if !emptied || !self.is_empty(lower) {
                return false;
            }
            self.flush.unlinked.push(lower.table);
        }
        self.store_run(place.entry(at), 1, 0, 0);
        self.flush.changed_present = true;
        self.flush.changed_structure = true;
        true
    }

    /// Whether nothing is left of a table of which not all was in the range.
    fn is_empty(&self, place: Place) -> bool {
        let present = |_, entry| self.format.is_present(entry).then_some(());
        let touched = self.touched(place);
        let (before, behind) = (place.base..touched.start, touched.end..place.end());
        // What is taken away a page at a time mostly has a neighbour that stays.
        let last = before.end.saturating_sub(span(place.level)).max(before.start)..before.end;
        // In the range itself only tables can be left.
        let inside = if place.level == 1 { 0..0 } else { touched };
        let mut parts = [last, behind, before, inside].into_iter().filter(|part| !part.is_empty());
        parts.all(|part| self.scan(place, part, present).is_none())
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
