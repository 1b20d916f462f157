//! Why a page table refused a change. Nothing changed when one of these is returned.

use super::kinds::{Caching, Permissions};
use crate::addr::HostPhys;
use core::fmt;

/// Why a page table refused. The tree is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagingError {
    /// The format has no trees of so many levels.
    Levels {
        /// The format's name.
        format: &'static str,
        /// What was asked for.
        levels: u8,
    },
    /// The root is not the address of a frame.
    Root {
        /// What was given.
        root: HostPhys,
    },
    /// Address, target or length is not a multiple of 4 KiB, or the length is zero.
    Misaligned {
        /// First address of the range.
        at: u64,
        /// Where it was to lead.
        to: HostPhys,
        /// Length in bytes.
        bytes: u64,
    },
    /// The range ends above what the tree translates.
    OutOfRange {
        /// First address of the range.
        at: u64,
        /// Length in bytes.
        bytes: u64,
        /// Address bits that the tree translates.
        bits: u32,
    },
    /// The target ends above 2^52, the widest physical address.
    TargetOutOfRange {
        /// Where the range was to lead.
        to: HostPhys,
        /// Length in bytes.
        bytes: u64,
    },
    /// The format cannot say this.
    Unsupported {
        /// The format's name.
        format: &'static str,
        /// The permissions asked for.
        permissions: Permissions,
        /// The memory type asked for, where one was.
        caching: Option<Caching>,
    },
    /// Part of the range is mapped already.
    AlreadyMapped {
        /// The first such address in the range.
        at: u64,
    },
    /// Part of the range is not mapped.
    NotMapped {
        /// The first such address in the range.
        at: u64,
    },
    /// A leaf carries bits that this code did not write and could not keep in a split.
    Foreign {
        /// The first address of the leaf in the range.
        at: u64,
        /// The entry as found.
        entry: u64,
    },
    /// No memory for the tables.
    OutOfMemory {
        /// How many frames the change needs.
        tables: usize,
    },
}

impl fmt::Display for PagingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Levels { format, levels } => {
                write!(f, "{format} page tables cannot have {levels} levels; use what the hardware reports")
            }
            Self::Root { root } => write!(f, "page table root {root} is not the address of a frame below 2^52"),
            Self::Misaligned { at, to, bytes } => write!(
                f,
                "range {at:#x} to {to} of {bytes:#x} bytes is empty or not in units of 4 KiB; align all three"
            ),
            Self::OutOfRange { at, bytes, bits } => write!(
                f,
                "range {at:#x} of {bytes:#x} bytes ends above the {bits} address bits of this tree; lower it or use more levels"
            ),
            Self::TargetOutOfRange { to, bytes } => {
                write!(f, "target {to} of {bytes:#x} bytes ends above physical address bit 52")
            }
            Self::Unsupported { format, permissions, caching } => {
                write!(f, "{format} entries cannot express permissions {permissions}")?;
                if let Some(caching) = caching {
                    write!(f, " with memory type {caching:?}")?;
                }
                Ok(())
            }
            Self::AlreadyMapped { at } => {
                write!(f, "address {at:#x} is mapped already; unmap it first")
            }
            Self::NotMapped { at } => write!(f, "address {at:#x} is not mapped"),
            Self::Foreign { at, entry } => write!(
                f,
                "the entry {entry:#x} at address {at:#x} carries bits unknown to this version; it was left alone"
            ),
            Self::OutOfMemory { tables } => write!(f, "no memory for {tables} page table frames"),
        }
    }
}

impl core::error::Error for PagingError {}
