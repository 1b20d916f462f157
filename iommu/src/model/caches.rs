//! What the unit remembers until it is told to forget.

use alloc::collections::BTreeMap;

/// What cached translations are tagged with: those that a first stage had a part in with the
/// PASID as well, all others with the domain id only (VT-d 6.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tag {
    pub(super) did: u16,
    pub(super) pasid: Option<u32>,
}

/// A page table: its root and levels.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    pub(super) table: u64,
    pub(super) levels: u32,
}

/// What requests are led through: neither table is pass-through, both is nested.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leg {
    pub(super) tag: Tag,
    pub(super) first: Option<Root>,
    pub(super) second: Option<Root>,
    /// Page walks snoop.
    pub(super) snoops: bool,
}

/// A scalable-mode context entry as cached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Directory {
    pub(super) table: u64,
    /// PASIDs below this have a place.
    pub(super) pasids: u32,
    /// Requests with PASID are looked up.
    pub(super) enabled: bool,
}

/// A translation of one 4 KiB page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) to: u64,
    pub(super) read: bool,
    pub(super) write: bool,
}

/// A link between tables: whose it is, whether the second stage's, its level, address >> shift(level).
pub(super) type LinkKey = (Tag, bool, u32, u64);

/// All caches of the unit. `None` is a cached absence (caching mode only).
#[derive(Debug, Default)]
pub(super) struct Caches {
    /// Legacy mode's context entries.
    pub(super) contexts: BTreeMap<u16, Option<Leg>>,
    /// Scalable mode's context entries.
    pub(super) directories: BTreeMap<u16, Option<Directory>>,
    /// PASID entries, by requester id and PASID.
    pub(super) pasids: BTreeMap<(u16, u32), Option<Leg>>,
    /// By tag and page number.
    pub(super) pages: BTreeMap<(Tag, u64), Option<Page>>,
    /// Paging-structure cache: the table below.
    pub(super) links: BTreeMap<LinkKey, u64>,
    pub(super) interrupts: BTreeMap<u16, [u64; 2]>,
}

/// Address bits below an entry of `level`.
pub(super) fn shift(level: u32) -> u32 {
    12 + 9 * (level - 1)
}

/// The domain id of a cached entry. Absence is tagged with 0.
fn did(entry: &Option<Leg>) -> u16 {
    entry.map_or(0, |leg| leg.tag.did)
}

impl Caches {
    /// Everything but interrupts.
    pub(super) fn forget_translations(&mut self) {
        self.forget_contexts();
        self.pasids.clear();
        self.forget_pages_of(|_| true);
    }

    pub(super) fn forget_contexts(&mut self) {
        self.contexts.clear();
        self.directories.clear();
    }

    /// In scalable mode context entries name no domain: only the source counts.
    pub(super) fn forget_context_of(&mut self, domain: u16, source: u16) {
        self.contexts.retain(|key, entry| *key != source || did(entry) != domain);
        self.directories.retain(|key, _| *key != source);
    }

    pub(super) fn forget_contexts_of_domain(&mut self, domain: u16) {
        self.contexts.retain(|_, entry| did(entry) != domain);
        self.directories.clear();
    }

    /// All PASID entries of a domain, or those of one PASID.
    pub(super) fn forget_pasids(&mut self, domain: u16, only: Option<u32>) {
        self.pasids.retain(|(_, pasid), entry| did(entry) != domain || only.is_some_and(|only| only != *pasid));
    }

    pub(super) fn forget_domain(&mut self, domain: u16) {
        self.forget_pages_of(|tag| tag.did == domain);
    }

    pub(super) fn forget_pages_of(&mut self, whose: impl Fn(Tag) -> bool) {
        self.pages.retain(|(tag, _), _| !whose(*tag));
        self.links.retain(|(tag, ..), _| !whose(*tag));
    }

    /// Page-selective within a domain: what a first stage had a part in goes as a whole (VT-d 6.5.2.3).
    pub(super) fn forget_second_stage(&mut self, domain: u16, address: u64, mask: u32, leaves_only: bool) {
        self.forget_pages_of(|tag| tag.did == domain && tag.pasid.is_some());
        self.forget_pages(Tag { did: domain, pasid: None }, address, mask, leaves_only);
    }

    pub(super) fn forget_pages(&mut self, whose: Tag, address: u64, mask: u32, leaves_only: bool) {
        let (first, last) = (address >> 12, (address >> 12) + ((1 << mask) - 1));
        self.pages.retain(|(tag, page), _| *tag != whose || !(first..=last).contains(page));
        if !leaves_only {
            self.links.retain(|(tag, _, level, index), _| {
                let (from, to) = (*index << shift(*level), ((*index + 1) << shift(*level)) - 1);
                *tag != whose || to >> 12 < first || from >> 12 > last
            });
        }
    }
}
