//! PASID directories, and the PASIDs that lead to domains of their own.

use super::ranges::{FRAME, Range, disjoint, frames, owned};
use super::{Checked, GraphError, follow, value};
use crate::record::Record;
use crate::state::State;
use crate::state::machine::OWNER_ARENA;

/// PASIDs have 20 bits (PCIe 6.20).
const PASID_END: u32 = 1 << 20;
/// TTM of RTADDR (VT-d 11.4.5): 1 is scalable mode.
const TTM_SHIFT: u32 = 10;

pub(super) fn check(state: &State) -> Checked {
    let mut directories = alloc::vec::Vec::new();
    for device in &state.devices {
        let unit = follow(device, "unit", &state.units, [device.unit.into(), 0])?;
        // A directory in scalable mode, and none otherwise.
        if (unit.root_table >> TTM_SHIFT & 3 == 1) != (device.pasid_directory != 0) {
            let what = "the unit's mode and the device's PASID directory";
            return Err(GraphError::Mismatch { first: device.name(), second: unit.name(), what });
        }
        if device.pasid_directory != 0 {
            frames(device, "PASID directory", device.pasid_directory, FRAME)?;
            owned(&state.regions, OWNER_ARENA, device, "PASID directory", device.pasid_directory, FRAME)?;
            directories.push(Range { space: 0, base: device.pasid_directory, bytes: FRAME, record: device.name() });
        }
    }
    disjoint(directories)?;
    for pasid in &state.pasids {
        value((1..PASID_END).contains(&pasid.pasid), pasid, "number", pasid.pasid.into())?;
        let device = follow(pasid, "device", &state.devices, [pasid.device.into(), 0])?;
        value(device.pasid_directory != 0, pasid, "device without a PASID directory", pasid.device.into())?;
        let domain = follow(pasid, "domain", &state.domains, [pasid.domain, 0])?;
        follow(pasid, "domain on the device's unit", &state.domain_ids, [pasid.domain, device.unit.into()])?;
        // It works for the device's owner, as its own domain does.
        let own = follow(device, "domain", &state.domains, [device.domain, 0])?;
        let owner = |space| super::find(&state.spaces, [space, 0]).map_or(0, |space| space.guest);
        if owner(domain.space) != owner(own.space) {
            return Err(GraphError::Mismatch { first: pasid.name(), second: domain.name(), what: "the owner" });
        }
    }
    Ok(())
}
