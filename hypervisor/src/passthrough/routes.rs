//! Which unit translates for which device, from the DMAR table.

use alloc::vec::Vec;

use iommu::{Route, UnitIndex};

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
    let route = |range: machine::acpi::dmar::UnitRange| Route {
        segment: range.segment,
        first: range.first,
        last: range.last,
        unit: UnitIndex(range.unit),
    };
    ranges.into_iter().map(route).collect()
}
