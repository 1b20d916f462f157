//! A map in one sorted list: as much of `BTreeMap` as Baton uses, in a tenth of its code per type. For what is few and
//! rarely changed: domains, devices, the ways of interrupts.

use alloc::vec::Vec;
use core::ops::{Bound, RangeBounds};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SortedMap<K, V>(Vec<(K, V)>);

impl<K, V> SortedMap<K, V> {
    /// An empty one.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    fn find(&self, key: &K) -> Result<usize, usize> {
        self.0.binary_search_by(|(at, _)| at.cmp(key))
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(key).ok().and_then(|at| self.0.get(at)).map(|(_, value)| value)
    }

    /// Likewise, to change it.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let at = self.find(key).ok()?;
        self.0.get_mut(at).map(|(_, value)| value)
    }

    /// Whether `key` is there.
    #[must_use]
    pub fn contains_key(&self, key: &K) -> bool {
        self.find(key).is_ok()
    }

    /// Puts `value` in the place of `key`; what was there before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(at) => self.0.get_mut(at).map(|(_, old)| core::mem::replace(old, value)),
            Err(at) => {
                self.0.insert(at, (key, value));
                None
            }
        }
    }

    /// Takes `key` out; the value it had.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.find(key).ok().map(|at| self.0.remove(at).1)
    }

    /// Takes the memory for `more` keys now.
    pub fn reserve(&mut self, more: usize) {
        self.0.reserve(more);
    }

    /// Takes out what `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.0.retain_mut(|(key, value)| keep(key, value));
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In ascending order of keys, as all that follow.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// What lies in `keys`.
    pub fn range(&self, keys: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        let first = self.0.partition_point(|(key, _)| match keys.start_bound() {
            Bound::Included(start) => key < start,
            Bound::Excluded(start) => key <= start,
            Bound::Unbounded => false,
        });
        let rest = self.0.get(first..).unwrap_or_default();
        rest.iter().map(|(key, value)| (key, value)).take_while(move |(key, _)| keys.contains(key))
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a, K, V> IntoIterator for &'a SortedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = core::iter::Map<core::slice::Iter<'a, (K, V)>, fn(&'a (K, V)) -> (&'a K, &'a V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    proptest! {
        /// The library's map says the same, whatever happens to both.
        #[test]
        fn as_the_library(steps in prop::collection::vec((0u8..4, 0u8..16, any::<u8>()), 0..64)) {
            let (mut ours, mut theirs) = (SortedMap::new(), BTreeMap::new());
            for (action, key, value) in steps {
                match action {
                    0 | 1 => prop_assert_eq!(ours.insert(key, value), theirs.insert(key, value)),
                    2 if value == 0 => {
                        ours.retain(|at, _| at % 2 == key % 2);
                        theirs.retain(|at, _| at % 2 == key % 2);
                    }
                    2 => prop_assert_eq!(ours.remove(&key), theirs.remove(&key)),
                    _ => {
                        prop_assert_eq!(ours.get(&key), theirs.get(&key));
                        prop_assert_eq!(ours.get_mut(&key), theirs.get_mut(&key));
                        prop_assert_eq!(ours.contains_key(&key), theirs.contains_key(&key));
                        let to = key.max(value % 16);
                        prop_assert!(ours.range(key..=to).eq(theirs.range(key..=to)));
                        prop_assert!(ours.range(key..to).eq(theirs.range(key..to)));
                        prop_assert!(ours.range(..to).eq(theirs.range(..to)));
                    }
                }
                prop_assert_eq!(ours.len(), theirs.len());
                prop_assert!(ours.iter().eq(&theirs) && (&ours).into_iter().eq(&theirs) && ours.values().eq(theirs.values()));
            }
        }
    }
}
