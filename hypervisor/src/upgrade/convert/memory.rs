//! Release 0.1, format 1: a guest's address space and RAM.

use guest_loader::layout::GuestRange;
use handover::State;
use handover::record::Record;
use handover::state::memory::{ExtentV1, NESTED_EPT, NESTED_NPT, ObjectV1, ReservedV1, SpaceObjectV1, SpaceV1};
use handover::state::{name_field, text};
use machine::addr::{GuestPhys, HostPhys, PAGE_SIZE};
use machine::paging::LeafSizes;

use super::{ConvertError, Converted, find, group, name_of, narrow, require};
use crate::machine_cpus;
use crate::vm::memory::{AddressSpace, Extent, GuestRam};

/// The tag of the object that is a guest's RAM.
const RAM: &str = "ram";

/// Nested page tables by their root, for `AddressSpace::adopt`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceState {
    /// Name across images.
    pub token: u64,
    /// The root table.
    pub root: HostPhys,
    /// Levels of the tree.
    pub levels: u8,
    /// Leaf sizes used.
    pub leaves: LeafSizes,
}

impl SpaceState {
    /// What an address space is made of.
    #[must_use]
    pub fn of(space: &AddressSpace) -> Self {
        Self { token: space.token, root: space.root(), levels: space.levels(), leaves: space.leaf_sizes() }
    }
}

/// Leaf sizes as records hold them: bit 0 for 4 KiB, bit 1 for 2 MiB, bit 2 for 1 GiB.
pub(super) fn leaf_mask(leaves: LeafSizes) -> u32 {
    1 | u32::from(leaves.two_mib) << 1 | u32::from(leaves.one_gib) << 2
}

/// Likewise, back.
pub(super) fn leaf_sizes(record: &impl Record, mask: u32) -> Converted<LeafSizes> {
    require(mask & !6 == 1, record, "leaf sizes", mask)?;
    Ok(LeafSizes { two_mib: mask & 2 != 0, one_gib: mask & 4 != 0 })
}

/// The format that this machine's CPUs walk.
fn nested() -> u32 {
    if machine_cpus::has_ept() { NESTED_EPT } else { NESTED_NPT }
}

/// Appends what guest `guest` sees as memory. Part of the plan.
pub fn save(state: &mut State, guest: u64, space: &SpaceState, ram: &GuestRam) {
    state.spaces.push(SpaceV1 {
        token: space.token,
        guest,
        nested_root: space.root.get(),
        levels: space.levels.into(),
        format: nested(),
        leaf_mask: leaf_mask(space.leaves),
        reserved: [0; 4],
    });
    state.objects.push(ObjectV1 {
        token: ram.token,
        owner: guest,
        bytes: ram.extents.iter().map(|extent| extent.bytes).fold(0, u64::wrapping_add),
        tag: name_field(RAM).unwrap_or_default(),
        extent_count: ram.extents.len() as u32,
        reserved: [0; 4],
    });
    state.extents.extend(ram.extents.iter().map(|extent| ExtentV1 {
        object: ram.token,
        guest_base: extent.guest.get(),
        host_base: extent.host.get(),
        bytes: extent.bytes,
    }));
    state.space_objects.push(SpaceObjectV1 { space: space.token, object: ram.token });
    state.reserved.extend(ram.reserved.iter().map(|range| ReservedV1 {
        space: space.token,
        base: range.start.get(),
        bytes: range.bytes,
    }));
}

/// What guest `guest` sees as memory.
///
/// # Errors
/// It has not exactly one address space that maps exactly one object, its RAM; or tables this image cannot walk.
pub fn load(state: &State, guest: u64) -> Converted<(SpaceState, GuestRam)> {
    let token = find(&state.guests, [guest, 0])?.space;
    let space = find(&state.spaces, [token, 0])?;
    require(space.guest == guest, space, "guest", space.guest)?;
    require(space.format == nested(), space, "format", space.format)?;
    let root = HostPhys(space.nested_root);
    require(root.is_aligned(PAGE_SIZE), space, "root", root.get())?;
    let levels = narrow(space, "levels", space.levels)?;
    require((4..=5).contains(&levels), space, "levels", space.levels)?;

    let mut owned = state.objects.iter().filter(|object| object.owner == guest);
    let object = owned.next().ok_or(ConvertError::Missing { record: name_of::<ObjectV1>([guest, 0]) })?;
    if let Some(other) = owned.next() {
        return Err(ConvertError::Unexpected { record: other.name() });
    }
    if text(&object.tag) != Some(RAM) {
        return Err(ConvertError::Text { record: object.name(), field: "tag" });
    }
    match group(&state.space_objects, token) {
        [mapping] if mapping.object == object.token => {}
        [] => {
            return Err(ConvertError::Missing { record: name_of::<SpaceObjectV1>([token, object.token]) });
        }
        [.., other] => {
            return Err(ConvertError::Unexpected { record: other.name() });
        }
    }
    let records = group(&state.extents, object.token);
    if records.len() != object.extent_count as usize {
        return Err(ConvertError::Count {
            record: object.name(),
            what: "extents",
            stored: object.extent_count.into(),
            found: records.len() as u64,
        });
    }
    let extents = records.iter().map(extent).collect::<Converted<alloc::vec::Vec<_>>>()?;
    let bytes = extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.bytes));
    require(bytes == Some(object.bytes), object, "bytes", object.bytes)?;
    let reserved = group(&state.reserved, token).iter();
    let reserved = reserved.map(|range| GuestRange { start: GuestPhys(range.base), bytes: range.bytes }).collect();
    let state = SpaceState { token, root, levels, leaves: leaf_sizes(space, space.leaf_mask)? };
    let ram = GuestRam { token: object.token, extents, reserved };
    Ok((state, ram))
}

fn extent(record: &ExtentV1) -> Converted<Extent> {
    let aligned = |value: u64| value.is_multiple_of(PAGE_SIZE);
    let range = |field, base: u64| {
        let fine = aligned(base) && base.checked_add(record.bytes).is_some();
        require(fine, record, field, base)
    };
    require(aligned(record.bytes) && record.bytes > 0, record, "bytes", record.bytes)?;
    range("guest range", record.guest_base)?;
    range("host range", record.host_base)?;
    Ok(Extent { guest: GuestPhys(record.guest_base), host: HostPhys(record.host_base), bytes: record.bytes })
}
