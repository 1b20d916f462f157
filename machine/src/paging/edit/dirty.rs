//! Which memory was written to since the last look.

use super::{Chunk, Edit, Place};
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
        let mut rest = self.touched(place);
        let mut chunk = Chunk::default();
        while chunk.read(self.mem, place, &mut rest) {
            for (at, entry) in chunk.entries().filter(|(_, entry)| format.is_present(*entry)) {
                if !format.is_leaf(entry, level) {
                    self.take_below(place.lower(format, at, entry), run, report);
                } else if entry & format.dirty != 0 {
                    // The same word is where hardware sets bits: nothing else may be lost.
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
                }
            }
        }
    }
}
