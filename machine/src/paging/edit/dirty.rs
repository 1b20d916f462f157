//! Which memory was written to since the last look.

use super::{Edit, Place};
use crate::paging::flush::Flush;
use crate::paging::format::span;
use core::ops::Range;

impl Edit<'_> {
    /// Reports and clears dirty leaves.
    pub(in crate::paging) fn take_dirty(mut self, report: &mut dyn FnMut(Range<u64>)) -> Flush {
        let mut run = 0..0;
        self.take_below(self.root, &mut run, report);
        if !run.is_empty() {
            report(run);
        }
        self.done()
    }

    /// `run` is what was found last and may go on.
    fn take_below(&mut self, place: Place, run: &mut Range<u64>, report: &mut dyn FnMut(Range<u64>)) {
        let (format, level) = (self.format, place.level);
        let mut touched = self.touched(place);
        while let Some((at, entry)) = self.scan(place, touched.clone(), |at, entry| {
            let wanted = format.is_present(entry) && (!format.is_leaf(entry, level) || entry & format.dirty != 0);
            wanted.then_some((at, entry))
        }) {
            if format.is_leaf(entry, level) {
                // The same bit is what hardware sets: nothing else may be lost.
                self.mem.update(place.entry(at), format.dirty, 0);
                self.mem.flush(place.entry(at), 8);
                self.flush.changed_present = true;
                if run.end != at || run.is_empty() {
                    if !run.is_empty() {
                        report(run.clone());
                    }
                    run.start = at;
                }
                run.end = at + span(level);
            } else {
                self.take_below(place.lower(format, at, entry), run, report);
            }
            touched.start = at + span(level);
        }
    }
}
