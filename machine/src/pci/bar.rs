//! Base address registers: PCI 6.2.5, PCIe 7.5.1.2.1.

use super::bdf::Bdf;
use super::config::ConfigSpace;
use super::header::{Command, HeaderKind, register};
use crate::addr::HostPhys;
use alloc::vec::Vec;
use core::fmt;

/// What a BAR decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Io,
    /// Memory below 4 GiB.
    Memory32 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere; takes two registers.
    Memory64 {
        /// Reads have no side effects.
        prefetchable: bool,
    },
}

/// One BAR with its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Which register, 0 to 5 (the lower of two for 64 bits).
    pub index: u8,
    /// What it decodes.
    pub kind: BarKind,
    /// Where, as firmware set it; 0 if firmware did not.
    pub address: HostPhys,
    /// Bytes (or ports), a power of two.
    pub bytes: u64,
}

/// A BAR makes no sense; the function cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarError {
    /// Nobody answers.
    Gone {
        /// The function.
        bdf: Bdf,
    },
    /// The reserved memory type.
    Kind {
        /// The function.
        bdf: Bdf,
        /// The register.
        index: u8,
    },
    /// A 64-bit BAR in the last register.
    Half {
        /// The function.
        bdf: Bdf,
        /// The register.
        index: u8,
    },
    /// The writable bits are not a run from the top, so there is no size.
    Size {
        /// The function.
        bdf: Bdf,
        /// The register.
        index: u8,
        /// What was read back after all ones were written.
        readback: u64,
    },
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone { bdf } => write!(f, "device {bdf} does not answer"),
            Self::Kind { bdf, index } => {
                write!(f, "device {bdf} has a BAR {index} of reserved type")
            }
            Self::Half { bdf, index } => write!(f, "device {bdf} has a 64-bit BAR in register {index}, the last"),
            Self::Size { bdf, index, readback } => {
                write!(f, "device {bdf} has a BAR {index} without a size (reads back {readback:#x})")
            }
        }?;
        f.write_str("; the device is broken or gone and cannot be assigned")
    }
}

impl core::error::Error for BarError {}

/// Reads and sizes the BARs of `bdf`. Registers that are not implemented are left out.
///
/// Sizing writes to the BARs with decoding off, and puts back both: the function must
/// not be in use. A function that a guest holds (or held before an upgrade) is never sized.
pub fn bars(config: &(impl ConfigSpace + ?Sized), bdf: Bdf, header: HeaderKind) -> Result<Vec<Bar>, BarError> {
    let count = match header {
        HeaderKind::Endpoint => 6,
        HeaderKind::Bridge { .. } => 2,
        HeaderKind::Other(_) => 0,
    };
    if !config.is_present(bdf) {
        return Err(BarError::Gone { bdf });
    }
    let command = Command::read(config, bdf);
    (command - (Command::IO | Command::MEMORY)).write(config, bdf);
    let result = size_all(config, bdf, register::BAR0, count);
    command.write(config, bdf);
    result
}

/// Sizes `count` registers from `first` on, which are not decoded.
pub(super) fn size_all(
    config: &(impl ConfigSpace + ?Sized),
    bdf: Bdf,
    first: u16,
    count: u8,
) -> Result<Vec<Bar>, BarError> {
    let mut bars = Vec::new();
    let mut index = 0;
    while index < count {
        let (low, probe) = probe(config, bdf, first + u16::from(index) * 4);
        let size_error = |readback| BarError::Size { bdf, index, readback };
        if low & 1 != 0 {
            // The upper 16 bits may be hard-wired to zero.
            let mask = u64::from(probe & !3) | 0xffff_0000;
            if probe & 0xfffc != 0 {
                let bytes = size(mask, 0xffff_ffff).ok_or_else(|| size_error(mask))?;
                let address = HostPhys(u64::from(low & !3 & 0xffff));
                bars.push(Bar { index, kind: BarKind::Io, address, bytes });
            }
            index += 1;
            continue;
        }
        let prefetchable = low & 8 != 0;
        match low >> 1 & 3 {
            0 | 1 => {
                let mask = u64::from(probe & !0xf);
                if mask != 0 {
                    let bytes = size(mask, 0xffff_ffff).ok_or_else(|| size_error(mask))?;
                    let address = HostPhys(u64::from(low & !0xf));
                    bars.push(Bar { index, kind: BarKind::Memory32 { prefetchable }, address, bytes });
                }
                index += 1;
            }
            2 if index + 1 < count => {
                let (high, high_probe) = self::probe(config, bdf, first + u16::from(index) * 4 + 4);
                let mask = u64::from(high_probe) << 32 | u64::from(probe & !0xf);
                if mask != 0 {
                    let bytes = size(mask, u64::MAX).ok_or_else(|| size_error(mask))?;
                    let address = HostPhys(u64::from(high) << 32 | u64::from(low & !0xf));
                    bars.push(Bar { index, kind: BarKind::Memory64 { prefetchable }, address, bytes });
                }
                index += 2;
            }
            2 => return Err(BarError::Half { bdf, index }),
            _ => return Err(BarError::Kind { bdf, index }),
        }
    }
    Ok(bars)
}

/// The register's value, and what it reads after all ones were written.
fn probe(config: &(impl ConfigSpace + ?Sized), bdf: Bdf, offset: u16) -> (u32, u32) {
    let value = config.read32(bdf, offset);
    config.write32(bdf, offset, u32::MAX);
    let probe = config.read32(bdf, offset);
    config.write32(bdf, offset, value);
    (value, probe)
}

/// The size that a mask of writable address bits means, if they run up to the top of `width`.
fn size(mask: u64, width: u64) -> Option<u64> {
    let bytes = (!mask & width).checked_add(1)?;
    bytes.is_power_of_two().then_some(bytes)
}
