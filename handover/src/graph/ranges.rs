//! Ranges of addresses: the memory map, and who overlaps whom.

use alloc::vec::Vec;

use super::{Checked, GraphError};
use crate::record::{Record, RecordName};
use crate::state::machine::{REGION_RAM, RegionV1};
use crate::state::unit::UnitV1;

/// Bytes of a page frame.
pub(super) const FRAME: u64 = 4096;
/// No physical address is this high (SDM 3A 4.1.4).
pub(super) const ADDRESS_LIMIT: u64 = 1 << 52;

/// Where LAPICs and interrupt messages are (SDM 3A 12.11.1): no BAR, and nothing that devices reach as memory.
pub(super) const MESSAGE_BASE: u64 = 0xfee0_0000;
/// Bytes of that range.
pub(super) const MESSAGE_BYTES: u64 = 1 << 20;
/// Bytes of a unit's registers that nothing may touch.
const UNIT_BYTES: u64 = 4096;

/// Refuses a range that is empty, wraps, or is not a whole number of frames.
pub(super) fn frames(record: &impl Record, field: &'static str, base: u64, bytes: u64) -> Checked {
    let end = base.checked_add(bytes).filter(|end| *end <= ADDRESS_LIMIT);
    let fine = end.is_some() && bytes > 0 && base.is_multiple_of(FRAME) && bytes.is_multiple_of(FRAME);
    super::value(fine, record, field, base)
}

/// Refuses a range that is not wholly in memory of `owner`. `regions` are sorted and disjoint.
pub(super) fn owned(
    regions: &[RegionV1],
    owner: u32,
    record: &impl Record,
    field: &'static str,
    base: u64,
    bytes: u64,
) -> Checked {
    let error = GraphError::NotOwned { record: record.name(), field, base, bytes };
    let end = base.checked_add(bytes).ok_or(error)?;
    let mut at = base;
    let first = regions.partition_point(|region| region.base.saturating_add(region.bytes) <= base);
    for region in regions.get(first..).unwrap_or_default() {
        if at >= end {
            break;
        }
        if region.base > at || region.firmware_type != REGION_RAM || region.owner != owner {
            return Err(error);
        }
        at = region.base.saturating_add(region.bytes);
    }
    if at >= end && bytes > 0 { Ok(()) } else { Err(error) }
}

/// The first memory region that a range touches.
pub(super) fn memory_in(regions: &[RegionV1], base: u64, bytes: u64) -> Option<&RegionV1> {
    let end = base.saturating_add(bytes);
    let first = regions.partition_point(|region| region.base.saturating_add(region.bytes) <= base);
    let touched = regions.get(first..).unwrap_or_default().iter().take_while(|region| region.base < end);
    touched.into_iter().find(|region| region.firmware_type == REGION_RAM)
}

/// A range, in one space of addresses among several (a guest's, say), and whose it is.
pub(super) struct Range {
    pub(super) space: u64,
    pub(super) base: u64,
    pub(super) bytes: u64,
    pub(super) record: RecordName,
}

/// A unit's registers.
pub(super) fn unit_registers(unit: &UnitV1) -> Range {
    Range { space: 0, base: unit.register_base, bytes: UNIT_BYTES, record: unit.name() }
}

/// Refuses ranges of one space that overlap.
pub(super) fn disjoint(mut ranges: Vec<Range>) -> Checked {
    ranges.sort_unstable_by_key(|range| (range.space, range.base));
    let overlap = ranges
        .array_windows()
        .find(|[first, second]| first.space == second.space && first.base.saturating_add(first.bytes) > second.base);
    match overlap {
        Some([first, second]) => {
            Err(GraphError::Overlap { first: first.record, second: second.record, address: second.base })
        }
        None => Ok(()),
    }
}
