//! The memory of one guest: how much RAM, what of its addresses is reserved, and what it is told of both.

use alloc::vec::Vec;
use core::fmt;

use machine::addr::{GuestPhys, PAGE_SIZE};

use super::{
    CONVENTIONAL_END, ECAM, FIRMWARE, GuestRange, HIGH_RAM_START, IMAGE_START, IOAPIC, LAPIC, LOW_RAM_END, MAX_MEMORY,
    MIB, MIN_MEMORY, PCI_WINDOW_64,
};

/// The type of an e820 entry (ACPI 6.5, table 15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Kind(pub u32);

impl E820Kind {
    /// RAM the guest may use.
    pub const RAM: Self = Self(1);
    /// Not for use by the guest.
    pub const RESERVED: Self = Self(2);
}

/// One entry of the memory map that a guest is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct E820Entry {
    /// The range.
    pub range: GuestRange,
    /// What it is.
    pub kind: E820Kind,
}

/// Reserved ranges that one guest can have.
pub const MAX_RESERVED: usize = 8;
/// RAM around a reserved range ends and begins at multiples of this, so that large leaves map it.
const HOLE_ALIGNMENT: u64 = 2 * MIB;

/// Why there is no map for this amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Less than [`MIN_MEMORY`].
    TooSmall(u64),
    /// More than [`MAX_MEMORY`], reserved ranges taken off.
    TooLarge(u64),
    /// Not a multiple of a page.
    Unaligned(u64),
    /// A range that is to be reserved lies where every guest has something.
    Reserved(GuestRange),
    /// More than [`MAX_RESERVED`] ranges are to be reserved.
    TooManyReserved,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall(bytes) => {
                write!(f, "{bytes} bytes of guest memory are too few: give it at least {} MiB", MIN_MEMORY / MIB)
            }
            Self::TooLarge(bytes) => write!(
                f,
                "{} MiB of guest memory are more than the guest's map holds: give it at most {} MiB",
                bytes / MIB,
                MAX_MEMORY / MIB
            ),
            Self::Unaligned(bytes) => {
                write!(f, "{bytes} bytes of guest memory are no multiple of {PAGE_SIZE}: give it whole pages")
            }
            Self::Reserved(range) => write!(
                f,
                "{} to {} can't be reserved in a guest: its boot structures or interrupt controllers are there",
                range.start,
                range.end()
            ),
            Self::TooManyReserved => write!(f, "a guest has room for {MAX_RESERVED} reserved ranges"),
        }
    }
}

/// Where the RAM of one guest lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestMap {
    memory_bytes: u64,
    /// Whole pages that are no RAM of the guest's; unused places are empty.
    reserved: [GuestRange; MAX_RESERVED],
}

/// A place for a reserved range that holds none.
const NOTHING: GuestRange = GuestRange { start: GuestPhys(0), bytes: 0 };

impl GuestMap {
    /// The map of a guest with `memory_bytes` bytes of RAM.
    ///
    /// # Errors
    /// [`MapError`] outside [`MIN_MEMORY`]..=[`MAX_MEMORY`] or for a part of a page.
    pub const fn new(memory_bytes: u64) -> Result<Self, MapError> {
        if memory_bytes < MIN_MEMORY {
            return Err(MapError::TooSmall(memory_bytes));
        }
        if memory_bytes > MAX_MEMORY {
            return Err(MapError::TooLarge(memory_bytes));
        }
        if !memory_bytes.is_multiple_of(PAGE_SIZE) {
            return Err(MapError::Unaligned(memory_bytes));
        }
        Ok(Self { memory_bytes, reserved: [NOTHING; MAX_RESERVED] })
    }

    /// The same amount of RAM around `range`, which the guest is told to leave alone. RAM that was there, in units of
    /// 2 MiB, goes on behind it.
    ///
    /// # Errors
    /// The range lies in the first 2 MiB, or on ECAM, IOAPIC or LAPIC; there are too many; or the RAM does not fit any more.
    pub fn reserve(mut self, range: GuestRange) -> Result<Self, MapError> {
        let start = range.start.align_down(PAGE_SIZE);
        let end = range.end().get().checked_next_multiple_of(PAGE_SIZE).ok_or(MapError::Reserved(range))?;
        let pages = GuestRange::between(start, GuestPhys(end));
        let kept = [GuestRange::between(GuestPhys(0), GuestPhys(HOLE_ALIGNMENT)), ECAM, IOAPIC, LAPIC];
        if kept.iter().any(|kept| kept.overlaps(pages)) {
            return Err(MapError::Reserved(range));
        }
        if self.reserved().any(|known| known == pages) {
            return Ok(self);
        }
        let place = self.reserved.iter_mut().find(|place| place.bytes == 0);
        *place.ok_or(MapError::TooManyReserved)? = pages;
        if self.ram().map(|range| range.bytes).sum::<u64>() < self.memory_bytes {
            return Err(MapError::TooLarge(self.memory_bytes));
        }
        Ok(self)
    }

    /// All RAM of the guest in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The ranges that are reserved.
    pub fn reserved(&self) -> impl Iterator<Item = GuestRange> + '_ {
        self.reserved.iter().copied().filter(|range| range.bytes > 0)
    }

    /// The RAM from 0 on: what kernels are loaded to.
    #[must_use]
    pub fn low_ram(&self) -> GuestRange {
        // No range is reserved at 0, so the first piece begins there.
        self.ram().next().unwrap_or(NOTHING)
    }

    /// The pieces of RAM in ascending order: what the second-stage tables map.
    pub fn ram(&self) -> impl Iterator<Item = GuestRange> + use<> {
        let mut left = self.memory_bytes;
        let mut pieces = Vec::new();
        for area in [(0, LOW_RAM_END.get()), (HIGH_RAM_START.get(), PCI_WINDOW_64.start.get())] {
            let (mut at, end) = area;
            while left > 0 && at < end {
                let hole = self.reserved().map(hole).filter(|hole| hole.1 > at && hole.0 < end).min();
                let (stop, next) = hole.map_or((end, end), |hole| (hole.0.max(at), hole.1));
                let bytes = (stop - at).min(left);
                if bytes > 0 {
                    pieces.push(GuestRange { start: GuestPhys(at), bytes });
                }
                left -= bytes;
                at = next;
            }
        }
        pieces.into_iter()
    }

    /// Whether all of `bytes` bytes at `at` are RAM.
    #[must_use]
    pub fn is_ram(&self, at: GuestPhys, bytes: u64) -> bool {
        self.ram().any(|range| range.contains(at, bytes))
    }

    /// The memory map the guest is told, ascending and without overlap. The boot
    /// structures lie in usable RAM: a kernel copies what it wants to keep.
    #[must_use]
    pub fn e820(&self) -> Vec<E820Entry> {
        let ram = |start, end| E820Entry { range: GuestRange::between(start, end), kind: E820Kind::RAM };
        let reserved = |range| E820Entry { range, kind: E820Kind::RESERVED };
        let mut entries = Vec::new();
        entries.push(ram(GuestPhys(0), CONVENTIONAL_END));
        entries.push(reserved(FIRMWARE));
        entries.push(ram(IMAGE_START, self.low_ram().end()));
        entries.extend(self.ram().skip(1).map(|range| ram(range.start, range.end())));
        // Linux uses ECAM only if the map reserves it.
        entries.push(reserved(ECAM));
        entries.extend(self.reserved().map(reserved));
        entries.sort_unstable_by_key(|entry| entry.range.start);
        entries
    }
}

/// Where no RAM is because of a reserved range: first byte, and first byte behind.
fn hole(range: GuestRange) -> (u64, u64) {
    let end = range.end().get();
    (range.start.align_down(HOLE_ALIGNMENT).get(), end.checked_next_multiple_of(HOLE_ALIGNMENT).unwrap_or(end))
}

#[cfg(test)]
mod tests {
    use super::super::{
        BOOT_PAGE_TABLES, COMMAND_LINE, COMMAND_LINE_BYTES, GIB, PCI_WINDOW_32, POWER_OFF_VALUE, PVH_START_INFO,
    };
    use super::*;

    #[test]
    fn small_guest_has_no_high_ram() {
        let map = GuestMap::new(512 * MIB).unwrap();
        assert_eq!(map.ram().collect::<Vec<_>>(), [GuestRange { start: GuestPhys(0), bytes: 0x2000_0000 }]);
        let e820: Vec<_> = map.e820().iter().map(|e| (e.range.start.get(), e.range.end().get(), e.kind.0)).collect();
        assert_eq!(
            e820,
            [(0, 0xA_0000, 1), (0xE_0000, 0x10_0000, 2), (0x10_0000, 0x2000_0000, 1), (0xE000_0000, 0xE010_0000, 2)]
        );
    }

    #[test]
    fn large_guest_continues_at_4_gib() {
        let map = GuestMap::new(4 * GIB).unwrap();
        assert_eq!(map.low_ram().end(), GuestPhys(0xC000_0000));
        assert_eq!(map.ram().nth(1), Some(GuestRange { start: GuestPhys(0x1_0000_0000), bytes: GIB }));
        assert_eq!(map.ram().count(), 2);
        assert!(!map.is_ram(GuestPhys(0xBFFF_F000), 0x1001));
        assert!(map.is_ram(GuestPhys(0x1_3FFF_F000), 0x1000));
        assert!(!map.is_ram(GuestPhys(u64::MAX), 2));
    }

    #[test]
    fn limits() {
        assert_eq!(GuestMap::new(0), Err(MapError::TooSmall(0)));
        assert_eq!(GuestMap::new(MIB), Err(MapError::TooSmall(MIB)));
        assert_eq!(GuestMap::new(4 * MIB + 1), Err(MapError::Unaligned(4 * MIB + 1)));
        assert!(GuestMap::new(255 * GIB).is_ok());
        assert_eq!(GuestMap::new(256 * GIB), Err(MapError::TooLarge(256 * GIB)));
        assert_eq!(GuestMap::new(3 * GIB).unwrap().ram().count(), 1);
    }

    fn range(start: u64, end: u64) -> GuestRange {
        GuestRange::between(GuestPhys(start), GuestPhys(end))
    }

    /// As firmware reserves memory for its USB keyboard below the end of RAM.
    #[test]
    fn ram_goes_on_behind_a_reserved_range() {
        let map = GuestMap::new(2 * GIB).unwrap().reserve(range(0x7B80_1000, 0x7B83_F000)).unwrap();
        assert_eq!(map.ram().collect::<Vec<_>>(), [range(0, 0x7B80_0000), range(0x7BA0_0000, 0x8020_0000)]);
        assert_eq!(map.low_ram().end(), GuestPhys(0x7B80_0000));
        assert_eq!(map.ram().map(|range| range.bytes).sum::<u64>(), 2 * GIB);
        assert!(!map.is_ram(GuestPhys(0x7B80_0000), 1) && map.is_ram(GuestPhys(0x7BA0_0000), 1));
        let e820: Vec<_> = map.e820().iter().map(|e| (e.range.start.get(), e.range.end().get(), e.kind.0)).collect();
        assert_eq!(
            e820,
            [
                (0, 0xA_0000, 1),
                (0xE_0000, 0x10_0000, 2),
                (0x10_0000, 0x7B80_0000, 1),
                (0x7B80_1000, 0x7B83_F000, 2),
                (0x7BA0_0000, 0x8020_0000, 1),
                (0xE000_0000, 0xE010_0000, 2)
            ]
        );
        assert_eq!(map.reserve(range(0x7B80_1000, 0x7B83_F000)), Ok(map), "once is enough");
    }

    #[test]
    fn reserved_ranges_outside_ram_change_nothing_but_the_map() {
        let plain = GuestMap::new(512 * MIB).unwrap();
        let map = plain.reserve(range(0xC800_0000, 0xC810_0000)).unwrap();
        assert!(map.ram().eq(plain.ram()));
        assert_eq!(map.e820().len(), plain.e820().len() + 1);
        // Two that share 2 MiB make one hole; what does not fit below 3 GiB goes above 4.
        let map = GuestMap::new(3 * GIB).unwrap();
        let map = map.reserve(range(0x4000_0000, 0x4000_1000)).unwrap();
        let map = map.reserve(range(0x401F_F000, 0x4020_0000)).unwrap();
        let pieces: Vec<_> = map.ram().collect();
        assert_eq!(
            pieces,
            [range(0, 0x4000_0000), range(0x4020_0000, 0xC000_0000), range(0x1_0000_0000, 0x1_0020_0000)]
        );
    }

    #[test]
    fn what_every_guest_needs_is_not_reserved() {
        let map = GuestMap::new(512 * MIB).unwrap();
        for (start, end) in [
            (0xE_0000, 0xF_0000),
            (0x1F_F000, 0x20_1000),
            (0xDFFF_0000, 0xE000_1000),
            (0xFEC0_0000, 0xFEC0_0001),
            (0xFEE0_0000, 0xFEE1_0000),
        ] {
            assert_eq!(map.reserve(range(start, end)), Err(MapError::Reserved(range(start, end))));
        }
        assert!(map.reserve(range(u64::MAX - 0x1000, u64::MAX)).is_err());
        let full = GuestMap::new(MAX_MEMORY).unwrap().reserve(range(0x4000_0000, 0x4000_1000));
        assert_eq!(full, Err(MapError::TooLarge(MAX_MEMORY)));
        let places = (0..MAX_RESERVED as u64).map(|place| range((place + 1) << 24, ((place + 1) << 24) + 0x1000));
        let many = places.fold(map, |map, place| map.reserve(place).unwrap());
        assert_eq!(many.reserve(range(0x1F00_0000, 0x1F00_1000)), Err(MapError::TooManyReserved));
    }

    #[test]
    fn nothing_overlaps() {
        let map = GuestMap::new(MAX_MEMORY).unwrap();
        let mut ranges: Vec<_> = map.ram().chain([PCI_WINDOW_32, PCI_WINDOW_64, ECAM, IOAPIC, LAPIC]).collect();
        ranges.sort_by_key(|range| range.start);
        for pair in ranges.windows(2) {
            assert!(pair[0].end() <= pair[1].start, "{pair:?}");
        }
        // Six page-table pages end where the PVH start info begins.
        assert_eq!(BOOT_PAGE_TABLES.get() + 6 * PAGE_SIZE, PVH_START_INFO.get());
        assert!(COMMAND_LINE.get() + COMMAND_LINE_BYTES <= CONVENTIONAL_END.get());
        assert_eq!(POWER_OFF_VALUE, 0x34);
    }
}
