//! GET /v1/devices: what is on the buses, and to whom it can go.

use alloc::format;
use alloc::string::{String, ToString};

use machine::pci::{self, Ats, Function, HeaderKind};

use crate::api::types::{Devices, Group, Hex, PciDevice};
use crate::host;
use crate::passthrough::{assign, inventory, quarantine, units};

/// The machine as it is now.
pub fn devices() -> Devices {
    let functions = inventory::with(|found, _| found.functions.clone()).unwrap_or_default();
    let endpoints = functions.iter().filter(|function| matches!(function.header, HeaderKind::Endpoint));
    Devices {
        devices: endpoints.map(device).collect(),
        groups: inventory::with(|_, groups| groups.iter().filter(|group| !group.why.is_empty()).map(group).collect())
            .unwrap_or_default(),
    }
}

fn group(group: &pci::Group) -> Group {
    Group {
        id: group.id.to_string(),
        members: group.members.iter().map(ToString::to_string).collect(),
        why: group.why.iter().map(ToString::to_string).collect(),
    }
}

fn device(function: &Function) -> PciDevice {
    let bdf = function.bdf;
    let owner = inventory::owner(bdf).unwrap_or_default();
    let ecam = &*host::get().ecam;
    let class = &function.class;
    let unit = units::with(|units, _| units.unit_of(bdf).and_then(|unit| units.unit_base(unit))).flatten();
    PciDevice {
        bdf: bdf.to_string(),
        id: function.ids.to_string(),
        class: format!("{:02x}{:02x}{:02x}", class.base, class.sub, class.interface),
        state: match (quarantine::holds(bdf), owner.is_empty()) {
            (true, _) => "quarantined",
            (false, false) => "assigned",
            (false, true) => "free",
        },
        group: inventory::with(|_, groups| groups.of(bdf).map(|group| group.id.to_string()))
            .flatten()
            .unwrap_or_default(),
        unit: unit.map(|base| Hex(base.get())),
        reset: inventory::reset_of(bdf).map_or_else(|_| String::new(), |reset| reset.way().to_string()),
        ats: match Ats::find(ecam, bdf) {
            None => "none",
            Some(ats) if ats.is_enabled(ecam) => "on",
            Some(_) => "off",
        },
        physical: function.physical.map(|physical| physical.to_string()),
        refused: if owner.is_empty() { assign::refusal(function).unwrap_or_default() } else { String::new() },
        owner,
    }
}
