//! Between the run-time state of this release (0.1) and the records of handover format 1, both ways. All
//! such glue is here; a later format gets its own, tagged by the release that reads or writes it.
//!
//! Saving appends records to a [`State`](handover::State); `State::sort` puts them in order when all are there. What belongs to the plan
//! and what is written at FREEZE are saved apart. Loading wants a set that `handover::graph` has validated (it relies on the
//! order), checks every value all the same, and never panics: what this image cannot be is refused by name.
//!
//! - [`machine`]: clocks, pCPUs, memory map, modules, bridges
//! - [`memory`]: address spaces and what backs them
//! - [`guest`]: guests as wholes
//! - [`vcpu`]: registers and extended state
//! - [`lapic`]: the private part of a vCPU's platform: LAPIC, clock registrations, emulated MSRs
//! - [`platform`]: what the vCPUs of a guest share
//! - [`pci`]: assigned functions and their interrupts' routes
//! - [`iommu`]: units, domains, attached devices, remapping entries, faults
//! - [`management`]: how Baton is reached, what is counted since power-on
//! - [`report`]: what became of upgrades
//! - [`trust`]: whose images may be staged
//!
//! Deliberately not saved, since it follows from what is: domain ids in use (from those of the domains), which unit
//! translates for which device (from ACPI), multiplier and shift of clocks (from the frequency), line status and interrupt
//! line of UARTs, logical APIC ids, a function's class, capabilities and sizes (from the device), exit counters
//! (they count since an image runs).

pub mod guest;
pub mod iommu;
pub mod lapic;
pub mod machine;
pub mod management;
pub mod memory;
pub mod pci;
pub mod platform;
pub mod report;
pub mod trust;
pub mod vcpu;

#[cfg(test)]
mod tests;

use alloc::string::String;
use core::fmt;

use handover::record::{Record, RecordName};
use handover::state::text;

/// Why run-time state does not become a record, or a record does not become run-time state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvertError {
    /// A record is not there.
    Missing {
        /// Which one.
        record: RecordName,
    },
    /// A record is there that this image has no use for.
    Unexpected {
        /// Which one.
        record: RecordName,
    },
    /// A field holds a value that this image cannot take over.
    Value {
        /// The record.
        record: RecordName,
        /// The field.
        field: &'static str,
        /// The value.
        value: u64,
    },
    /// Records that belong together do not count up.
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
    /// A field is not UTF-8, or does not end where it should.
    Text {
        /// The record.
        record: RecordName,
        /// The field.
        field: &'static str,
    },
    /// Run-time state that no record of this format can hold.
    Unsaved {
        /// The record it should be in.
        record: RecordName,
        /// What.
        what: &'static str,
        /// Its value.
        value: u64,
    },
}

impl fmt::Display for ConvertError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Missing { record } => write!(f, "{record} is missing")?,
            Self::Unexpected { record } => write!(f, "{record} is nothing this image can take over")?,
            Self::Value { record, field, value } => write!(f, "{record}: {field} cannot be {value:#x} here")?,
            Self::Count { record, what, stored, found } => {
                write!(f, "{record} counts {stored} {what}, {found} are there")?;
            }
            Self::Text { record, field } => write!(f, "{record}: {field} is not text")?,
            Self::Unsaved { record, what, value } => {
                return write!(f, "{record}: {what} {value:#x} has no place in the record; this image is at fault");
            }
        }
        f.write_str("; the old image is at fault, or is not one this image can follow")
    }
}

impl core::error::Error for ConvertError {}

/// The result of a conversion.
pub type Converted<T> = Result<T, ConvertError>;

/// The record with that key, in records that stand in order.
fn find<T: Record>(records: &[T], key: [u64; 2]) -> Converted<&T> {
    let index = records.binary_search_by_key(&key, T::key).ok();
    index
        .and_then(|index| records.get(index))
        .ok_or(ConvertError::Missing { record: RecordName { kind: T::NAME, key } })
}

/// The records whose key starts with `major`, in records that stand in order.
fn group<T: Record>(records: &[T], major: u64) -> &[T] {
    let start = records.partition_point(|record| record.key()[0] < major);
    let rest = records.get(start..).unwrap_or_default();
    let length = rest.partition_point(|record| record.key()[0] == major);
    rest.get(..length).unwrap_or_default()
}

/// The one record of a kind.
fn single<T: Record>(records: &[T]) -> Converted<&T> {
    optional(records)?.ok_or(ConvertError::Missing { record: RecordName { kind: T::NAME, key: [0, 0] } })
}

/// The one record of a kind, if there is one.
fn optional<T: Record>(records: &[T]) -> Converted<Option<&T>> {
    match records {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        [_, second, ..] => Err(ConvertError::Unexpected { record: second.name() }),
    }
}

/// A refusal of `field`.
fn refuse<T>(record: &impl Record, field: &'static str, value: impl Into<u64>) -> Converted<T> {
    Err(ConvertError::Value { record: record.name(), field, value: value.into() })
}

/// Refuses `field` unless it is fine.
fn require(fine: bool, record: &impl Record, field: &'static str, value: impl Into<u64>) -> Converted<()> {
    if fine { Ok(()) } else { refuse(record, field, value) }
}

/// A number in the narrower type that this image has for it.
fn narrow<N: TryFrom<u64>>(record: &impl Record, field: &'static str, value: impl Into<u64>) -> Converted<N> {
    let value = value.into();
    N::try_from(value).or_else(|_| refuse(record, field, value))
}

/// A yes or no.
fn flag(record: &impl Record, field: &'static str, value: impl Into<u64>) -> Converted<bool> {
    match value.into() {
        0 => Ok(false),
        1 => Ok(true),
        other => refuse(record, field, other),
    }
}

/// The text in a field.
fn read_text(record: &impl Record, field: &'static str, bytes: &[u8]) -> Converted<String> {
    check_text(record, field, bytes).map(String::from)
}

/// Likewise, as it lies there.
fn check_text<'a>(record: &impl Record, field: &'static str, bytes: &'a [u8]) -> Converted<&'a str> {
    text(bytes).ok_or(ConvertError::Text { record: record.name(), field })
}

/// A text for people as a field, cut between characters to what fits. Zeros, which end a text, are left out.
fn cut_text<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    let mut at = 0;
    for character in text.chars().filter(|character| *character != '\0') {
        let end = at + character.len_utf8();
        let Some(place) = field.get_mut(at..end) else {
            break;
        };
        character.encode_utf8(place);
        at = end;
    }
    field
}

/// A name as a field: whole or not at all.
fn name_text<const N: usize>(record: &impl Fn() -> RecordName, what: &'static str, text: &str) -> Converted<[u8; N]> {
    let field = cut_text(text);
    if handover::state::text(&field) == Some(text) {
        Ok(field)
    } else {
        Err(ConvertError::Unsaved { record: record(), what, value: text.len() as u64 })
    }
}

/// The name of a record that is not made yet.
const fn name_of<T: Record>(key: [u64; 2]) -> RecordName {
    RecordName { kind: T::NAME, key }
}
