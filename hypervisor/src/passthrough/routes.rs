//! Which unit translates for which device, from the DMAR table.

use alloc::vec::Vec;

use iommu::{Route, UnitIndex};
use machine::acpi::dmar::{ScopeKind, resolve_scope};
use machine::pci::{Bdf, ConfigSpace, HeaderKind};

use crate::firmware::Firmware;
use crate::host;

/// The routes. A scope that leads nowhere is left out, with a line that says so: its devices stay without a unit
/// and can't be given away.
pub fn from_dmar(firmware: &Firmware) -> Vec<Route> {
    let ecam = &*host::get().ecam;
    let mut routes = Vec::new();
    for (index, unit) in firmware.dmar.iter().flat_map(|dmar| dmar.units.iter().enumerate()) {
        let here = UnitIndex(index);
        if unit.include_all {
            routes.push(Route::segment(unit.segment, here));
        }
        for scope in &unit.scopes {
            if !matches!(scope.kind, ScopeKind::ENDPOINT | ScopeKind::SUB_HIERARCHY) {
                continue;
            }
            match resolve_scope(scope, unit.segment, ecam) {
                Ok(bdf) => {
                    routes.push(Route::function(bdf, here));
                    let below = behind(ecam, bdf).filter(|_| scope.kind == ScopeKind::SUB_HIERARCHY);
                    if let Some((first, last)) = below {
                        routes.push(Route::buses(unit.segment, first, last, here));
                    }
                }
                Err(error) => log::warn!("DMAR: a device scope of the unit at {} leads nowhere: {error}", unit.base),
            }
        }
    }
    routes
}

/// The buses behind the bridge `bdf`, as its registers say: after an upgrade there is no time to look at every bus.
fn behind(config: &impl ConfigSpace, bdf: Bdf) -> Option<(u8, u8)> {
    match HeaderKind::read(config, bdf) {
        HeaderKind::Bridge { secondary, subordinate } if secondary > bdf.bus() && subordinate >= secondary => {
            Some((secondary, subordinate))
        }
        _ => None,
    }
}
