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
    /// A unit's address is impossible.
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
    /// A unit that was there before; it is one unit with the devices of both.
    SameUnit {
        /// The offset of the second in the table.
        offset: usize,
        /// Its registers.
        address: u64,
    },
    /// The registers of a unit reach into those of another; they are taken to end there.
    Overlap {
        /// The offset of the lower one in the table.
        offset: usize,
        /// Where the other begins.
        address: u64,
    },
    /// Reserved memory at an impossible address: taken to be everywhere, so that its devices are refused.
    Reserved {
        /// The offset of the structure in the table.
        offset: usize,
        /// The address.
        address: u64,
    },
    /// A device scope of a type that is not known.
    UnknownScope {
        /// The type.
        kind: u8,
        /// Its offset in the table.
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
            Self::SameUnit { offset, address } => {
                write!(
                    f,
                    "firmware's DMAR table has the unit at {address:#x} again at offset {offset:#x}; taken as one"
                )
            }
            Self::Overlap { offset, address } => write!(
                f,
                "firmware's DMAR table has a unit at offset {offset:#x} whose registers reach into those at {address:#x}; cut"
            ),
            Self::Reserved { offset, address } => write!(
                f,
                "firmware's DMAR table reserves memory at an impossible address {address:#x} at offset {offset:#x}; its \
                 devices are refused, update the firmware"
            ),
            Self::UnknownScope { kind, offset } => write!(
                f,
                "firmware's DMAR table has a device scope of unknown type {kind} at offset {offset:#x}; skipped"
            ),
        }
    }
}

/// A scope leads nowhere, or where another does. Its device stays without a unit, or with the one it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeError {
    /// A hop that should be a bridge is not, or is not there.
    NotABridge {
        /// The offset of the scope in the table.
        offset: usize,
        /// The hop.
        hop: Bdf,
    },
    /// A bridge has impossible bus numbers.
    BusNumber {
        /// The offset of the scope in the table.
        offset: usize,
        /// The bridge.
        bridge: Bdf,
        /// The bus it says is behind it.
        secondary: u8,
    },
    /// Another unit has the same already.
    Taken {
        /// The offset of the scope in the table.
        offset: usize,
        /// What it names.
        device: Bdf,
    },
    /// No structure gives the number of a device that AML names.
    Nameless {
        /// The offset of the scope in the table.
        offset: usize,
        /// The number.
        number: u8,
    },
}

impl fmt::Display for ScopeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("firmware's DMAR table has a device scope at offset ")?;
        match self {
            Self::NotABridge { offset, hop } => {
                write!(f, "{offset:#x} with a path through {hop}, where there is no bridge; skipped")
            }
            Self::BusNumber { offset, bridge, secondary } => write!(
                f,
                "{offset:#x} with a path through bridge {bridge}, which leads to bus {secondary:02x}, not below itself; \
                 skipped"
            ),
            Self::Taken { offset, device } => {
                write!(f, "{offset:#x} that gives {device} to a second unit; the first is used")
            }
            Self::Nameless { offset, number } => {
                write!(f, "{offset:#x} for the named device {number}, which no structure names; its path is used")
            }
        }
    }
}

impl core::error::Error for ScopeError {}

/// A reserved region can't be mapped for its devices; they can't be given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedError {
    /// The offset of the structure in the table.
    pub offset: usize,
    /// The first byte.
    pub base: u64,
    /// The last byte.
    pub last: u64,
    /// Whether the memory map says the memory is free to use; otherwise it is Baton's.
    pub free: bool,
}

impl fmt::Display for ReservedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, base, last, free } = self;
        let whose = if *free { "which the memory map says is free" } else { "which is Baton's" };
        write!(
            f,
            "firmware's DMAR table reserves {base:#x} to {last:#x} at offset {offset:#x}, {whose}: its devices can't be given \
             to a guest, update the firmware"
        )
    }
}

impl core::error::Error for ReservedError {}
