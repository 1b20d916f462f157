//! Which unit translates for which device, from the DMAR table.

use alloc::vec::Vec;

use iommu::{Route, UnitIndex};
use machine::acpi::dmar::UnitRange;
use machine::pci::Bdf;

use super::sriov;
use crate::firmware::Firmware;
use crate::host;

/// The routes. A scope that leads nowhere is left out, with a line that says so: its devices stay without a unit
/// and can't be given away. Bus numbers are read from the bridges: after an upgrade there is no time to look at every bus.
pub fn from_dmar(firmware: &Firmware) -> Vec<Route> {
    let Some(dmar) = &firmware.dmar else { return Vec::new() };
    let (ranges, errors) = dmar.ranges(&*host::get().ecam);
    for error in errors {
        log::warn!("DMAR: {error}");
    }
    let alone = |physical: Bdf| {
        let id = physical.requester_id();
        ranges.iter().find(move |range| (range.segment, range.first, range.last) == (physical.segment(), id, id))
    };
    // Virtual functions go where their physical one goes (VT-d 8.3), also if that is named alone.
    let mut virtual_ones = Vec::new();
    for physical in sriov::all() {
        if let Some(range) = alone(physical.bdf) {
            virtual_ones.extend(physical.functions().map(|one| Route::function(one, UnitIndex(range.unit))));
        }
    }
    let route = |range: UnitRange| Route {
        segment: range.segment,
        first: range.first,
        last: range.last,
        unit: UnitIndex(range.unit),
    };
    ranges.into_iter().map(route).chain(virtual_ones).collect()
}
