//! The domain ids of one unit, as a bitmap.

use super::spec::registers::Capability;
use alloc::vec;
use alloc::vec::Vec;

/// Which domain ids of a unit are in use.
///
/// Id 0 is never given out: units with caching mode tag not-present entries with it
/// (VT-d 6.1), and an entry of zeroes never names a live domain.
#[derive(Debug)]
pub(crate) struct DomainIds {
    words: Vec<u64>,
    limit: u32,
}

impl DomainIds {
    /// All ids that a unit with `capability` has, free.
    pub(crate) fn new(capability: Capability) -> Self {
        // ND = 7 is reserved; ids have 16 bits.
        let limit = 1u32 << (4 + 2 * u32::from(capability.domains().min(6)));
        let mut ids = Self { words: vec![0; limit.div_ceil(64) as usize], limit };
        ids.mark(0, true);
        ids
    }

    /// A free id, now in use.
    pub(crate) fn allocate(&mut self) -> Option<u16> {
        let word = self.words.iter().position(|word| *word != u64::MAX)?;
        let bit = self.words.get(word)?.trailing_ones();
        let id = u16::try_from(word * 64 + bit as usize).ok().filter(|id| u32::from(*id) < self.limit)?;
        self.mark(id, true);
        Some(id)
    }

    /// Marks `id` in use. `false` if it is not free or the unit has no such id.
    pub(crate) fn reserve(&mut self, id: u16) -> bool {
        if u32::from(id) >= self.limit || self.in_use(id) {
            return false;
        }
        self.mark(id, true);
        true
    }

    /// Marks `id` free. Call it only after a domain-selective invalidation of `id`
    /// has completed: the next owner must not find translations of the last.
    pub(crate) fn release_invalidated(&mut self, id: u16) {
        if id != 0 {
            self.mark(id, false);
        }
    }

    /// How many are in use; id 0 does not count.
    pub(crate) fn used(&self) -> u64 {
        let marked: u64 = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
        marked.saturating_sub(1)
    }

    /// Whether `id` is in use.
    pub(crate) fn in_use(&self, id: u16) -> bool {
        self.words.get(usize::from(id / 64)).is_some_and(|word| word & (1 << (id % 64)) != 0)
    }

    fn mark(&mut self, id: u16, used: bool) {
        if let Some(word) = self.words.get_mut(usize::from(id / 64)) {
            let bit = 1 << (id % 64);
            *word = if used { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// VT-d 11.4.2: ND = 0 is 16 domains, ND = 6 is 65,536.
    #[test]
    fn limits() {
        let mut few = DomainIds::new(Capability::new());
        let mut given = Vec::new();
        while let Some(id) = few.allocate() {
            given.push(id);
        }
        assert_eq!(given, (1..16).collect::<Vec<u16>>());
        assert_eq!(few.used(), 15);
        assert!(!few.reserve(16));
        few.release_invalidated(7);
        few.release_invalidated(0);
        assert_eq!((few.allocate(), few.allocate()), (Some(7), None));

        let mut many = DomainIds::new(Capability::new().with_domains(6));
        assert!(many.reserve(0xffff) && !many.reserve(0xffff) && !many.reserve(0));
        assert_eq!(core::iter::from_fn(|| many.allocate()).count(), 65_534);
    }
}
