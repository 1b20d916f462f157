//! MSI-X entries and remapping entries.

use alloc::vec::Vec;

use super::{Checked, GraphError, follow, value};
use crate::record::Record;
use crate::state::State;
use crate::state::interrupt::{IRTE_OWN, MSIX_IS_MSI, MSIX_OPEN, MSIX_PENDING, MsixV1, NO_IRTE};

/// Two entries behind one remapping entry could not be told apart.
pub(super) fn no_shared_entries(state: &State) -> Checked {
    let mut used = Vec::new();
    for entry in state.msix.iter().filter(|entry| entry.irte != NO_IRTE) {
        let device = follow(entry, "device", &state.devices, [entry.device.into(), 0])?;
        used.push((device.unit, entry.irte, entry.name()));
    }
    used.sort_unstable_by_key(|(unit, irte, _)| (*unit, *irte));
    match used.array_windows().find(|[first, second]| (first.0, first.1) == (second.0, second.1)) {
        Some([first, second]) => {
            Err(GraphError::Mismatch { first: first.2, second: second.2, what: "whose IRTE it is" })
        }
        None => Ok(()),
    }
}

/// What a refresh replaces.
pub(super) fn check_rest(state: &State) -> Checked {
    for irte in &state.irtes {
        let unit = follow(irte, "unit", &state.units, [irte.unit.into(), 0])?;
        value(irte.index < unit.interrupt_entries, irte, "index", irte.index.into())?;
        value(irte.flags & !IRTE_OWN == 0, irte, "flags", irte.flags.into())?;
        if irte.flags & IRTE_OWN != 0 {
            continue;
        }
        let owner = follow(irte, "owner", &state.devices, [irte.owner.into(), 0])?;
        if owner.unit != irte.unit {
            return Err(GraphError::Mismatch { first: irte.name(), second: owner.name(), what: "the unit" });
        }
    }
    state.msix.iter().try_for_each(|entry| msix(state, entry))
}

fn msix(state: &State, entry: &MsixV1) -> Checked {
    let device = follow(entry, "device", &state.devices, [entry.device.into(), 0])?;
    value(entry.flags & !(MSIX_OPEN | MSIX_PENDING | MSIX_IS_MSI) == 0, entry, "flags", entry.flags.into())?;
    let entries = match entry.flags & MSIX_IS_MSI {
        0 => device.msix_entries,
        _ if device.msi_capability != 0 => 1,
        _ => 0,
    };
    value(entry.index < entries, entry, "number", entry.index.into())?;
    follow(entry, "pCPU", &state.pcpus, [entry.pcpu.into(), 0])?;
    if entry.irte == NO_IRTE {
        return value(entry.host_vector == 0, entry, "host vector without IRTE", entry.host_vector.into());
    }
    value((32..=255).contains(&entry.host_vector), entry, "host vector", entry.host_vector.into())?;
    let irte = follow(entry, "IRTE", &state.irtes, [device.unit.into(), entry.irte.into()])?;
    if irte.flags & IRTE_OWN != 0 || irte.owner != entry.device {
        return Err(GraphError::Mismatch {
            first: entry.name(),
            second: irte.name(),
            what: "the device it belongs to",
        });
    }
    Ok(())
}
