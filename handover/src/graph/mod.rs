//! Whether a decoded set makes sense as a whole.
//!
//! [`validate`] looks at everything and may allocate: it runs at PLAN, in the sandbox. [`validate_rest`] looks
//! at what a refresh in the pause replaced, in one pass per kind, and does not allocate.
//!
//! Records of a kind stand in strictly ascending order of their keys: a duplicate is a neighbour, and
//! every reference is a binary search. References lead from device to domain to address space to guest, and
//! from extent to memory object to guest, by fields that name the kind; so they cannot form a circle. Bus
//! numbers of bridges could, and are checked for it.
//!
//! - [`error`]: what can be wrong
//! - `ranges`: the memory map, overlaps
//! - `machine`, `unit`, `memory`, `device`, `function`, `guest`, `interrupt`: the checks by subject

mod device;
pub mod error;
mod function;
mod guest;
mod interrupt;
mod machine;
mod memory;
mod ranges;
mod unit;

use alloc::vec::Vec;

pub use error::GraphError;
pub use guest::{place_bytes, vcpu_fields};

use crate::record::Record;
use crate::state::State;

/// The result of a check.
pub type Checked = Result<(), GraphError>;

/// Validates a whole set.
pub fn validate(state: &State) -> Checked {
    validate_plan(state)?;
    rest(state)
}

/// Validates the planned part of a set, when there is no rest yet.
pub fn validate_plan(state: &State) -> Checked {
    device::in_one_domain(state)?;
    state.first_disorder().map_or(Ok(()), Err)?;
    tokens(state)?;
    machine::check(state)?;
    unit::check(state)?;
    device::check(state)?;
    function::check(state)?;
    memory::check(state)?;
    guest::check(state)?;
    interrupt::no_shared_entries(state)
}

/// Validates what a refresh replaced, in a set that was valid before. Does not allocate.
pub fn validate_rest(state: &State) -> Checked {
    state.first_disorder_of_settled().map_or(Ok(()), Err)?;
    settled(state)?;
    validate_unsettled(state)
}

/// Likewise, when the refresh has found what is settled as it was.
pub fn validate_unsettled(state: &State) -> Checked {
    state.first_disorder_of_unsettled().map_or(Ok(()), Err)?;
    unsettled(state)
}

fn rest(state: &State) -> Checked {
    unsettled(state)?;
    settled(state)
}

fn unsettled(state: &State) -> Checked {
    unit::check_rest(state)?;
    guest::check_rest(state)
}

fn settled(state: &State) -> Checked {
    interrupt::check_rest(state)?;
    device::check_rest(state)
}

/// Tokens name one object each, whatever its kind.
fn tokens(state: &State) -> Checked {
    let mut all: Vec<(u64, crate::record::RecordName)> = Vec::new();
    all.extend(state.guests.iter().map(|record| (record.token, record.name())));
    all.extend(state.spaces.iter().map(|record| (record.token, record.name())));
    all.extend(state.objects.iter().map(|record| (record.token, record.name())));
    all.extend(state.domains.iter().map(|record| (record.token, record.name())));
    all.sort_unstable_by_key(|(token, _)| *token);
    if let Some((0, record)) = all.first() {
        return Err(GraphError::Value { record: *record, field: "token", value: 0 });
    }
    match all.array_windows().find(|[first, second]| first.0 == second.0) {
        Some([first, second]) => Err(GraphError::SameToken { first: first.1, second: second.1 }),
        None => Ok(()),
    }
}

/// The first record that does not follow its neighbour.
pub(crate) fn disorder<T: Record>(records: &[T]) -> Option<GraphError> {
    records.array_windows().find_map(|[first, second]| match first.key().cmp(&second.key()) {
        core::cmp::Ordering::Less => None,
        core::cmp::Ordering::Equal => Some(GraphError::Duplicate { record: second.name() }),
        core::cmp::Ordering::Greater => Some(GraphError::Disorder { record: second.name() }),
    })
}

/// The record with that key.
fn find<T: Record>(records: &[T], key: [u64; 2]) -> Option<&T> {
    records.binary_search_by_key(&key, T::key).ok().and_then(|index| records.get(index))
}

/// The records whose key starts with `major`.
fn group<T: Record>(records: &[T], major: u64) -> &[T] {
    let start = records.partition_point(|record| record.key()[0] < major);
    let rest = records.get(start..).unwrap_or_default();
    let length = rest.partition_point(|record| record.key()[0] == major);
    rest.get(..length).unwrap_or_default()
}

/// A reference from `from` by `field` to the record of `records` with that key.
fn follow<'a, T: Record>(
    from: &impl Record,
    field: &'static str,
    records: &'a [T],
    key: [u64; 2],
) -> Result<&'a T, GraphError> {
    find(records, key).ok_or(GraphError::Dangling {
        record: from.name(),
        field,
        target: crate::record::RecordName { kind: T::NAME, key },
    })
}

/// Refuses a value unless it is fine.
fn value(fine: bool, record: &impl Record, field: &'static str, value: u64) -> Checked {
    if fine { Ok(()) } else { Err(GraphError::Value { record: record.name(), field, value }) }
}

/// Refuses a count that is not what is there.
fn count(record: &impl Record, what: &'static str, stored: u64, found: usize) -> Checked {
    let found = found as u64;
    if stored == found { Ok(()) } else { Err(GraphError::Count { record: record.name(), what, stored, found }) }
}

/// One `Rest` for each `Whole`, with the same keys.
fn one_each<W: Record, R: Record>(wholes: &[W], rests: &[R]) -> Checked {
    let mut rests = rests.iter();
    for whole in wholes {
        let target = crate::record::RecordName { kind: R::NAME, key: whole.key() };
        match rests.next() {
            Some(rest) if rest.key() == whole.key() => {}
            Some(rest) if rest.key() < whole.key() => return Err(stray::<W>(rest)),
            _ => {
                return Err(GraphError::Dangling { record: whole.name(), field: "its other part", target });
            }
        }
    }
    rests.next().map_or(Ok(()), |rest| Err(stray::<W>(rest)))
}

fn stray<W: Record>(rest: &impl Record) -> GraphError {
    let target = crate::record::RecordName { kind: W::NAME, key: rest.key() };
    GraphError::Dangling { record: rest.name(), field: "what it belongs to", target }
}
