//! What devices have besides a domain: PASIDs, virtual functions; and posted interrupt descriptors.

use alloc::vec::Vec;

use super::ranges::{FRAME, Range, disjoint, frames, owned};
use super::{Checked, GraphError, find, follow, value};
use crate::record::{Bdf, Record};
use crate::state::State;
use crate::state::device::{DeviceV1, PhysicalFunctionV1, STATE_QUARANTINED};
use crate::state::machine::OWNER_ARENA;
use crate::state::unit::{FORMAT_PASS_THROUGH, UnitV1};

/// Bits of RTADDR that say the mode, and scalable mode (VT-d 11.4.5).
const TRANSLATION_MODE: u64 = 3 << 10;
const SCALABLE: u64 = 1 << 10;
/// No PASID is this high (PCIe 6.20).
const PASID_LIMIT: u32 = 1 << 20;

pub(super) fn check(state: &State) -> Checked {
    directories(state)?;
    pasids(state)?;
    physical_functions(state)?;
    if let [_, second, ..] = state.device_policy.as_slice() {
        return Err(GraphError::Duplicate { record: second.name() });
    }
    posted(state)
}

const fn is_scalable(unit: &UnitV1) -> bool {
    unit.root_table & TRANSLATION_MODE == SCALABLE
}

/// A device has a PASID directory of its own exactly if its unit looks for one, and it is not cut off.
fn directories(state: &State) -> Checked {
    let mut all = Vec::new();
    for device in &state.devices {
        value(device.state & !STATE_QUARANTINED == 0, device, "state", device.state.into())?;
        let unit = follow(device, "unit", &state.units, [device.unit.into(), 0])?;
        let directory = device.pasid_directory;
        value(is_scalable(unit) == (directory != 0), device, "PASID directory", directory)?;
        if directory != 0 {
            frames(device, "PASID directory", directory, FRAME)?;
            owned(&state.regions, OWNER_ARENA, device, "PASID directory", directory, FRAME)?;
            all.push(Range { space: 0, base: directory, bytes: FRAME, record: device.name() });
        }
    }
    disjoint(all)
}

fn pasids(state: &State) -> Checked {
    for pasid in &state.pasids {
        value((1..PASID_LIMIT).contains(&pasid.pasid), pasid, "number", pasid.pasid.into())?;
        let device = follow(pasid, "device", &state.devices, [pasid.device.into(), 0])?;
        value(device.pasid_directory != 0, pasid, "device without PASID directory", pasid.device.into())?;
        let domain = follow(pasid, "domain", &state.domains, [pasid.domain, 0])?;
        follow(pasid, "domain on its unit", &state.domain_ids, [pasid.domain, device.unit.into()])?;
        // As for the device's own domain: it works for whom the domain maps.
        let works_for = find(&state.spaces, [domain.space, 0]).map_or(0, |space| space.guest);
        if works_for != device.owner || device.owner != 0 && domain.format == FORMAT_PASS_THROUGH {
            return Err(GraphError::Mismatch { first: pasid.name(), second: domain.name(), what: "the owner" });
        }
    }
    Ok(())
}

/// Virtual functions have requester ids of their own, one after the other in their physical function's segment.
fn physical_functions(state: &State) -> Checked {
    let mut all: Vec<(u32, &PhysicalFunctionV1)> = Vec::new();
    for physical in &state.physical_functions {
        value(!matches!(physical.identity, 0 | u32::MAX), physical, "identity", physical.identity.into())?;
        value(physical.device_id <= 0xffff, physical, "device id", physical.device_id.into())?;
        value((1..=0xffff).contains(&physical.count), physical, "number of functions", physical.count.into())?;
        let stepped = physical.count == 1 || physical.stride > 0;
        value(physical.stride <= 0xffff && stepped, physical, "stride", physical.stride.into())?;
        let last = physical.count.saturating_sub(1).saturating_mul(physical.stride);
        let last = last.saturating_add(physical.first).saturating_add(physical.bdf & 0xffff);
        value(physical.first > 0 && last <= 0xffff, physical, "place of the functions", physical.first.into())?;
        if let Some(device) = find::<DeviceV1>(&state.devices, [physical.bdf.into(), 0]) {
            value(device.owner == 0, physical, "function that a guest has", Bdf(physical.bdf).0.into())?;
        }
        let ids = (0..physical.count).map(|index| physical.bdf + physical.first + index * physical.stride);
        all.extend(ids.chain([physical.bdf]).map(|id| (id, physical)));
    }
    all.sort_unstable_by_key(|(id, physical)| (*id, physical.bdf));
    match all.array_windows().find(|[first, second]| first.0 == second.0) {
        Some([first, second]) => {
            Err(GraphError::SameRequester { requester: first.0, first: first.1.bdf, second: second.1.bdf })
        }
        None => Ok(()),
    }
}

fn posted(state: &State) -> Checked {
    for frame in &state.posted {
        frames(frame, "frame", frame.frame, FRAME)?;
        owned(&state.regions, OWNER_ARENA, frame, "frame", frame.frame, FRAME)?;
        value(frame.used != 0, frame, "places in use", frame.used)?;
    }
    Ok(())
}
