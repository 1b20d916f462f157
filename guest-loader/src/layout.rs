//! The guest physical map: the one place for every address a guest finds
//! something at. The loader writes by it, the platform emulation answers by it,
//! and the ACPI tables tell the guest about it.
//!
//! ```text
//! 0000_0000_0000 .. 0000_000A_0000   RAM; boot structures from 0x5000 on
//! 0000_000E_0000 .. 0000_0010_0000   RAM, reserved: ACPI tables; BIOS calls, if the guest starts in real mode
//! 0000_0010_0000 .. 0000_C000_0000   RAM (as much as there is, at most 3 GiB)
//! 0000_C000_0000 .. 0000_E000_0000   PCI memory window, 32 bits
//! 0000_E000_0000 .. 0000_E010_0000   PCI configuration space (ECAM) of bus 0
//! 0000_FEC0_0000, 0000_FEE0_0000     IOAPIC, local APIC
//! 0001_0000_0000 ..                  the rest of the RAM
//! 0040_0000_0000 .. 0050_0000_0000   PCI memory window, 64 bits
//! ```
//!
//! - `map`: what of it one guest has

mod map;

use machine::addr::GuestPhys;

pub use self::map::{E820Entry, E820Kind, GuestMap, MAX_RESERVED, MapError};

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

/// What Linux is told besides its header (one page).
pub const SETUP_DATA: GuestPhys = GuestPhys(0x5000);
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
/// Multiboot's information with all that it points to, but for the command line.
pub const MULTIBOOT_INFO: GuestRange = GuestRange::between(PVH_START_INFO, COMMAND_LINE);
/// Linux's real-mode code with its heap and stack: a segment.
pub const REAL_MODE_KERNEL: GuestPhys = GuestPhys(0x1_0000);
/// The command line, zero-terminated.
pub const COMMAND_LINE: GuestPhys = GuestPhys(0x2_0000);
/// Room for the command line with its terminating zero, in bytes.
pub const COMMAND_LINE_BYTES: u64 = 0x1_0000;
/// The end of usable RAM below 1 MiB.
pub const CONVENTIONAL_END: GuestPhys = GuestPhys(0xA_0000);
/// ACPI tables; the RSDP is at the start, where a guest that scans for it looks.
pub const ACPI_TABLES: GuestRange = GuestRange::between(GuestPhys(0xE_0000), GuestPhys(0xF_0000));
/// BIOS calls of guests that start in real mode.
pub const BIOS_SERVICES: GuestRange = GuestRange::between(GuestPhys(0xF_0000), GuestPhys(0x10_0000));
/// All of what firmware would have written, which the guest is told to leave alone.
pub const FIRMWARE: GuestRange = GuestRange::between(ACPI_TABLES.start, BIOS_SERVICES.end());
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

    /// Whether a byte is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.get() < other.end().get() && other.start.get() < self.end().get()
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
