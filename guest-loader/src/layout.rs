//! The guest physical map: the one place for every address a guest finds
//! something at. The loader writes by it, the platform emulation answers by it,
//! and the ACPI tables tell the guest about it.
//!
//! ```text
//! 0000_0000_0000 .. 0000_000A_0000   RAM; boot structures from 0x6000 on
//! 0000_000E_0000 .. 0000_0010_0000   RAM, reserved: ACPI tables
//! 0000_0010_0000 .. 0000_C000_0000   RAM (as much as there is, at most 3 GiB)
//! 0000_C000_0000 .. 0000_E000_0000   PCI memory window, 32 bits
//! 0000_E000_0000 .. 0000_E010_0000   PCI configuration space (ECAM) of bus 0
//! 0000_FEC0_0000, 0000_FEE0_0000     IOAPIC, local APIC
//! 0001_0000_0000 ..                  the rest of the RAM
//! 0040_0000_0000 .. 0050_0000_0000   PCI memory window, 64 bits
//! ```

use alloc::vec::Vec;
use core::fmt;

use machine::addr::{GuestPhys, PAGE_SIZE};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The end of RAM below 4 GiB, at most.
pub const LOW_RAM_END: GuestPhys = GuestPhys(3 * GIB);
/// Where RAM goes on that does not fit below [`LOW_RAM_END`].
pub const HIGH_RAM_START: GuestPhys = GuestPhys(4 * GIB);
/// The least memory a guest can be given, in bytes.
pub const MIN_MEMORY: u64 = 2 * MIB;
/// The most memory a guest can be given, in bytes: RAM ends where the 64-bit PCI window starts.
pub const MAX_MEMORY: u64 = LOW_RAM_END.get() + (PCI_WINDOW_64.start.get() - HIGH_RAM_START.get());

/// Base of the 32-bit PCI memory window.
pub const PCI_WINDOW_32: GuestRange = GuestRange::between(GuestPhys(0xC000_0000), GuestPhys(0xE000_0000));
/// The 64-bit PCI memory window: above all RAM and below 2^39, so that guests with
/// 39-bit physical addresses and three-level second-stage tables reach it.
pub const PCI_WINDOW_64: GuestRange = GuestRange::between(GuestPhys(0x40_0000_0000), GuestPhys(0x50_0000_0000));
/// The memory-mapped configuration space of bus 0, the only bus of a guest.
pub const ECAM: GuestRange = GuestRange::between(GuestPhys(0xE000_0000), GuestPhys(0xE010_0000));
/// The first and the last PCI bus number of a guest.
pub const PCI_BUS: u8 = 0;

/// Registers of the IOAPIC (one page).
pub const IOAPIC: GuestRange = GuestRange::between(GuestPhys(0xFEC0_0000), GuestPhys(0xFEC0_1000));
/// The IOAPIC's id in the MADT and in its own ID register.
pub const IOAPIC_ID: u8 = 0;
/// Pins of the IOAPIC: global system interrupts 0..24.
pub const IOAPIC_PINS: u8 = 24;
/// Registers of the local APIC (one page), while it is in xAPIC mode.
pub const LAPIC: GuestRange = GuestRange::between(GuestPhys(0xFEE0_0000), GuestPhys(0xFEE0_1000));

/// First of the eight I/O ports of the 16550 console.
pub const UART_PORT: u16 = 0x3F8;
/// Global system interrupt of the console: edge triggered, active high.
pub const UART_GSI: u8 = 4;
/// I/O ports of PCI configuration mechanism 1 (address, data): 0xCF8..0xD00.
pub const PCI_CONFIG_PORT: u16 = 0xCF8;

/// Sleep control register, one byte (ACPI 6.5, 4.8.3.7): the guest writes
/// [`SLEEP_ENABLE`] with the sleep type in bits 4:2 to power itself off.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// Sleep status register, one byte (ACPI 6.5, 4.8.3.7): bit 7 is WAK_STS, write 1 to clear. Reads 0.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// SLP_EN of the sleep control register.
pub const SLEEP_ENABLE: u8 = 1 << 5;
/// The sleep type of S5 (soft off), as \_S5 announces it.
pub const SLEEP_TYPE_S5: u8 = 5;
/// What a guest writes to [`SLEEP_CONTROL_PORT`] to power itself off.
pub const POWER_OFF_VALUE: u8 = SLEEP_ENABLE | (SLEEP_TYPE_S5 << 2);
/// Reset register, one byte. It lies inside [`PCI_CONFIG_PORT`]'s dword as on PC
/// chipsets: only one-byte accesses reach it, wider ones are the PCI address.
pub const RESET_PORT: u16 = 0xCF9;
/// What a guest writes to [`RESET_PORT`] to reset itself.
pub const RESET_VALUE: u8 = 0x06;

/// The GDT the first virtual CPU starts with.
pub const BOOT_GDT: GuestPhys = GuestPhys(0x6000);
/// Linux `boot_params`, the zero page.
pub const ZERO_PAGE: GuestPhys = GuestPhys(0x7000);
/// The end of the one-page stack the first virtual CPU starts with.
pub const BOOT_STACK_TOP: GuestPhys = GuestPhys(0x9000);
/// The identity page tables the first virtual CPU starts with: PML4, PDPT, four page directories.
pub const BOOT_PAGE_TABLES: GuestPhys = GuestPhys(0x9000);
/// PVH `hvm_start_info`, followed by its module list and memory map (one page).
pub const PVH_START_INFO: GuestPhys = GuestPhys(0xF000);
/// The command line, zero-terminated.
pub const COMMAND_LINE: GuestPhys = GuestPhys(0x2_0000);
/// Room for the command line with its terminating zero, in bytes.
pub const COMMAND_LINE_BYTES: u64 = 0x1_0000;
/// The end of usable RAM below 1 MiB.
pub const CONVENTIONAL_END: GuestPhys = GuestPhys(0xA_0000);
/// ACPI tables; the RSDP is at the start, where a guest that scans for it looks.
pub const ACPI_TABLES: GuestRange = GuestRange::between(GuestPhys(0xE_0000), GuestPhys(0x10_0000));
/// Where guest images may start: below are the structures above.
pub const IMAGE_START: GuestPhys = GuestPhys(0x10_0000);

/// A range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRange {
    /// The first byte.
    pub start: GuestPhys,
    /// The length in bytes.
    pub bytes: u64,
}

impl GuestRange {
    /// From `start` up to, not including, `end` (empty if `end` is not above).
    #[must_use]
    pub const fn between(start: GuestPhys, end: GuestPhys) -> Self {
        Self { start, bytes: end.get().saturating_sub(start.get()) }
    }

    /// The first byte behind the range.
    #[must_use]
    pub const fn end(self) -> GuestPhys {
        GuestPhys(self.start.get().saturating_add(self.bytes))
    }

    /// Whether all of `bytes` bytes at `at` lie in the range.
    #[must_use]
    pub const fn contains(self, at: GuestPhys, bytes: u64) -> bool {
        let Some(offset) = at.get().checked_sub(self.start.get()) else {
            return false;
        };
        match offset.checked_add(bytes) {
            Some(end) => end <= self.bytes,
            None => false,
        }
    }
}

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

/// Why there is no map for this amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// Less than [`MIN_MEMORY`].
    TooSmall(u64),
    /// More than [`MAX_MEMORY`].
    TooLarge(u64),
    /// Not a multiple of a page.
    Unaligned(u64),
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
        }
    }
}

/// Where the RAM of one guest lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestMap {
    memory_bytes: u64,
}

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
        Ok(Self { memory_bytes })
    }

    /// All RAM of the guest in bytes.
    #[must_use]
    pub const fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The RAM below 4 GiB.
    #[must_use]
    pub const fn low_ram(&self) -> GuestRange {
        let bytes = if self.memory_bytes < LOW_RAM_END.get() { self.memory_bytes } else { LOW_RAM_END.get() };
        GuestRange { start: GuestPhys(0), bytes }
    }

    /// The RAM from 4 GiB on, if there is any.
    #[must_use]
    pub const fn high_ram(&self) -> Option<GuestRange> {
        match self.memory_bytes.checked_sub(LOW_RAM_END.get()) {
            None | Some(0) => None,
            Some(bytes) => Some(GuestRange { start: HIGH_RAM_START, bytes }),
        }
    }

    /// The ranges of RAM in ascending order: what the second-stage tables map.
    pub fn ram(&self) -> impl Iterator<Item = GuestRange> + use<> {
        core::iter::once(self.low_ram()).chain(self.high_ram())
    }

    /// The offset in the guest's memory, as if it had no hole, of the byte at `at`;
    /// `None` when that is not RAM.
    #[must_use]
    pub const fn offset_of(&self, at: GuestPhys) -> Option<u64> {
        if self.low_ram().contains(at, 1) {
            return Some(at.get());
        }
        match self.high_ram() {
            Some(high) if high.contains(at, 1) => Some(at.get() - HIGH_RAM_START.get() + LOW_RAM_END.get()),
            _ => None,
        }
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
        let mut entries = Vec::with_capacity(5);
        entries.push(ram(GuestPhys(0), CONVENTIONAL_END));
        entries.push(reserved(ACPI_TABLES));
        entries.push(ram(IMAGE_START, self.low_ram().end()));
        // Linux uses ECAM only if the map reserves it.
        entries.push(reserved(ECAM));
        if let Some(high) = self.high_ram() {
            entries.push(ram(high.start, high.end()));
        }
        entries
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(map.high_ram(), Some(GuestRange { start: GuestPhys(0x1_0000_0000), bytes: GIB }));
        assert_eq!(map.offset_of(GuestPhys(0xBFFF_FFFF)), Some(0xBFFF_FFFF));
        assert_eq!(map.offset_of(GuestPhys(0xC000_0000)), None);
        assert_eq!(map.offset_of(GuestPhys(0x1_0000_0000)), Some(0xC000_0000));
        assert_eq!(map.offset_of(GuestPhys(0x1_4000_0000)), None);
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
        assert_eq!(GuestMap::new(3 * GIB).unwrap().high_ram(), None);
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
