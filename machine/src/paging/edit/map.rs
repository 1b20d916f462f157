//! Mapping onto nothing.

use super::{Edit, Place};
use crate::paging::error::PagingError;
use crate::paging::fill::{Fill, Shape, Source};
use crate::paging::flush::Flush;
use crate::paging::format::span;

impl Edit<'_> {
    /// Maps the range as `source` says.
    pub(in crate::paging) fn map(mut self, source: Source) -> Result<Flush, PagingError> {
        let fill = Fill { range: self.range.clone(), inside: Some(source), outside: None };
        self.plan_map(&fill, self.root)?;
        self.reserve()?;
        self.write_map(&fill, self.root);
        Ok(self.done())
    }

    fn plan_map(&mut self, fill: &Fill, place: Place) -> Result<(), PagingError> {
        let Place { level, .. } = place;
        let format = self.format;
        let mut touched = self.touched(place);
        if level == 1 {
            // Nothing to count, and most of the entries there are.
            let taken = self.scan(place, touched, |at, entry| format.is_present(entry).then_some(at));
            return taken.map_or(Ok(()), |at| Err(PagingError::AlreadyMapped { at }));
        }
        while let Some((at, entry)) =
            self.scan(place, touched.clone(), |at, entry| format.is_present(entry).then_some((at, entry)))
        {
            let missing = fill.count(level, touched.start, at);
            self.needs.tables = self.needs.tables.saturating_add(missing);
            if format.is_leaf(entry, level) {
                return Err(PagingError::AlreadyMapped { at: self.first(at) });
            }
            self.plan_map(fill, place.lower(format, at, entry))?;
            touched.start = at + span(level);
        }
        let missing = fill.count(level, touched.start, touched.end);
        self.needs.tables = self.needs.tables.saturating_add(missing);
        Ok(())
    }

    fn write_map(&mut self, fill: &Fill, place: Place) {
        let Place { level, .. } = place;
        let format = self.format;
        let mut touched = self.touched(place);
        while touched.start < touched.end {
            // Up to the next table that is there; the plan found no leaf.
            let linked = if level == 1 {
                None
            } else {
                self.scan(place, touched.clone(), |at, entry| format.is_present(entry).then_some((at, entry)))
            };
            let end = linked.map_or(touched.end, |(at, _)| at);
            self.write_absent(fill, place, touched.start, end);
            touched.start = end;
            if let Some((at, entry)) = linked {
                self.write_map(fill, place.lower(format, at, entry));
                touched.start = at + span(level);
            }
        }
    }

    /// Entries from `at` to `end`, none of which is present.
    fn write_absent(&mut self, fill: &Fill, place: Place, mut at: u64, end: u64) {
        let Place { level, .. } = place;
        while at < end {
            let (shape, mut count) = fill.shape(level, at, end);
            match shape {
                Shape::Nothing => {}
                Shape::Leaf(source) => {
                    let first = self.format.entry(level, source.target(at), source.attributes);
                    self.store_run(place.entry(at), count, first, span(level));
                }
                Shape::Table => {
                    let link = self.build(fill, level - 1, at);
                    self.store_run(place.entry(at), 1, link, 0);
                    count = 1;
                }
            }
            at += count * span(level);
        }
    }
}
