//! Address spaces, memory objects, extents.

use alloc::vec::Vec;

use super::ranges::{FRAME, MESSAGE_BASE, MESSAGE_BYTES, Range, disjoint, frames, memory_in, owned, unit_registers};
use super::{Checked, GraphError, count, follow, group, value};
use crate::record::Record;
use crate::state::machine::{OWNER_ARENA, OWNER_OBJECTS};
use crate::state::memory::{NESTED_EPT, NESTED_NPT};
use crate::state::{State, text};

pub(super) fn check(state: &State) -> Checked {
    for space in &state.spaces {
        value((4..=5).contains(&space.levels), space, "levels", space.levels.into())?;
        value((NESTED_NPT..=NESTED_EPT).contains(&space.format), space, "format", space.format.into())?;
        value(space.leaf_mask & !7 == 0 && space.leaf_mask & 1 == 1, space, "leaf sizes", space.leaf_mask.into())?;
        frames(space, "root", space.nested_root, FRAME)?;
        owned(&state.regions, OWNER_ARENA, space, "root", space.nested_root, FRAME)?;
        let guest = follow(space, "guest", &state.guests, [space.guest, 0])?;
        if guest.space != space.token {
            return Err(GraphError::Mismatch {
                first: space.name(),
                second: guest.name(),
                what: "whose address space it is",
            });
        }
    }
    objects(state)?;
    extents(state)?;
    reserved(state)?;
    mappings(state)
}

fn objects(state: &State) -> Checked {
    for object in &state.objects {
        follow(object, "owner", &state.guests, [object.owner, 0])?;
        value(text(&object.tag).is_some_and(|tag| !tag.is_empty()), object, "tag", 0)?;
        let extents = group(&state.extents, object.token);
        count(object, "extents", object.extent_count.into(), extents.len())?;
        let bytes = extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.bytes));
        value(bytes == Some(object.bytes), object, "bytes", object.bytes)?;
    }
    Ok(())
}

fn extents(state: &State) -> Checked {
    let mut host = Vec::with_capacity(state.extents.len());
    for extent in &state.extents {
        follow(extent, "memory object", &state.objects, [extent.object, 0])?;
        frames(extent, "guest range", extent.guest_base, extent.bytes)?;
        frames(extent, "host range", extent.host_base, extent.bytes)?;
        owned(&state.regions, OWNER_OBJECTS, extent, "host range", extent.host_base, extent.bytes)?;
        host.push(Range { space: 0, base: extent.host_base, bytes: extent.bytes, record: extent.name() });
    }
    disjoint(host)
}

/// Devices of one guest reach what is reserved for them: nobody's memory, no registers, and no other guest's.
fn reserved(state: &State) -> Checked {
    let mut all = Vec::with_capacity(state.reserved.len());
    for range in &state.reserved {
        follow(range, "address space", &state.spaces, [range.space, 0])?;
        frames(range, "range", range.base, range.bytes)?;
        if let Some(region) = memory_in(&state.regions, range.base, range.bytes) {
            let address = range.base.max(region.base);
            return Err(GraphError::Overlap { first: range.name(), second: region.name(), address });
        }
        let end = range.base.saturating_add(range.bytes);
        value(end <= MESSAGE_BASE || range.base >= MESSAGE_BASE + MESSAGE_BYTES, range, "range", range.base)?;
        all.push(Range { space: 0, base: range.base, bytes: range.bytes, record: range.name() });
    }
    all.extend(state.units.iter().map(unit_registers));
    disjoint(all)
}

fn mappings(state: &State) -> Checked {
    for mapping in &state.space_objects {
        let space = follow(mapping, "address space", &state.spaces, [mapping.space, 0])?;
        let object = follow(mapping, "memory object", &state.objects, [mapping.object, 0])?;
        if space.guest != object.owner {
            return Err(GraphError::Mismatch {
                first: space.name(),
                second: object.name(),
                what: "the guest they belong to",
            });
        }
    }
    guest_ranges(state)
}

/// What a guest sees at one address is one thing: extents, reserved ranges and mapped BARs are disjoint in its space.
///
/// A mapping per pair of space and object, so the sum of extents looked at is bounded by their number
/// times the spaces of one guest, of which [`check`] allows one.
fn guest_ranges(state: &State) -> Checked {
    let mut ranges = Vec::new();
    for mapping in &state.space_objects {
        let extents = group(&state.extents, mapping.object);
        ranges.extend(extents.iter().map(|extent| Range {
            space: mapping.space,
            base: extent.guest_base,
            bytes: extent.bytes,
            record: extent.name(),
        }));
    }
    ranges.extend(state.reserved.iter().map(|range| Range {
        space: range.space,
        base: range.base,
        bytes: range.bytes,
        record: range.name(),
    }));
    for bar in super::device::mapped_bars(state) {
        let (space, bar) = bar?;
        ranges.push(Range { space, base: bar.guest_base, bytes: bar.bytes, record: bar.name() });
    }
    disjoint(ranges)
}
