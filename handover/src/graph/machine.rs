//! Processors, memory map, arena, bridges.

use alloc::vec::Vec;

use super::ranges::{ADDRESS_LIMIT, FRAME, Range, disjoint, frames, owned};
use super::{Checked, GraphError, count, value};
use crate::record::{Bdf, Record};
use crate::state::machine::{
    BootV1, MACHINE_X2APIC, MachineV1, OWNER_ARENA, OWNER_FIRMWARE, OWNER_FREE, OWNER_LOW, OWNER_MODULE, OWNER_SLOT,
    REGION_RAM,
};
use crate::state::{State, text};

pub(super) fn check(state: &State) -> Checked {
    let [machine] = state.machine.as_slice() else {
        return Err(GraphError::NotOne { kind: MachineV1::NAME, found: state.machine.len() });
    };
    value(machine.tsc_khz > 0, machine, "TSC frequency", 0)?;
    value(machine.lapic_ticks_per_ms > 0, machine, "LAPIC timer frequency", 0)?;
    value(machine.console_port <= 0xffff, machine, "console port", machine.console_port.into())?;
    value(machine.flags & !MACHINE_X2APIC == 0, machine, "flags", machine.flags.into())?;
    pcpus(state, machine)?;
    regions(state)?;
    arenas(state)?;
    modules(state)?;
    bridges(state)
}

fn pcpus(state: &State, machine: &MachineV1) -> Checked {
    count(machine, "pCPUs", machine.pcpu_count.into(), state.pcpus.len())?;
    for (expected, pcpu) in state.pcpus.iter().enumerate() {
        value(u64::from(pcpu.index) == expected as u64, pcpu, "number", pcpu.index.into())?;
        value(pcpu.flags == 0, pcpu, "flags", pcpu.flags.into())?;
    }
    let first = state.pcpus.first().ok_or(GraphError::NotOne { kind: "pCPU", found: 0 })?;
    value(first.apic_id == machine.bsp_apic_id, machine, "LAPIC id of pCPU 0", machine.bsp_apic_id.into())?;
    let mut ids: Vec<_> = state.pcpus.iter().map(|pcpu| (pcpu.apic_id, pcpu.name())).collect();
    ids.sort_unstable_by_key(|(id, _)| *id);
    match ids.array_windows().find(|[first, second]| first.0 == second.0) {
        Some([first, second]) => {
            Err(GraphError::Mismatch { first: first.1, second: second.1, what: "whose LAPIC id it is" })
        }
        None => Ok(()),
    }
}

fn regions(state: &State) -> Checked {
    let ranges = state.regions.iter().map(|region| Range {
        space: 0,
        base: region.base,
        bytes: region.bytes,
        record: region.name(),
    });
    for region in &state.regions {
        let end = region.base.checked_add(region.bytes).filter(|end| *end <= ADDRESS_LIMIT);
        value(end.is_some() && region.bytes > 0, region, "length", region.bytes)?;
        value(region.owner <= OWNER_LOW, region, "owner", region.owner.into())?;
        if !matches!(region.owner, OWNER_FREE | OWNER_FIRMWARE) {
            value(region.firmware_type == REGION_RAM, region, "type of owned memory", region.firmware_type.into())?;
            frames(region, "range of owned memory", region.base, region.bytes)?;
        }
        if region.owner == OWNER_SLOT {
            value(region.owner_id <= 1, region, "slot", region.owner_id)?;
        }
    }
    disjoint(ranges.collect())
}

fn arenas(state: &State) -> Checked {
    if state.arenas.is_empty() {
        return Err(GraphError::NotOne { kind: "arena", found: 0 });
    }
    for arena in &state.arenas {
        frames(arena, "range", arena.base, arena.bytes)?;
        owned(&state.regions, OWNER_ARENA, arena, "range", arena.base, arena.bytes)?;
        let table_bytes = arena.bytes / FRAME * 4;
        value(arena.frame_table_bytes == table_bytes, arena, "frame table length", arena.frame_table_bytes)?;
        value(arena.frame_table.is_multiple_of(4), arena, "frame table", arena.frame_table)?;
        owned(&state.regions, OWNER_ARENA, arena, "frame table", arena.frame_table, table_bytes)?;
    }
    let ranges =
        state.arenas.iter().map(|arena| Range { space: 0, base: arena.base, bytes: arena.bytes, record: arena.name() });
    disjoint(ranges.collect())
}

/// Modules lie in memory that is kept for them; their names are text.
fn modules(state: &State) -> Checked {
    for module in &state.modules {
        owned(&state.regions, OWNER_MODULE, module, "range", module.base, module.bytes)?;
        value(text(&module.name).is_some(), module, "name", 0)?;
    }
    match state.boot.as_slice() {
        [] => Ok(()),
        [boot] => value(text(&boot.via).is_some(), boot, "way in", 0),
        several => Err(GraphError::NotOne { kind: BootV1::NAME, found: several.len() }),
    }
}

fn bridges(state: &State) -> Checked {
    for bridge in &state.bridges {
        value(bridge.secondary <= 0xff, bridge, "secondary bus", bridge.secondary.into())?;
        value(
            bridge.subordinate <= 0xff && bridge.subordinate >= bridge.secondary,
            bridge,
            "subordinate bus",
            bridge.subordinate.into(),
        )?;
        // Buses are numbered downwards from the root; a bridge at or above what it leads to is a circle.
        if bridge.secondary <= Bdf(bridge.bdf).bus().into() {
            return Err(GraphError::Circle { record: bridge.name() });
        }
    }
    let mut behind: Vec<_> =
        state.bridges.iter().map(|bridge| (Bdf(bridge.bdf).segment(), bridge.secondary, bridge.name())).collect();
    behind.sort_unstable_by_key(|(segment, bus, _)| (*segment, *bus));
    match behind.array_windows().find(|[first, second]| (first.0, first.1) == (second.0, second.1)) {
        Some([first, second]) => {
            Err(GraphError::Mismatch { first: first.2, second: second.2, what: "who leads to a bus" })
        }
        None => Ok(()),
    }
}
