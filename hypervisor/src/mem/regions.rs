//! The machine's memory as ranges with owners. Cold: made from the firmware's map;
//! after an upgrade: taken from the records. Large pieces (slots, the arena, guest
//! memory) are cut from free ranges here; frames inside them are others' business.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use machine::addr::{HostPhys, PAGE_SIZE};

/// Who a range of memory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody: may be handed out.
    Free,
    /// The firmware or a device; never touched.
    Firmware,
    /// The first MiB: the trampoline, the firmware's data.
    Low,
    /// An image slot, 0 or 1.
    Slot(u8),
    /// The handover arena.
    Arena,
    /// Scratch, promised to the next image.
    Scratch,
    /// A boot module, by index.
    Module(u8),
    /// The memory object with this token: a guest's memory.
    Object(u64),
}

/// A range with its owner. Page aligned, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub base: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Whose it is.
    pub owner: Owner,
}

impl Region {
    /// The byte behind the last.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.base + self.bytes
    }
}

/// Why a range could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionError {
    /// The range is empty, unaligned or wraps around.
    Malformed,
    /// Part of the range is unknown or belongs to somebody.
    NotFree,
    /// No free range is large enough.
    Exhausted {
        /// Bytes that were asked for.
        wanted: u64,
        /// The largest free range in bytes.
        largest: u64,
    },
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the range is empty, unaligned or wraps around"),
            Self::NotFree => f.write_str("the range is not free memory"),
            Self::Exhausted { wanted, largest } => write!(
                f,
                "{} MiB are needed in one piece, the largest free range has {} MiB",
                wanted >> 20,
                largest >> 20
            ),
        }
    }
}

/// Sorted, non-overlapping regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionMap {
    regions: Vec<Region>,
}

impl RegionMap {
    /// A map from allegations: `(base, bytes, usable)`. Usable ranges shrink to whole pages, others grow;
    /// where they overlap, unusable wins.
    #[must_use]
    pub fn from_firmware(ranges: impl Iterator<Item = (u64, u64, bool)> + Clone) -> Self {
        let mut map = Self::default();
        for (base, bytes, usable) in ranges.clone() {
            if usable {
                let start = base.checked_next_multiple_of(PAGE_SIZE);
                let end = base.saturating_add(bytes) & !(PAGE_SIZE - 1);
                if let Some(start) = start {
                    map.overwrite(start, end, Owner::Free);
                }
            }
        }
        for (base, bytes, usable) in ranges {
            if !usable {
                let end = base.saturating_add(bytes).checked_next_multiple_of(PAGE_SIZE).unwrap_or(!(PAGE_SIZE - 1));
                map.overwrite(base & !(PAGE_SIZE - 1), end, Owner::Firmware);
            }
        }
        map
    }

    /// A map from regions saved earlier.
    ///
    /// # Errors
    /// `Malformed` or `NotFree` (an overlap) when they can't be a map.
    pub fn from_saved(regions: impl Iterator<Item = Region>) -> Result<Self, RegionError> {
        let mut map = Self { regions: regions.collect() };
        map.regions.sort_by_key(|region| region.base);
        let mut last = 0;
        for region in &map.regions {
            let end = region.base.checked_add(region.bytes).ok_or(RegionError::Malformed)?;
            if region.bytes == 0 || !region.base.is_multiple_of(PAGE_SIZE) || !region.bytes.is_multiple_of(PAGE_SIZE) {
                return Err(RegionError::Malformed);
            }
            if region.base < last {
                return Err(RegionError::NotFree);
            }
            last = end;
        }
        Ok(map)
    }

    /// The regions, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = &Region> + Clone {
        self.regions.iter()
    }

    /// Bytes owned by whom `belongs` says yes to.
    #[must_use]
    pub fn bytes(&self, belongs: impl Fn(Owner) -> bool) -> u64 {
        self.regions.iter().filter(|region| belongs(region.owner)).map(|region| region.bytes).sum()
    }

    /// The owner of the byte at `address`, `None` where there is no memory.
    #[must_use]
    pub fn owner(&self, address: u64) -> Option<Owner> {
        self.regions.iter().find(|region| region.base <= address && address < region.end()).map(|region| region.owner)
    }

    /// What of `range` no region has, lowest first: base and end.
    pub fn gaps(&self, range: Range<u64>) -> impl Iterator<Item = (u64, u64)> {
        let behind = Region { base: range.end, bytes: 0, owner: Owner::Free };
        let inside =
            self.regions.iter().copied().filter(move |region| region.end() > range.start && region.base < range.end);
        inside
            .chain([behind])
            .scan(range.start, |at, region| {
                let gap = (*at, region.base.max(*at));
                *at = region.end().max(*at);
                Some(gap)
            })
            .filter(|(base, end)| base < end)
    }

    /// Bytes of memory objects whose token `claimed` does not know. They stay taken: who has gone may have left a device there.
    #[must_use]
    pub fn unclaimed(&self, claimed: impl Fn(u64) -> bool) -> u64 {
        self.bytes(|owner| matches!(owner, Owner::Object(token) if !claimed(token)))
    }

    /// Takes exactly `base..base + bytes`, all of which must be free.
    ///
    /// # Errors
    /// `Malformed`, `NotFree`.
    pub fn claim(&mut self, base: u64, bytes: u64, owner: Owner) -> Result<(), RegionError> {
        let end = base.checked_add(bytes).ok_or(RegionError::Malformed)?;
        if bytes == 0 || !base.is_multiple_of(PAGE_SIZE) || !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(RegionError::Malformed);
        }
        let mut at = base;
        while at < end {
            match self.regions.iter().find(|region| region.base <= at && at < region.end()) {
                Some(region) if region.owner == Owner::Free => at = region.end(),
                _ => return Err(RegionError::NotFree),
            }
        }
        self.overwrite(base, end, owner);
        Ok(())
    }

    /// Takes `bytes` from the free memory below `limit`, as high as possible (low memory is scarce).
    ///
    /// # Errors
    /// `Malformed`, `Exhausted`.
    pub fn allocate(&mut self, bytes: u64, align: u64, limit: u64, owner: Owner) -> Result<HostPhys, RegionError> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_SIZE) || !align.is_power_of_two() || align < PAGE_SIZE {
            return Err(RegionError::Malformed);
        }
        let mut largest = 0;
        let mut found = None;
        for region in self.regions.iter().filter(|region| region.owner == Owner::Free) {
            let end = region.end().min(limit);
            let fits = end.checked_sub(bytes).map(|start| start & !(align - 1));
            largest = largest.max(end.saturating_sub(region.base));
            if let Some(start) = fits.filter(|start| *start >= region.base) {
                found = Some(start);
            }
        }
        let start = found.ok_or(RegionError::Exhausted { wanted: bytes, largest })?;
        self.overwrite(start, start + bytes, owner);
        Ok(HostPhys(start))
    }

    /// Everything that belongs to `owner` becomes free.
    pub fn release(&mut self, owner: Owner) {
        for region in &mut self.regions {
            if region.owner == owner {
                region.owner = Owner::Free;
            }
        }
        self.merge();
    }

    fn overwrite(&mut self, start: u64, end: u64, owner: Owner) {
        if start >= end {
            return;
        }
        let mut next = Vec::with_capacity(self.regions.len() + 2);
        for region in &self.regions {
            for (from, to) in [(region.base, region.end().min(start)), (region.base.max(end), region.end())] {
                if from < to {
                    next.push(Region { base: from, bytes: to - from, owner: region.owner });
                }
            }
        }
        next.push(Region { base: start, bytes: end - start, owner });
        next.sort_by_key(|region| region.base);
        self.regions = next;
        self.merge();
    }

    /// Joins neighbours of one owner; slots and modules stay as they were cut.
    fn merge(&mut self) {
        let mut merged: Vec<Region> = Vec::with_capacity(self.regions.len());
        for region in &self.regions {
            match merged.last_mut() {
                Some(last)
                    if last.end() == region.base
                        && last.owner == region.owner
                        && matches!(region.owner, Owner::Free | Owner::Firmware) =>
                {
                    last.bytes += region.bytes;
                }
                _ => merged.push(*region),
            }
        }
        self.regions = merged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map() -> RegionMap {
        // q35 with 1 GiB, as SeaBIOS reports it.
        let e820 = [
            (0x0, 0x9fc00, true),
            (0x9fc00, 0x400, false),
            (0xf0000, 0x10000, false),
            (0x100000, 0x3fee0000, true),
            (0x3ffe0000, 0x20000, false),
            (0xb0000000, 0x10000000, false),
        ];
        RegionMap::from_firmware(e820.into_iter())
    }

    #[test]
    fn firmware_ranges_shrink_or_grow_to_pages() {
        let map = map();
        assert_eq!(map.owner(0x9f000), Some(Owner::Firmware));
        assert_eq!(map.owner(0x9efff), Some(Owner::Free));
        assert_eq!(map.owner(0xa0000), None);
        assert_eq!(map.bytes(|owner| owner == Owner::Free), 0x9f000 + 0x3fee0000);
    }

    #[test]
    fn allocation_is_high_aligned_and_below_the_limit() {
        let mut map = map();
        let at = map.allocate(0x200000, 0x200000, u64::MAX, Owner::Arena).unwrap();
        assert_eq!(at, HostPhys(0x3fc00000));
        let low = map.allocate(0x1000, 0x1000, 0x100000, Owner::Low).unwrap();
        assert_eq!(low, HostPhys(0x9e000));
        assert_eq!(
            map.allocate(1 << 40, 0x1000, u64::MAX, Owner::Arena),
            Err(RegionError::Exhausted { wanted: 1 << 40, largest: 0x3fb00000 })
        );
    }

    #[test]
    fn claims_of_taken_or_unknown_memory_are_refused_and_change_nothing() {
        let mut map = map();
        map.claim(0x200000, 0x800000, Owner::Slot(0)).unwrap();
        let before = map.clone();
        assert_eq!(map.claim(0x900000, 0x200000, Owner::Arena), Err(RegionError::NotFree));
        assert_eq!(map.claim(0x4000_0000, 0x1000, Owner::Arena), Err(RegionError::NotFree));
        assert_eq!(map.claim(0x1001, 0x1000, Owner::Arena), Err(RegionError::Malformed));
        assert_eq!(map, before);
        map.release(Owner::Slot(0));
        assert_eq!(map, self::map());
    }

    #[test]
    fn saved_regions_must_not_overlap() {
        let region = |base, bytes| Region { base, bytes, owner: Owner::Free };
        assert_eq!(
            RegionMap::from_saved([region(0x1000, 0x2000), region(0x2000, 0x1000)].into_iter()),
            Err(RegionError::NotFree)
        );
        assert_eq!(RegionMap::from_saved([region(u64::MAX - 0xfff, 0x1000)].into_iter()), Err(RegionError::Malformed));
    }

    #[test]
    fn gaps_are_what_no_region_has() {
        let map = map();
        let gaps = |range| map.gaps(range).collect::<Vec<_>>();
        assert_eq!(gaps(0x9_f000..0x10_1000), [(0xa_0000, 0xf_0000)]);
        assert_eq!(gaps(0xafff_f000..0xc000_1000), [(0xafff_f000, 0xb000_0000), (0xc000_0000, 0xc000_1000)]);
        assert_eq!(gaps(0xb000_1000..0xb000_2000), []);
        assert_eq!(gaps(0xd000_0000..0xd000_1000), [(0xd000_0000, 0xd000_1000)]);
    }

    /// Saved memory objects are nobody's to hand out, whoever claims them or does not.
    #[test]
    fn law_18_a_memory_object_is_kept_until_it_is_claimed_and_told_if_it_is_not() {
        const OBJECT: u64 = 0x20_0000;
        let owners = [Owner::Object(7), Owner::Free, Owner::Object(8), Owner::Object(8)];
        let saved = (0..).zip(owners).map(|(at, owner)| Region { base: at * OBJECT, bytes: OBJECT, owner });
        let mut map = RegionMap::from_saved(saved).unwrap();
        assert_eq!(map.unclaimed(|_| false), 3 * OBJECT, "nobody has claimed anything yet");
        assert_eq!(map.unclaimed(|token| token == 7), 2 * OBJECT);
        assert_eq!(map.unclaimed(|_| true), 0);
        // What nobody claims can't be had in any way.
        assert_eq!(map.allocate(OBJECT, PAGE_SIZE, u64::MAX, Owner::Arena), Ok(HostPhys(OBJECT)));
        assert!(map.allocate(PAGE_SIZE, PAGE_SIZE, u64::MAX, Owner::Arena).is_err());
        assert_eq!(map.claim(2 * OBJECT, PAGE_SIZE, Owner::Object(7)), Err(RegionError::NotFree));
        map.release(Owner::Object(7));
        assert_eq!((map.unclaimed(|_| false), map.owner(2 * OBJECT)), (2 * OBJECT, Some(Owner::Object(8))));
    }

    proptest! {
        #[test]
        fn bytes_are_conserved(requests in prop::collection::vec((1u64..64, 0u32..6), 1..40)) {
            let mut map = map();
            let total = map.bytes(|_| true);
            let mut held = 0;
            for (index, (pages, shift)) in requests.into_iter().enumerate() {
                let owner = Owner::Object(index as u64);
                if let Ok(at) = map.allocate(pages * PAGE_SIZE, PAGE_SIZE << shift, u64::MAX, owner) {
                    prop_assert!(at.is_aligned(PAGE_SIZE << shift));
                    held += pages * PAGE_SIZE;
                    if index % 3 == 0 {
                        map.release(owner);
                        held -= pages * PAGE_SIZE;
                    }
                }
                prop_assert_eq!(map.bytes(|_| true), total);
                prop_assert_eq!(map.bytes(|owner| matches!(owner, Owner::Object(_))), held);
            }
        }

        #[test]
        fn any_firmware_map_is_survived(ranges in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..30)) {
            let map = RegionMap::from_firmware(ranges.into_iter());
            let mut last = 0;
            for region in map.iter() {
                prop_assert!(region.base >= last && region.bytes > 0);
                last = region.end();
            }
        }
    }
}
