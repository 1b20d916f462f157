//! Devices, aliases, BARs, configuration space.

use alloc::vec::Vec;

use super::ranges::{ADDRESS_LIMIT, MESSAGE_BASE, MESSAGE_BYTES, Range, disjoint, memory_in, unit_registers};
use super::{Checked, GraphError, count, find, follow, group, value};
use crate::record::{Bdf, Record};
use crate::state::State;
use crate::state::device::{
    BAR_64, BAR_MAPPED, BAR_PORTS, BAR_PREFETCHABLE, BarV1, CONFIG_PIECE, DEVICE_ATS, DEVICE_PRI, DEVICE_RESETTABLE,
    DeviceV1, FUNCTION_MSI, FUNCTION_MSI_ENABLED, FUNCTION_MSIX, FUNCTION_MSIX_ENABLED, FUNCTION_MSIX_MASKED,
};

/// Refuses a device that is there twice under different domains, by that name rather than as a mere duplicate.
pub(super) fn in_one_domain(state: &State) -> Checked {
    let mut claims: Vec<_> = state.devices.iter().map(|device| (device.bdf, device.domain)).collect();
    claims.sort_unstable();
    match claims.array_windows().find(|[first, second]| first.0 == second.0 && first.1 != second.1) {
        Some([first, second]) => Err(GraphError::TwoDomains { device: first.0, first: first.1, second: second.1 }),
        None => Ok(()),
    }
}

pub(super) fn check(state: &State) -> Checked {
    state.devices.iter().try_for_each(|device| references(state, device))?;
    requesters(state)?;
    bars(state)?;
    state.devices.iter().try_for_each(|device| msix(state, device))
}

fn references(state: &State, device: &DeviceV1) -> Checked {
    value(device.flags & !(DEVICE_ATS | DEVICE_PRI | DEVICE_RESETTABLE) == 0, device, "flags", device.flags.into())?;
    value(device.guest_bdf <= 0xffff, device, "place in the guest", device.guest_bdf.into())?;
    let unit = follow(device, "unit", &state.units, [device.unit.into(), 0])?;
    if unit.segment != u32::from(Bdf(device.bdf).segment()) {
        return Err(GraphError::Mismatch { first: device.name(), second: unit.name(), what: "the PCI segment" });
    }
    let domain = follow(device, "domain", &state.domains, [device.domain, 0])?;
    follow(device, "domain on its unit", &state.domain_ids, [device.domain, device.unit.into()])?;
    if device.owner != 0 {
        follow(device, "owner", &state.guests, [device.owner, 0])?;
    }
    // A device works for whom its domain maps: Baton, or the guest of the address space.
    let works_for = find(&state.spaces, [domain.space, 0]).map_or(0, |space| space.guest);
    if works_for != device.owner {
        return Err(GraphError::Mismatch { first: device.name(), second: domain.name(), what: "the owner" });
    }
    Ok(())
}

fn msix(state: &State, device: &DeviceV1) -> Checked {
    if device.msix_capability == 0 {
        return value(device.msix_entries == 0, device, "MSI-X entries", device.msix_entries.into());
    }
    value((0x40..0x100).contains(&device.msix_capability), device, "MSI-X capability", device.msix_capability.into())?;
    value((1..=2048).contains(&device.msix_entries), device, "MSI-X entries", device.msix_entries.into())?;
    let fits = |field, bar: u32, offset: u32, bytes: u64| {
        let bar = follow(device, field, &state.bars, [device.bdf.into(), bar.into()])?;
        value(bar.flags & BAR_PORTS == 0 && u64::from(offset) + bytes <= bar.bytes, device, field, offset.into())
    };
    let entries = u64::from(device.msix_entries);
    fits("MSI-X table", device.msix_table_bar, device.msix_table_offset, entries * 16)?;
    fits("MSI-X pending bits", device.msix_pending_bar, device.msix_pending_offset, entries.div_ceil(64) * 8)
}

fn requesters(state: &State) -> Checked {
    let mut claims: Vec<_> = state.devices.iter().map(|device| (device.bdf, device.bdf)).collect();
    for alias in &state.aliases {
        follow(alias, "device", &state.devices, [alias.device.into(), 0])?;
        value(Bdf(alias.requester).segment() == Bdf(alias.device).segment(), alias, "segment", alias.requester.into())?;
        claims.push((alias.requester, alias.device));
    }
    // What leaves is no preserved device's.
    claims.extend(state.leaving.iter().map(|leaving| (leaving.requester, leaving.requester)));
    claims.sort_unstable();
    match claims.array_windows().find(|[first, second]| first.0 == second.0) {
        Some([first, second]) => {
            Err(GraphError::SameRequester { requester: first.0, first: first.1, second: second.1 })
        }
        None => Ok(()),
    }
}

fn bars(state: &State) -> Checked {
    let (mut memory, mut ports) = (Vec::new(), Vec::new());
    for bar in &state.bars {
        follow(bar, "device", &state.devices, [bar.device.into(), 0])?;
        shape(bar)?;
        let range = Range { space: 0, base: bar.host_base, bytes: bar.bytes, record: bar.name() };
        if bar.flags & BAR_PORTS != 0 {
            ports.push(range);
            continue;
        }
        // Memory, a unit's registers or the LAPIC behind a BAR would be handed to a guest.
        if let Some(region) = memory_in(&state.regions, bar.host_base, bar.bytes) {
            return Err(GraphError::Overlap {
                first: bar.name(),
                second: region.name(),
                address: bar.host_base.max(region.base),
            });
        }
        let end = bar.host_base.saturating_add(bar.bytes);
        value(end <= MESSAGE_BASE || bar.host_base >= MESSAGE_BASE + MESSAGE_BYTES, bar, "host range", bar.host_base)?;
        memory.push(range);
    }
    memory.extend(state.units.iter().map(unit_registers));
    for device in &state.devices {
        let bars = group(&state.bars, device.bdf.into());
        let twice = bars
            .array_windows()
            .find(|[first, second]| first.flags & BAR_64 != 0 && second.index == first.index.saturating_add(1));
        if let Some([first, second]) = twice {
            return Err(GraphError::Mismatch {
                first: first.name(),
                second: second.name(),
                what: "whose register it is",
            });
        }
    }
    disjoint(memory)?;
    disjoint(ports)
}

fn shape(bar: &BarV1) -> Checked {
    let known = BAR_PORTS | BAR_64 | BAR_PREFETCHABLE | BAR_MAPPED;
    value(bar.flags & !known == 0, bar, "flags", bar.flags.into())?;
    let (least, limit) = if bar.flags & BAR_PORTS != 0 { (4, 0x1_0000) } else { (16, ADDRESS_LIMIT) };
    let last = if bar.flags & BAR_64 != 0 { 4 } else { 6 };
    value(bar.index <= last, bar, "number", bar.index.into())?;
    value(bar.bytes.is_power_of_two() && bar.bytes >= least, bar, "bytes", bar.bytes)?;
    let placed =
        |base: u64| base.is_multiple_of(bar.bytes) && base.checked_add(bar.bytes).is_some_and(|end| end <= limit);
    value(placed(bar.host_base), bar, "host address", bar.host_base)?;
    value(bar.flags & BAR_MAPPED == 0 || placed(bar.guest_base), bar, "guest address", bar.guest_base)
}

/// The memory BARs that are mapped into an address space, with its token.
pub(super) fn mapped_bars(state: &State) -> impl Iterator<Item = Result<(u64, &BarV1), GraphError>> {
    let mapped = state.bars.iter().filter(|bar| bar.flags & (BAR_MAPPED | BAR_PORTS) == BAR_MAPPED);
    mapped.map(|bar| {
        let device = follow(bar, "device", &state.devices, [bar.device.into(), 0])?;
        let guest = follow(device, "owner of a mapped BAR", &state.guests, [device.owner, 0])?;
        Ok((guest.space, bar))
    })
}

/// What a refresh replaces.
pub(super) fn check_rest(state: &State) -> Checked {
    for config in &state.configs {
        follow(config, "device", &state.devices, [config.device.into(), 0])?;
        let fine = config.offset < 4096 && (config.offset as usize).is_multiple_of(CONFIG_PIECE);
        value(fine, config, "offset", config.offset.into())?;
    }
    for function in &state.functions {
        let device = follow(function, "device", &state.devices, [function.device.into(), 0])?;
        let known = FUNCTION_MSI | FUNCTION_MSI_ENABLED | FUNCTION_MSIX | FUNCTION_MSIX_ENABLED | FUNCTION_MSIX_MASKED;
        let sees = |flag| function.flags & flag != 0;
        let fine = function.flags & !known == 0
            && sees(FUNCTION_MSI) == (device.msi_capability != 0)
            && sees(FUNCTION_MSIX) == (device.msix_capability != 0);
        value(fine, function, "flags", function.flags.into())?;
    }
    Ok(())
}

/// The devices of each guest are those it counts.
pub(super) fn counted(state: &State) -> Checked {
    let mut owners: Vec<u64> = state.devices.iter().map(|device| device.owner).collect();
    owners.sort_unstable();
    for guest in &state.guests {
        let from = owners.partition_point(|owner| *owner < guest.token);
        let to = owners.partition_point(|owner| *owner <= guest.token);
        count(guest, "devices", guest.device_count.into(), to - from)?;
    }
    Ok(())
}
