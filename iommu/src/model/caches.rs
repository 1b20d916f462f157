//! What the unit remembers until it is told to forget.

use alloc::collections::BTreeMap;

/// A context entry as cached; `None` is a cached absence (caching mode only).
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) did: u16,
    pub(super) root: u64,
    pub(super) levels: u32,
}

/// A translation of one 4 KiB page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) to: u64,
    pub(super) read: bool,
    pub(super) write: bool,
}

/// All caches of the unit.
#[derive(Debug, Default)]
pub(super) struct Caches {
    pub(super) contexts: BTreeMap<u16, Option<Context>>,
    /// By domain id and page number.
    pub(super) pages: BTreeMap<(u16, u64), Option<Page>>,
    /// Paging-structure cache: by domain id, level and address >> shift(level), the table below.
    pub(super) links: BTreeMap<(u16, u32, u64), u64>,
    pub(super) interrupts: BTreeMap<u16, [u64; 2]>,
}

/// Address bits below an entry of `level`.
pub(super) fn shift(level: u32) -> u32 {
    12 + 9 * (level - 1)
}

impl Caches {
    /// Everything but interrupts.
    pub(super) fn forget_translations(&mut self) {
        self.contexts.clear();
        self.pages.clear();
        self.links.clear();
    }

    pub(super) fn forget_context_of(&mut self, did: u16, source: u16) {
        // Absence is tagged with domain id 0.
        let tag = |entry: &Option<Context>| entry.map_or(0, |context| context.did);
        self.contexts.retain(|key, entry| *key != source || tag(entry) != did);
    }

    pub(super) fn forget_contexts_of_domain(&mut self, did: u16) {
        self.contexts.retain(|_, entry| entry.map_or(0, |context| context.did) != did);
    }

    pub(super) fn forget_domain(&mut self, did: u16) {
        self.pages.retain(|(tag, _), _| *tag != did);
        self.links.retain(|(tag, ..), _| *tag != did);
    }

    pub(super) fn forget_pages(&mut self, did: u16, address: u64, mask: u32, leaves_only: bool) {
        let (first, last) = (address >> 12, (address >> 12) + ((1 << mask) - 1));
        self.pages.retain(|(tag, page), _| *tag != did || !(first..=last).contains(page));
        if !leaves_only {
            self.links.retain(|(tag, level, index), _| {
                let (from, to) = (*index << shift(*level), ((*index + 1) << shift(*level)) - 1);
                *tag != did || to >> 12 < first || from >> 12 > last
            });
        }
    }
}
