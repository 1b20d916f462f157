//! Large leaves in the place of tables that say the same.

use super::{Edit, Place};
use crate::paging::error::PagingError;
use crate::paging::flush::Flush;
use crate::paging::format::span;
use core::cell::Cell;

impl Edit<'_> {
    /// Puts one leaf in the place of each table that lies in the range as a whole and whose
    /// leaves are 512 in a row, from the bottom up.
    pub(in crate::paging) fn merge(mut self) -> Result<Flush, PagingError> {
        self.plan_merge(self.root);
        self.reserve()?;
        self.write_merge(self.root);
        Ok(self.done())
    }

    fn can_merge(&self, at: u64, level: u8) -> bool {
        self.leafs.allow(level) && self.covers(at, level)
    }

    /// Tables, which may all go.
    fn plan_merge(&mut self, place: Place) {
        let (format, level) = (self.format, place.level);
        for at in self.touched(place).step_by(span(level) as usize) {
            let entry = self.mem.read(place.entry(at));
            if format.is_present(entry) && !format.is_leaf(entry, level) {
                self.needs.unlinked = self.needs.unlinked.saturating_add(usize::from(self.can_merge(at, level)));
                if level > 2 {
                    self.plan_merge(place.lower(format, at, entry));
                }
            }
        }
    }

    fn write_merge(&mut self, place: Place) {
        let (format, level) = (self.format, place.level);
        for at in self.touched(place).step_by(span(level) as usize) {
            let entry = self.mem.read(place.entry(at));
            if !format.is_present(entry) || format.is_leaf(entry, level) {
                continue;
            }
            let lower = place.lower(format, at, entry);
            if level > 2 {
                self.write_merge(lower);
            }
            if self.can_merge(at, level)
                && let Some(leaf) = self.merged(lower)
            {
                self.swap(place.entry(at), leaf);
                self.flush.unlinked.push(lower.table);
                self.flush.changed_present = true;
                self.flush.changed_structure = true;
                // Marked between the look at it and the store.
                if self.marks(lower) & !leaf != 0 {
                    self.mem.update(place.entry(at), 0, format.hardware_bits());
                    self.mem.flush(place.entry(at), 8);
                }
            }
        }
    }

    /// The leaf that says what all entries of a table say.
    fn merged(&self, place: Place) -> Option<u64> {
        let (format, level) = (self.format, place.level);
        let first = self.mem.read(place.table);
        let (to, attributes) = (format.leaf_address(first, level), format.attributes_of(first, level));
        if !format.is_present(first) || !to.is_aligned(span(level + 1)) || !format.knows(attributes) {
            return None;
        }
        let differs = self.scan(place, place.base..place.end(), |at, entry| {
            let same = format.is_present(entry)
                && format.is_leaf(entry, level)
                && format.leaf_address(entry, level).0 == to.0 + (at - place.base)
                && format.alike(format.attributes_of(entry, level), attributes);
            (!same).then_some(())
        });
        let leaf = format.entry(level + 1, to, attributes);
        // Touched in one place is touched, as far as a large leaf can tell.
        (differs.is_none()).then(|| leaf | self.marks(place))
    }

    /// What hardware has noted in any entry of a table.
    fn marks(&self, place: Place) -> u64 {
        let found = Cell::new(0);
        let _: Option<()> = self.scan(place, place.base..place.end(), |_, entry| {
            found.set(found.get() | entry);
            None
        });
        found.get() & self.format.hardware_bits()
    }
}
