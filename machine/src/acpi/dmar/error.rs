//! What is wrong with a DMAR table, and where.

use crate::pci::Bdf;
use core::fmt;

/// The table cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmarError {
    /// Not a DMAR table, or shorter than one can be.
    Header,
    /// The stated length is below 48 or beyond what is there.
    Length {
        /// The stated length in bytes.
        stated: u32,
        /// How many bytes there are.
        bytes: usize,
    },
    /// The bytes don't add up to zero.
    Checksum,
    /// A structure's length is less than its type needs, or leaves the table.
    Structure {
        /// The structure's type.
        kind: u16,
        /// Its offset in the table.
        offset: usize,
        /// Its stated length in bytes.
        bytes: u16,
    },
    /// A device scope's length is odd, too small, or leaves its structure, or its path is impossible.
    Scope {
        /// The offset of the scope in the table.
        offset: usize,
        /// Its stated length in bytes.
        bytes: u8,
    },
    /// A unit's or reserved region's address is impossible.
    Address {
        /// The offset of the structure in the table.
        offset: usize,
        /// The address.
        address: u64,
    },
    /// The table names no unit.
    NoUnits,
}

impl fmt::Display for DmarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("firmware's DMAR table ")?;
        match self {
            Self::Header => f.write_str("has no valid header"),
            Self::Length { stated, bytes } => {
                write!(f, "states {stated} bytes, of which there are {bytes}")
            }
            Self::Checksum => f.write_str("fails its checksum"),
            Self::Structure { kind, offset, bytes } => {
                write!(f, "has a structure of type {kind} with impossible length {bytes} at offset {offset:#x}")
            }
            Self::Scope { offset, bytes } => {
                write!(f, "has an impossible device scope of {bytes} bytes at offset {offset:#x}")
            }
            Self::Address { offset, address } => {
                write!(f, "has an impossible address {address:#x} in the structure at offset {offset:#x}")
            }
            Self::NoUnits => f.write_str("names no unit"),
        }?;
        f.write_str("; devices cannot be assigned, update the firmware")
    }
}

impl core::error::Error for DmarError {}

/// Part of the table is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DmarWarning {
    /// A structure of a type that is not known.
    Unknown {
        /// The type.
        kind: u16,
        /// Its offset in the table.
        offset: usize,
    },
    /// A structure that only advises is broken.
    Skipped(DmarError),
    /// More than one unit claims all that is left of a segment; the first is believed.
    TwoCatchAll {
        /// The segment.
        segment: u16,
        /// The offset of the second in the table.
        offset: usize,
    },
}

impl fmt::Display for DmarWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { kind, offset } => {
                write!(f, "firmware's DMAR table has a structure of unknown type {kind} at offset {offset:#x}; skipped")
            }
            Self::Skipped(error) => write!(f, "skipped part of a table: {error}"),
            Self::TwoCatchAll { segment, offset } => write!(
                f,
                "firmware's DMAR table has a second unit for all of segment {segment:04x} at offset {offset:#x}; the first is used"
            ),
        }
    }
}

/// A scope's path leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeError {
    /// A hop that should be a bridge is not, or is not there.
    NotABridge {
        /// The hop.
        hop: Bdf,
    },
    /// A bridge on the path has impossible bus numbers.
    BusNumber {
        /// The bridge.
        bridge: Bdf,
        /// The bus it says is behind it.
        secondary: u8,
    },
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotABridge { hop } => {
                write!(f, "firmware's DMAR table has a path through {hop}, where there is no bridge")
            }
            Self::BusNumber { bridge, secondary } => write!(
                f,
                "firmware's DMAR table has a path through bridge {bridge}, which leads to bus {secondary:02x}, not below itself"
            ),
        }
    }
}

impl core::error::Error for ScopeError {}
