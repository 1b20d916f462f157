//! A set of interrupt vectors, laid out as IRR, ISR and TMR are.

/// 256 bits, vector `n` is bit `n % 32` of word `n / 32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet(pub [u32; 8]);

impl VectorSet {
    /// Adds `vector`.
    pub fn insert(&mut self, vector: u8) {
        if let Some(word) = self.0.get_mut(usize::from(vector >> 5)) {
            *word |= 1 << (vector & 31);
        }
    }

    /// Removes `vector`.
    pub fn remove(&mut self, vector: u8) {
        if let Some(word) = self.0.get_mut(usize::from(vector >> 5)) {
            *word &= !(1 << (vector & 31));
        }
    }

    /// Whether `vector` is in the set.
    #[must_use]
    pub fn contains(&self, vector: u8) -> bool {
        self.word(usize::from(vector >> 5)) & (1 << (vector & 31)) != 0
    }

    /// Whether no vector is in the set.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        let [a, b, c, d, e, f, g, h] = self.0;
        a | b | c | d | e | f | g | h == 0
    }

    /// The highest vector of the set.
    #[must_use]
    pub fn highest(&self) -> Option<u8> {
        // Asked often, and mostly there is none.
        if self.is_empty() {
            return None;
        }
        let [a, b, c, d, e, f, g, h] = self.0;
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let highest = |first: u8, pair: u64| (pair != 0).then(|| first + (63 - pair.leading_zeros()) as u8);
        let upper = highest(192, pair(g, h)).or_else(|| highest(128, pair(e, f)));
        upper.or_else(|| highest(64, pair(c, d))).or_else(|| highest(0, pair(a, b)))
    }

    /// Word `index`; zero beyond the eighth.
    #[must_use]
    pub fn word(&self, index: usize) -> u32 {
        self.0.get(index).copied().unwrap_or(0)
    }

    /// Replaces word `index`.
    pub(super) fn set_word(&mut self, index: usize, value: u32) {
        if let Some(word) = self.0.get_mut(index) {
            *word = value;
        }
    }

    /// Adds all of `others`, whose trigger mode is in `level`, keeping `modes` (a TMR) in step.
    pub(super) fn merge(&mut self, others: &Self, level: &Self, modes: &mut Self) {
        for index in 0..8 {
            let added = others.word(index);
            self.set_word(index, self.word(index) | added);
            modes.set_word(index, modes.word(index) & !added | level.word(index) & added);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn highest_of() {
        let mut set = VectorSet::default();
        assert_eq!(set.highest(), None);
        for vector in [0x10, 0xEC, 0x3F, 0x20] {
            set.insert(vector);
        }
        assert_eq!(set.0, [1 << 16, 1 << 31 | 1, 0, 0, 0, 0, 0, 1 << 12]);
        assert_eq!(set.highest(), Some(0xEC));
        set.remove(0xEC);
        assert_eq!(set.highest(), Some(0x3F));
        assert!(set.contains(0x20) && !set.contains(0x21));
    }

    #[test]
    fn highest_of_each() {
        for vector in 0..=255 {
            let mut set = VectorSet::default();
            set.insert(vector);
            assert!(!set.is_empty());
            assert_eq!(set.highest(), Some(vector));
            set.insert(vector / 2);
            assert_eq!(set.highest(), Some(vector));
        }
        assert!(VectorSet::default().is_empty());
    }
}
