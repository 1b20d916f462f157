//! Message signaled interrupts: PCIe 7.7.1 and 7.7.2.

use super::bdf::Bdf;
use super::capability::{find, id};
use super::config::ConfigSpace;

/// The MSI capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    bdf: Bdf,
    /// Where the capability stands.
    pub offset: u16,
    /// Whether the address has 64 bits.
    pub wide: bool,
    /// Whether each vector can be masked.
    pub maskable: bool,
    /// Vectors the function asks for: 1, 2, 4, ... 32.
    pub vectors: u8,
}

/// Message control, MSI: enabled.
const MSI_ENABLE: u16 = 1 << 0;
/// Message control, MSI: how many vectors are granted, bits 6:4.
const MSI_GRANTED: u16 = 7 << 4;
/// Message control, MSI-X: enabled.
const MSIX_ENABLE: u16 = 1 << 15;
/// Message control, MSI-X: all vectors masked.
const MSIX_MASK: u16 = 1 << 14;

impl Msi {
    /// The capability of `bdf`, if it has one that is whole.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        let offset = find(config, bdf, id::MSI, 0x0c)?;
        let control = config.read16(bdf, offset + 2);
        let (wide, maskable) = (control & 1 << 7 != 0, control & 1 << 8 != 0);
        let exponent = control >> 1 & 7;
        let msi = Self { bdf, offset, wide, maskable, vectors: 1 << exponent.min(5) };
        let fits = offset + msi.bytes() <= 0x100;
        (exponent <= 5 && fits).then_some(msi)
    }

    /// Bytes the capability takes.
    #[must_use]
    pub fn bytes(&self) -> u16 {
        match (self.wide, self.maskable) {
            (false, false) => 0x0a,
            (true, false) => 0x0e,
            (false, true) => 0x14,
            (true, true) => 0x18,
        }
    }

    /// Where the data register is.
    #[must_use]
    pub fn data_offset(&self) -> u16 {
        self.offset + if self.wide { 0x0c } else { 0x08 }
    }

    /// Where the mask bits are, if there are any; the pending bits follow.
    #[must_use]
    pub fn mask_offset(&self) -> Option<u16> {
        self.maskable.then(|| self.data_offset() + 4)
    }

    /// Whether it is enabled.
    #[must_use]
    pub fn is_enabled(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        config.read16(self.bdf, self.offset + 2) & MSI_ENABLE != 0
    }

    /// Sets where the first vector's message goes. The upper half of `address` is
    /// lost on a function with 32 bits.
    pub fn set_message(&self, config: &(impl ConfigSpace + ?Sized), address: u64, data: u16) {
        config.write32(self.bdf, self.offset + 4, address as u32);
        if self.wide {
            config.write32(self.bdf, self.offset + 8, (address >> 32) as u32);
        }
        config.write16(self.bdf, self.data_offset(), data);
    }

    /// Enables with one vector granted, or disables.
    pub fn set_enabled(&self, config: &(impl ConfigSpace + ?Sized), enabled: bool) {
        let control = config.read16(self.bdf, self.offset + 2) & !(MSI_ENABLE | MSI_GRANTED);
        config.write16(self.bdf, self.offset + 2, control | if enabled { MSI_ENABLE } else { 0 });
    }
}

/// Where in a function's memory something lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The BAR, 0 to 5.
    pub bar: u8,
    /// Bytes from the BAR's start, a multiple of 8.
    pub offset: u32,
    /// Bytes it takes.
    pub bytes: u32,
}

impl Location {
    fn read(config: &(impl ConfigSpace + ?Sized), bdf: Bdf, offset: u16, bytes: u32) -> Option<Self> {
        let value = config.read32(bdf, offset);
        let bar = (value & 7) as u8;
        (bar < 6).then_some(Self { bar, offset: value & !7, bytes })
    }
}

/// The MSI-X capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    bdf: Bdf,
    /// Where the capability stands.
    pub offset: u16,
    /// Entries in the table, 1 to 2048.
    pub vectors: u16,
    /// The table.
    pub table: Location,
    /// The pending bits.
    pub pending: Location,
}

impl Msix {
    /// Bytes in an entry of the table: address (8), data (4), control (4, bit 0 masks).
    pub const ENTRY_BYTES: u32 = 16;

    /// The capability of `bdf`, if it has one that is whole. Whether the table fits its
    /// BAR is for the caller to check, who knows the BARs: see [`Msix::fits`].
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        let offset = find(config, bdf, id::MSIX, 0x0c)?;
        let vectors = (config.read16(bdf, offset + 2) & 0x7ff) + 1;
        let table = Location::read(config, bdf, offset + 4, u32::from(vectors) * Self::ENTRY_BYTES)?;
        let pending = Location::read(config, bdf, offset + 8, u32::from(vectors).div_ceil(64) * 8)?;
        Some(Self { bdf, offset, vectors, table, pending })
    }

    /// Whether table and pending bits lie within memory BARs of `bars`.
    #[must_use]
    pub fn fits(&self, bars: &[super::Bar]) -> bool {
        [self.table, self.pending].iter().all(|part| {
            let end = u64::from(part.offset) + u64::from(part.bytes);
            bars.iter().any(|bar| bar.index == part.bar && bar.kind != super::BarKind::Io && end <= bar.bytes)
        })
    }

    /// Whether it is enabled.
    #[must_use]
    pub fn is_enabled(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        config.read16(self.bdf, self.offset + 2) & MSIX_ENABLE != 0
    }

    /// Whether all vectors are masked at once.
    #[must_use]
    pub fn is_masked(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        config.read16(self.bdf, self.offset + 2) & MSIX_MASK != 0
    }

    /// Sets the enable bit and the bit that masks all vectors.
    pub fn set_control(&self, config: &(impl ConfigSpace + ?Sized), enabled: bool, masked: bool) {
        let mut control = config.read16(self.bdf, self.offset + 2) & !(MSIX_ENABLE | MSIX_MASK);
        if enabled {
            control |= MSIX_ENABLE;
        }
        if masked {
            control |= MSIX_MASK;
        }
        config.write16(self.bdf, self.offset + 2, control);
    }
}
