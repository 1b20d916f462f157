//! The first 64 bytes of configuration space: PCI 6.1, PCIe 7.5.1.

use super::bdf::Bdf;
use super::config::ConfigSpace;
use bitflags::bitflags;
use core::fmt;

/// Offsets of registers in the header.
pub(super) mod register {
    pub const VENDOR: u16 = 0x00;
    pub const DEVICE: u16 = 0x02;
    pub const COMMAND: u16 = 0x04;
    pub const STATUS: u16 = 0x06;
    pub const REVISION: u16 = 0x08;
    pub const CACHE_LINE: u16 = 0x0c;
    pub const HEADER_TYPE: u16 = 0x0e;
    pub const BAR0: u16 = 0x10;
    pub const SECONDARY: u16 = 0x19;
    pub const SUBORDINATE: u16 = 0x1a;
    pub const SUBSYSTEM: u16 = 0x2c;
    pub const ROM: u16 = 0x30;
    pub const CAPABILITIES: u16 = 0x34;
    pub const INTERRUPT: u16 = 0x3c;
}

bitflags! {
    /// The command register, offset 4.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Command: u16 {
        /// Answers to I/O BARs.
        const IO = 1 << 0;
        /// Answers to memory BARs.
        const MEMORY = 1 << 1;
        /// May issue requests: DMA and MSI.
        const BUS_MASTER = 1 << 2;
        /// INTx is held back.
        const INTX_DISABLE = 1 << 10;
        /// The rest, kept as found.
        const _ = !0;
    }
}

impl Command {
    /// Reads it.
    #[must_use]
    pub fn read(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Self {
        Self::from_bits_retain(config.read16(bdf, register::COMMAND))
    }

    /// Writes it (the status register beside it is not touched).
    pub fn write(self, config: &(impl ConfigSpace + ?Sized), bdf: Bdf) {
        config.write16(bdf, register::COMMAND, self.bits());
    }
}

/// Who made a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ids {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Subsystem vendor; 0 on bridges.
    pub subsystem_vendor: u16,
    /// Subsystem; 0 on bridges.
    pub subsystem: u16,
}

impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class {
    /// Base class.
    pub base: u8,
    /// Subclass.
    pub sub: u8,
    /// Programming interface.
    pub interface: u8,
    /// Revision of the function.
    pub revision: u8,
}

/// The layout of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderKind {
    /// Type 0: an endpoint.
    Endpoint,
    /// Type 1: a bridge between PCI buses.
    Bridge {
        /// The bus right behind it.
        secondary: u8,
        /// The highest bus behind it.
        subordinate: u8,
    },
    /// Another layout (CardBus bridge, or garbage).
    Other(u8),
}

impl HeaderKind {
    /// Reads it, with the bus numbers of a bridge as they are now.
    #[must_use]
    pub fn read(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Self {
        match config.read8(bdf, register::HEADER_TYPE) & 0x7f {
            0 => Self::Endpoint,
            1 => Self::Bridge {
                secondary: config.read8(bdf, register::SECONDARY),
                subordinate: config.read8(bdf, register::SUBORDINATE),
            },
            other => Self::Other(other),
        }
    }
}

/// Reads who and what a function is, and whether its device has more functions.
pub(super) fn read(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> (Ids, Class, HeaderKind, bool) {
    let header_type = config.read8(bdf, register::HEADER_TYPE);
    let kind = HeaderKind::read(config, bdf);
    let [revision, interface, sub, base] = config.read32(bdf, register::REVISION).to_le_bytes();
    let subsystem = if kind == HeaderKind::Endpoint { config.read32(bdf, register::SUBSYSTEM) } else { 0 };
    let ids = Ids {
        vendor: config.read16(bdf, register::VENDOR),
        device: config.read16(bdf, register::DEVICE),
        subsystem_vendor: subsystem as u16,
        subsystem: (subsystem >> 16) as u16,
    };
    (ids, Class { base, sub, interface, revision }, kind, header_type & 0x80 != 0)
}
