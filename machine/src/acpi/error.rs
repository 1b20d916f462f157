//! What is wrong with firmware's tables.

use crate::addr::HostPhys;
use core::fmt;

/// The four letters that name a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 4]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Nothing can be learnt from firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// The root pointer is not one, or fails its checksum.
    RootPointer {
        /// Where it was to be.
        at: HostPhys,
    },
    /// Neither XSDT nor RSDT can be read.
    RootTable {
        /// The root pointer.
        at: HostPhys,
        /// What is wrong with the table it names.
        why: AcpiWarning,
    },
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RootPointer { at } => {
                write!(f, "no valid ACPI root pointer at {at}; the boot loader or firmware gave a wrong one")
            }
            Self::RootTable { at, why } => {
                write!(f, "the ACPI root pointer at {at} leads nowhere: {why}")
            }
        }
    }
}

impl core::error::Error for AcpiError {}

/// A table is left out, as if firmware did not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiWarning {
    /// It lies where nothing can be read.
    Unreadable {
        /// Its address.
        at: HostPhys,
    },
    /// Its length is absurd.
    Length {
        /// Its name.
        table: Signature,
        /// Its address.
        at: HostPhys,
        /// The length it states, in bytes.
        bytes: u32,
    },
    /// Its bytes don't add up to zero.
    Checksum {
        /// Its name.
        table: Signature,
        /// Its address.
        at: HostPhys,
    },
    /// Another table than the one that belongs there.
    Wrong {
        /// Its name.
        table: Signature,
        /// Its address.
        at: HostPhys,
    },
    /// A structure in it has an impossible length.
    Structure {
        /// The table's name.
        table: Signature,
        /// Offset of the structure in the table.
        offset: usize,
        /// The length it states, in bytes.
        bytes: u8,
    },
    /// Something in it is outside what this machine can be.
    Value {
        /// The table's name.
        table: Signature,
        /// Offset of the value in the table.
        offset: usize,
    },
}

impl fmt::Display for AcpiWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { at } => {
                write!(f, "firmware's ACPI table at {at} is not in readable memory")
            }
            Self::Length { table, at, bytes } => {
                write!(f, "firmware's ACPI table {table} at {at} states an impossible length of {bytes} bytes")
            }
            Self::Checksum { table, at } => write!(f, "firmware's ACPI table {table} at {at} fails its checksum"),
            Self::Wrong { table, at } => {
                write!(f, "firmware's ACPI table at {at} is {table}, which does not belong there")
            }
            Self::Structure { table, offset, bytes } => write!(
                f,
                "firmware's ACPI table {table} has a structure of impossible length {bytes} at offset {offset:#x}"
            ),
            Self::Value { table, offset } => {
                write!(f, "firmware's ACPI table {table} has a value out of range at offset {offset:#x}")
            }
        }?;
        f.write_str("; the table is ignored")
    }
}
