//! Access to configuration space.

use super::bdf::Bdf;
use crate::access::Width;

/// Configuration space of every function. What is not there reads as all ones and
/// swallows writes.
///
/// Offsets are aligned to the width; implementations answer others as if nothing were there.
pub trait ConfigSpace {
    /// Reads at `offset` (0 to 4095).
    fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32;
    /// Writes at `offset`.
    fn write(&self, bdf: Bdf, offset: u16, width: Width, value: u32);

    /// Reads a byte.
    fn read8(&self, bdf: Bdf, offset: u16) -> u8 {
        self.read(bdf, offset, Width::Byte) as u8
    }

    /// Reads two bytes.
    fn read16(&self, bdf: Bdf, offset: u16) -> u16 {
        self.read(bdf, offset, Width::Word) as u16
    }

    /// Reads four bytes.
    fn read32(&self, bdf: Bdf, offset: u16) -> u32 {
        self.read(bdf, offset, Width::Long)
    }

    /// Writes a byte.
    fn write8(&self, bdf: Bdf, offset: u16, value: u8) {
        self.write(bdf, offset, Width::Byte, value.into());
    }

    /// Writes two bytes.
    fn write16(&self, bdf: Bdf, offset: u16, value: u16) {
        self.write(bdf, offset, Width::Word, value.into());
    }

    /// Writes four bytes.
    fn write32(&self, bdf: Bdf, offset: u16, value: u32) {
        self.write(bdf, offset, Width::Long, value);
    }

    /// Whether a function answers at `bdf`.
    fn is_present(&self, bdf: Bdf) -> bool {
        // 0xFFFF: nobody. 0x0000 comes from broken bridges. 0x0001: not ready yet (PCIe 2.3.2).
        !matches!(self.read16(bdf, 0), 0xffff | 0 | 1)
    }
}

impl<C: ConfigSpace + ?Sized> ConfigSpace for &C {
    fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32 {
        (**self).read(bdf, offset, width)
    }

    fn write(&self, bdf: Bdf, offset: u16, width: Width, value: u32) {
        (**self).write(bdf, offset, width, value);
    }
}
