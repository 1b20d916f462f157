//! What can be wrong with a set. Each error names the record, and all blame the image that wrote it.

use core::fmt;

use crate::record::{Bdf, RecordName};

/// Why a decoded set is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphError {
    /// Two records of one kind have the same key.
    Duplicate {
        /// The second of them.
        record: RecordName,
    },
    /// A record stands behind one with a higher key.
    Disorder {
        /// The record.
        record: RecordName,
    },
    /// Two objects have one token.
    SameToken {
        /// One.
        first: RecordName,
        /// The other.
        second: RecordName,
    },
    /// A reference leads nowhere.
    Dangling {
        /// Where it starts.
        record: RecordName,
        /// In which field.
        field: &'static str,
        /// Where it should end.
        target: RecordName,
    },
    /// Two records that belong together disagree.
    Mismatch {
        /// One.
        first: RecordName,
        /// The other.
        second: RecordName,
        /// About what.
        what: &'static str,
    },
    /// A count is not what is there.
    Count {
        /// Who counts.
        record: RecordName,
        /// What.
        what: &'static str,
        /// As stored.
        stored: u64,
        /// As found.
        found: u64,
    },
    /// A record of which there must be exactly, or at most, one.
    NotOne {
        /// The kind.
        kind: &'static str,
        /// How many there are.
        found: usize,
    },
    /// A field holds a value it cannot have.
    Value {
        /// The record.
        record: RecordName,
        /// The field.
        field: &'static str,
        /// The value.
        value: u64,
    },
    /// Two ranges overlap.
    Overlap {
        /// One.
        first: RecordName,
        /// The other.
        second: RecordName,
        /// An address in both.
        address: u64,
    },
    /// A range lies in memory that is not there, or not its owner's.
    NotOwned {
        /// The record.
        record: RecordName,
        /// The field.
        field: &'static str,
        /// First byte.
        base: u64,
        /// Bytes.
        bytes: u64,
    },
    /// A device is in two domains.
    TwoDomains {
        /// The device.
        device: u32,
        /// One domain.
        first: u64,
        /// The other.
        second: u64,
    },
    /// Two domains claim one id of a unit.
    SameDomainId {
        /// The unit.
        unit: u32,
        /// The id.
        did: u32,
        /// One domain.
        first: u64,
        /// The other.
        second: u64,
    },
    /// Two devices send under one requester id.
    SameRequester {
        /// The id.
        requester: u32,
        /// One device.
        first: u32,
        /// The other.
        second: u32,
    },
    /// A bridge leads to itself.
    Circle {
        /// The bridge.
        record: RecordName,
    },
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Duplicate { record } => write!(f, "{record} is there twice")?,
            Self::Disorder { record } => write!(f, "{record} stands out of order")?,
            Self::SameToken { first, second } => write!(f, "{first} and {second} have one token")?,
            Self::Dangling { record, field, target } => {
                write!(f, "{record}: {field} leads to {target}, which is not there")?
            }
            Self::Mismatch { first, second, what } => write!(f, "{first} and {second} disagree about {what}")?,
            Self::Count { record, what, stored, found } => {
                write!(f, "{record} counts {stored} {what}, {found} are there")?
            }
            Self::NotOne { kind, found } => write!(f, "{found} {kind} records where one is due")?,
            Self::Value { record, field, value } => write!(f, "{record}: {field} cannot be {value:#x}")?,
            Self::Overlap { first, second, address } => write!(f, "{first} and {second} overlap at {address:#x}")?,
            Self::NotOwned { record, field, base, bytes } => {
                write!(f, "{record}: {field} at {base:#x} of {bytes:#x} bytes is not in memory of its owner")?
            }
            Self::TwoDomains { device, first, second } => {
                write!(f, "device {} is in the domains {first:#x} and {second:#x}", Bdf(device))?
            }
            Self::SameDomainId { unit, did, first, second } => {
                write!(f, "domains {first:#x} and {second:#x} both claim id {did} on unit {unit}")?
            }
            Self::SameRequester { requester, first, second } => {
                write!(f, "devices {} and {} both send as {}", Bdf(first), Bdf(second), Bdf(requester))?
            }
            Self::Circle { record } => write!(f, "{record}: the buses behind it include its own")?,
        }
        write!(f, "; the old image handed over a set that makes no sense, report it as a bug of that release")
    }
}

impl core::error::Error for GraphError {}
