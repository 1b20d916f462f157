//! Release 0.1, format 1: the machine.

use alloc::string::String;
use alloc::vec::Vec;

use handover::State;
use handover::state::machine::{
    ArenaV1, BootV1, BridgeV1, MACHINE_X2APIC, MachineV1, ModuleV1, OWNER_ARENA, OWNER_FIRMWARE, OWNER_FREE, OWNER_LOW,
    OWNER_MODULE, OWNER_OBJECTS, OWNER_SCRATCH, OWNER_SLOT, PcpuV1, REGION_RAM, REGION_RESERVED, RegionV1,
};
use machine::addr::PAGE_SIZE;
use machine::pci::Bdf;

use super::{ConvertError, Converted, cut_text, narrow, optional, read_text, refuse, require, single};
use crate::boot_info::{Module, Text};
use crate::mem::regions::{Owner, Region};
use crate::time::Rates;

/// A processor; its number is its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcpuState {
    /// LAPIC id.
    pub apic_id: u32,
    /// ACPI processor uid.
    pub acpi_uid: u32,
}

/// The machine but for its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineState {
    /// Distinguishes this power-on from others.
    pub boot_nonce: u64,
    /// Upgrades since power-on, the one this is saved for counted.
    pub generation: u64,
    /// Rates of its clocks.
    pub rates: Rates,
    /// Unix time in nanoseconds at TSC zero, zero when unknown.
    pub epoch_ns: u64,
    /// Address of the RSDP, zero without.
    pub rsdp: u64,
    /// I/O port of the console, zero for none.
    pub console_port: u16,
    /// LAPICs are in x2APIC mode.
    pub x2apic: bool,
    /// Its processors, the boot CPU first.
    pub pcpus: Vec<PcpuState>,
    /// How the first image was started.
    pub via: String,
    /// TSC ticks from the first image's first instruction to the first guest's, zero before.
    pub ticks_to_guest: u64,
}

/// Appends the machine. Part of the plan.
pub fn save(state: &mut State, machine: &MachineState) {
    state.machine.push(MachineV1 {
        boot_nonce: machine.boot_nonce,
        generation: machine.generation,
        tsc_khz: machine.rates.tsc_khz,
        lapic_ticks_per_ms: machine.rates.lapic_khz,
        boot_tsc: machine.rates.power_on,
        epoch_ns: machine.epoch_ns,
        rsdp: machine.rsdp,
        pcpu_count: machine.pcpus.len() as u32,
        bsp_apic_id: machine.pcpus.first().map_or(0, |pcpu| pcpu.apic_id),
        console_port: machine.console_port.into(),
        flags: if machine.x2apic { MACHINE_X2APIC } else { 0 },
    });
    state.pcpus.extend((0..).zip(&machine.pcpus).map(|(index, pcpu)| PcpuV1 {
        index,
        apic_id: pcpu.apic_id,
        acpi_uid: pcpu.acpi_uid,
        flags: 0,
    }));
    state.boot.push(BootV1 { ticks_to_guest: machine.ticks_to_guest, via: cut_text(&machine.via) });
}

/// The machine in a set.
///
/// # Errors
/// A record is missing, or holds what this image cannot take over.
pub fn load(state: &State) -> Converted<MachineState> {
    let record = single(&state.machine)?;
    require(record.flags & !MACHINE_X2APIC == 0, record, "flags", record.flags)?;
    require(record.tsc_khz > 0, record, "TSC frequency", record.tsc_khz)?;
    require(record.lapic_ticks_per_ms > 0, record, "LAPIC timer frequency", record.lapic_ticks_per_ms)?;
    if record.pcpu_count as usize != state.pcpus.len() {
        return Err(ConvertError::Count {
            record: handover::record::Record::name(record),
            what: "pCPUs",
            stored: record.pcpu_count.into(),
            found: state.pcpus.len() as u64,
        });
    }
    let mut pcpus = Vec::with_capacity(state.pcpus.len());
    for (expected, pcpu) in (0u32..).zip(&state.pcpus) {
        require(pcpu.index == expected, pcpu, "number", pcpu.index)?;
        require(pcpu.flags == 0, pcpu, "flags", pcpu.flags)?;
        pcpus.push(PcpuState { apic_id: pcpu.apic_id, acpi_uid: pcpu.acpi_uid });
    }
    let first = pcpus.first().map(|pcpu| pcpu.apic_id);
    require(first == Some(record.bsp_apic_id), record, "LAPIC id of pCPU 0", record.bsp_apic_id)?;
    // Not critical: an image that does not write it is followed as well.
    let boot = optional(&state.boot)?;
    Ok(MachineState {
        boot_nonce: record.boot_nonce,
        generation: record.generation,
        rates: Rates { tsc_khz: record.tsc_khz, lapic_khz: record.lapic_ticks_per_ms, power_on: record.boot_tsc },
        epoch_ns: record.epoch_ns,
        rsdp: record.rsdp,
        console_port: narrow(record, "console port", record.console_port)?,
        x2apic: record.flags & MACHINE_X2APIC != 0,
        pcpus,
        via: boot.map_or(Ok(String::new()), |boot| read_text(boot, "way in", &boot.via))?,
        ticks_to_guest: boot.map_or(0, |boot| boot.ticks_to_guest),
    })
}

/// Appends the memory map. Part of the plan. The map knows of firmware's types only whether memory was usable.
pub fn save_regions<'a>(state: &mut State, regions: impl Iterator<Item = &'a Region>) {
    state.regions.extend(regions.map(|region| {
        let (owner, owner_id) = match region.owner {
            Owner::Free => (OWNER_FREE, 0),
            Owner::Firmware => (OWNER_FIRMWARE, 0),
            Owner::Low => (OWNER_LOW, 0),
            Owner::Slot(slot) => (OWNER_SLOT, slot.into()),
            Owner::Arena => (OWNER_ARENA, 0),
            Owner::Scratch => (OWNER_SCRATCH, 0),
            Owner::Module(module) => (OWNER_MODULE, module.into()),
            Owner::Object(token) => (OWNER_OBJECTS, token),
        };
        RegionV1 {
            base: region.base,
            bytes: region.bytes,
            owner_id,
            firmware_type: if owner == OWNER_FIRMWARE { REGION_RESERVED } else { REGION_RAM },
            owner,
        }
    }));
}

/// The memory map in a set, for `RegionMap::from_saved`.
///
/// # Errors
/// A range or an owner that cannot be.
pub fn load_regions(state: &State) -> Converted<Vec<Region>> {
    let region = |record: &RegionV1| {
        let end = record.base.checked_add(record.bytes);
        let aligned = record.base.is_multiple_of(PAGE_SIZE) && record.bytes.is_multiple_of(PAGE_SIZE);
        require(end.is_some() && aligned && record.bytes > 0, record, "range", record.bytes)?;
        let numberless = |owner| {
            require(record.owner_id == 0, record, "owner's number", record.owner_id)?;
            Ok(owner)
        };
        let owner = match record.owner {
            OWNER_FREE => numberless(Owner::Free)?,
            OWNER_FIRMWARE => numberless(Owner::Firmware)?,
            OWNER_LOW => numberless(Owner::Low)?,
            OWNER_ARENA => numberless(Owner::Arena)?,
            OWNER_SLOT => {
                require(record.owner_id <= 1, record, "slot", record.owner_id)?;
                Owner::Slot(narrow(record, "slot", record.owner_id)?)
            }
            OWNER_MODULE => Owner::Module(narrow(record, "module", record.owner_id)?),
            OWNER_OBJECTS => Owner::Object(record.owner_id),
            OWNER_SCRATCH => numberless(Owner::Scratch)?,
            other => return refuse(record, "owner", other),
        };
        // Memory that firmware keeps stays firmware's, whatever its type; all else is RAM.
        let typed = owner == Owner::Firmware || record.firmware_type == REGION_RAM;
        require(typed, record, "type of owned memory", record.firmware_type)?;
        Ok(Region { base: record.base, bytes: record.bytes, owner })
    };
    state.regions.iter().map(region).collect()
}

/// A range of the arena with its frame table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaState {
    /// First byte.
    pub base: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// Where the frame table is, in the range itself.
    pub frame_table: u64,
}

/// Appends a range of the arena. Part of the plan.
pub fn save_arena(state: &mut State, arena: ArenaState) {
    state.arenas.push(ArenaV1 {
        base: arena.base,
        bytes: arena.bytes,
        frame_table: arena.frame_table,
        frame_table_bytes: arena.bytes / PAGE_SIZE * 4,
    });
}

/// The arena in a set: one range in this release.
///
/// # Errors
/// It is not one range, or its frame table is not in it.
pub fn load_arena(state: &State) -> Converted<ArenaState> {
    let record = single(&state.arenas)?;
    let end = record.base.checked_add(record.bytes);
    let aligned = record.base.is_multiple_of(PAGE_SIZE) && record.bytes.is_multiple_of(PAGE_SIZE);
    require(end.is_some() && aligned && record.bytes > 0, record, "range", record.bytes)?;
    let due = record.bytes / PAGE_SIZE * 4;
    require(record.frame_table_bytes == due, record, "frame table length", record.frame_table_bytes)?;
    let inside = record.frame_table >= record.base
        && record.frame_table.is_multiple_of(4)
        && record.frame_table.checked_add(due).is_some_and(|last| Some(last) <= end);
    require(inside, record, "frame table", record.frame_table)?;
    Ok(ArenaState { base: record.base, bytes: record.bytes, frame_table: record.frame_table })
}

/// Appends the modules that are kept, by number. Part of the plan.
pub fn save_modules<'a>(state: &mut State, modules: impl Iterator<Item = (u8, &'a Module)>) {
    state.modules.extend(modules.map(|(index, module)| ModuleV1 {
        base: module.start,
        bytes: module.bytes,
        name: cut_text(module.name.as_str()),
        index: index.into(),
        reserved: [0; 4],
    }));
}

/// The modules in a set, with their numbers.
///
/// # Errors
/// A number, range or name that cannot be.
pub fn load_modules(state: &State) -> Converted<Vec<(u8, Module)>> {
    let module = |record: &ModuleV1| {
        require(record.base.checked_add(record.bytes).is_some(), record, "range", record.bytes)?;
        let mut name = Text::default();
        for byte in read_text(record, "name", &record.name)?.bytes() {
            require((0x20..0x7f).contains(&byte) && name.push(byte), record, "name", byte)?;
        }
        let module = Module { start: record.base, bytes: record.bytes, name };
        Ok((narrow(record, "number", record.index)?, module))
    };
    state.modules.iter().map(module).collect()
}

/// A bridge above a preserved device, as found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeState {
    /// The bridge itself.
    pub bridge: Bdf,
    /// Vendor in bits 15:0, device in 31:16.
    pub identity: u32,
    /// Bus number behind it.
    pub secondary: u8,
    /// Highest bus number behind it.
    pub subordinate: u8,
    /// Bridge control register.
    pub control: u16,
    /// Command register.
    pub command: u16,
}

/// Appends bridges. Part of the plan.
pub fn save_bridges(state: &mut State, bridges: &[BridgeState]) {
    state.bridges.extend(bridges.iter().map(|bridge| BridgeV1 {
        bdf: super::iommu::bdf(bridge.bridge),
        identity: bridge.identity,
        secondary: bridge.secondary.into(),
        subordinate: bridge.subordinate.into(),
        bridge_control: bridge.control.into(),
        command: bridge.command.into(),
    }));
}

/// The bridges in a set.
///
/// # Errors
/// A register that is wider than it can be.
pub fn load_bridges(state: &State) -> impl Iterator<Item = Converted<BridgeState>> {
    state.bridges.iter().map(|record| {
        Ok(BridgeState {
            bridge: super::iommu::function(record.bdf),
            identity: record.identity,
            secondary: narrow(record, "secondary bus", record.secondary)?,
            subordinate: narrow(record, "subordinate bus", record.subordinate)?,
            control: narrow(record, "bridge control register", record.bridge_control)?,
            command: narrow(record, "command register", record.command)?,
        })
    })
}
