//! From the living machine to records: what can't change after PLAN, and the small rest of FREEZE.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use handover::State;
use handover::state::page::VcpuPlaceV1;
use handover::state::report::ReportV1;
use iommu::state::Snapshot;
use machine::pci::{Bdf, ConfigSpace};

use super::convert;
use super::convert::guest::{GuestRest, GuestState};
use super::convert::machine::{ArenaState, BridgeState, MachineState, PcpuState};
use super::convert::memory::SpaceState;
use super::convert::pci::{FunctionPlan, RouteState};
use super::{leave, report, settings, trust, walk};
use crate::guest::pci::access::MSI_ENTRY;
use crate::guest::pci::{BARS, PciFunctionState};
use crate::guest::platform::{PlatformState, VcpuPlatform};
use crate::mem::layout::ARENA_BYTES;
use crate::mem::regions::Owner;
use crate::passthrough::{inventory, quarantine, requests, router, sriov, units};
use crate::smp::{apic_registers, pcpu};
use crate::vcpu::state::ArchState;
use crate::vm::{self, Vm};
use crate::{host, modules, time};

/// What FREEZE gathers into. Made at PLAN and filled by the dry run: the pause takes no memory.
#[derive(Default)]
pub struct Room {
    kept: Kept,
    units: Snapshot,
    guests: Vec<GuestRoom>,
}

#[derive(Default)]
struct GuestRoom {
    platform: PlatformState,
    routes: Vec<RouteState>,
}

impl Room {
    /// For these guests.
    pub fn of(vms: &[Arc<Vm>]) -> Self {
        Self {
            kept: Kept::of(vms),
            units: Snapshot::default(),
            guests: vms.iter().map(|_| GuestRoom::default()).collect(),
        }
    }

    /// Takes what the units know of what is kept.
    fn take_units(&mut self) -> Result<(), String> {
        self.take_all_units()?;
        self.kept.retain_in(&mut self.units);
        Ok(())
    }

    /// Takes where their queues stand, and the faults.
    fn take_queues(&mut self) -> Result<(), String> {
        let taken = units::with(|units, _| units.snapshot_queues_into(&mut self.units));
        taken.unwrap_or(Ok(())).map_err(|error| error.to_string())
    }

    /// Takes what the units know.
    fn take_all_units(&mut self) -> Result<(), String> {
        let taken = units::with(|units, _| units.snapshot_into(&mut self.units));
        taken.unwrap_or(Ok(())).map_err(|error| error.to_string())
    }
}

/// Whose domains and devices are preserved.
#[derive(Default)]
pub(super) struct Kept {
    /// Tokens of domains.
    pub tokens: BTreeSet<u64>,
    /// Segments and requester ids.
    pub sources: BTreeSet<(u16, u16)>,
}

impl Kept {
    fn of(vms: &[Arc<Vm>]) -> Self {
        let devices = vms.iter().flat_map(|vm| vm.devices()).map(|device| device.bdf);
        Self {
            tokens: vms.iter().map(|vm| vm::tokens::domain(vm.token)).collect(),
            sources: devices.map(|device| (device.segment(), device.requester_id())).collect(),
        }
    }

    /// Leaves the preserved part of what the units know: domains and devices of guests, nothing of Baton's own.
    pub fn retain_in(&self, taken: &mut Snapshot) {
        let Self { tokens, sources } = self;
        taken.domains.retain(|domain| tokens.contains(&domain.token));
        taken.dids.retain(|did| tokens.contains(&did.token));
        taken.devices.retain(|device| tokens.contains(&device.token));
        taken.pasids.retain(|pasid| sources.contains(&(pasid.segment, pasid.source)));
        taken.aliases.retain(|alias| sources.contains(&(alias.segment, alias.source)));
        // The source id is in the low half of the entry's second word (VT-d 9.10).
        taken.irtes.retain(|entry| sources.iter().any(|(_, source)| *source == entry.high as u16));
    }
}

fn mapped(vm: &Vm) -> Vec<PciFunctionState> {
    vm.platform.save().pci.functions
}

/// Everything that does not change after PLAN. Upgrade `sequence` will preserve `vms` and stop `leaving`; virtual CPUs have these places,
/// where the format has any.
///
/// # Errors
/// Something can't be preserved, or has no place in the records.
pub fn planned(
    sequence: u64,
    vms: &[Arc<Vm>],
    leaving: &[Arc<Vm>],
    places: &[VcpuPlaceV1],
    reports: &[ReportV1],
) -> Result<State, String> {
    requests::check(vms)?;
    walk::check(vms)?;
    let mut state = State::default();
    let host = host::get();
    let mut pcpus = pcpu::all();
    pcpus.sort_by_key(|pcpu| pcpu.index);
    let rates = time::rates();
    convert::machine::save(
        &mut state,
        &MachineState {
            boot_nonce: host.boot_nonce,
            generation: host.generation + 1,
            rates,
            epoch_ns: time::epoch_ns(),
            rsdp: host.rsdp,
            console_port: 0x3f8,
            x2apic: apic_registers::is_x2apic(),
            pcpus: pcpus.iter().map(|pcpu| PcpuState { apic_id: pcpu.apic_id, acpi_uid: pcpu.index }).collect(),
            via: host.via.clone(),
            ticks_to_guest: host::ticks_to_guest(),
        },
    );
    // What belongs to guests that leave is nobody's when the next image hands out memory.
    let mut regions = host.regions.lock().clone();
    leaving.iter().for_each(|vm| regions.release(Owner::Object(vm.ram.token)));
    convert::machine::save_regions(&mut state, regions.iter());
    convert::machine::save_arena(
        &mut state,
        ArenaState { base: host.arena, bytes: ARENA_BYTES, frame_table: host.arena },
    );
    convert::machine::save_modules(&mut state, modules::all().iter().map(|(index, module)| (*index, module)));
    convert::machine::save_bridges(&mut state, &bridges(vms));
    let mut room = Room::of(vms);
    room.take_all_units()?;
    room.units.leaving = leave::requesters(&room.units, &room.kept.tokens);
    room.kept.retain_in(&mut room.units);
    let space_of = |domain| {
        vms.iter().find(|vm| vm::tokens::domain(vm.token) == domain).map_or(0, |vm| vm::tokens::space(vm.token))
    };
    convert::iommu::save_plan(&mut state, &room.units, space_of).map_err(|error| error.to_string())?;
    convert::pci::save_physical(&mut state, &sriov::all());
    convert::pci::save_policy(&mut state, quarantine::limit());
    for vm in vms {
        plan_guest(&mut state, vm).map_err(|error| format!("guest {}: {error}", vm.name))?;
    }
    if let Some(management) = settings::management() {
        convert::management::save(&mut state, &management);
    }
    convert::trust::save(&mut state, &trust::state(&host.note));
    convert::report::save(&mut state, reports);
    state.vcpu_places.extend_from_slice(places);
    state.stopped = report::all_stopped();
    state.stopped.extend(leave::records(sequence, leaving));
    state.set_planned();
    state.sort();
    Ok(state)
}

fn plan_guest(state: &mut State, vm: &Vm) -> Result<(), String> {
    let space = SpaceState::of(&vm.space.lock());
    let guest = GuestState {
        token: vm.token,
        number: vm.id,
        name: vm.name.clone(),
        kernel: vm.kernel.clone(),
        space: space.token,
        memory_bytes: vm.ram.bytes(),
        vcpus: vm.vcpus.len() as u32,
        devices: vm.devices().len() as u32,
        console: vm.console,
        on_upgrade: vm.on_upgrade,
    };
    convert::guest::save(state, &guest).map_err(|error| error.to_string())?;
    convert::memory::save(state, vm.token, &space, &vm.ram);
    convert::platform::save_plan(state, vm.token, &vm.platform.save().cpuid);
    let functions = mapped(vm);
    for device in vm.devices() {
        let known = functions.iter().find(|function| function.device() == device.bdf);
        let plan = FunctionPlan {
            device: device.bdf,
            owner: vm.token,
            slot: device.slot,
            identity: device.identity,
            bars: device.bars.clone(),
            mapped: known.map_or([u64::MAX; BARS], |function| function.mapped),
            msix: device.msix,
            msi: device.msi,
            resettable: true,
            ats: device.ats,
        };
        convert::pci::save_plan(state, &plan).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The bridges above preserved devices, as they are.
fn bridges(vms: &[Arc<Vm>]) -> Vec<BridgeState> {
    let ecam = &*host::get().ecam;
    let mut above: Vec<Bdf> =
        vms.iter().flat_map(|vm| vm.devices()).flat_map(|device| inventory::path_to(device.bdf)).collect();
    above.sort_unstable();
    above.dedup();
    let bridge = |bridge: &Bdf| BridgeState {
        bridge: *bridge,
        identity: ecam.read32(*bridge, 0),
        secondary: ecam.read8(*bridge, 0x19),
        subordinate: ecam.read8(*bridge, 0x1a),
        control: ecam.read16(*bridge, 0x3e),
        command: ecam.read16(*bridge, 0x04),
    };
    above.iter().map(bridge).collect()
}

/// The ways of a guest's interrupts, as its devices' front ends and the router know them.
fn routes(functions: &[PciFunctionState], routes: &mut Vec<RouteState>) {
    routes.clear();
    for function in functions {
        let guest = |entry| match entry {
            MSI_ENTRY => function.msi.map(|msi| msi.guest),
            entry => {
                let msix = function.msix.as_ref();
                msix.and_then(|msix| msix.entries.get(usize::from(entry))).map(|entry| entry.routed_guest)
            }
        };
        router::for_each_way(function.device(), |entry, way| {
            routes.extend(guest(entry).map(|guest| RouteState {
                device: function.device(),
                entry,
                guest,
                irte: way.range.first,
                host_vector: way.vector,
                pcpu: way.pcpu,
                pending: false,
            }));
        });
    }
}

/// When the rest is gathered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The guests run: virtual CPUs are as after power-on.
    DryRun,
    /// Every virtual CPU has left its snapshot.
    Freeze {
        /// What is settled is in the set, as the dry run has gathered it.
        settled: bool,
    },
}

/// Rises with whatever may alter what is settled: the functions of these guests, and the ways of their interrupts.
pub fn changes(vms: &[Arc<Vm>]) -> u64 {
    vms.iter().fold(router::changes(), |sum, vm| sum.wrapping_add(vm.platform.pci_changes()))
}

/// The legacy region and the header of an XSAVE area: nothing of it is in use.
fn no_xsave(area: &mut [u8]) -> usize {
    let bytes = area.len().min(576);
    area.iter_mut().take(bytes).for_each(|byte| *byte = 0);
    bytes
}

/// What FREEZE adds: virtual CPUs, interrupt state, clocks, queue tails.
///
/// # Errors
/// Something has changed since PLAN, or has no place in the records.
pub fn rest(
    state: &mut State,
    vms: &[Arc<Vm>],
    room: &mut Room,
    current: &ReportV1,
    moment: Moment,
) -> Result<(), String> {
    let settled = moment == Moment::Freeze { settled: true };
    if settled {
        room.take_queues()?;
    } else {
        room.take_units()?;
        convert::iommu::save_entries(state, &room.units).map_err(|error| error.to_string())?;
    }
    convert::iommu::save_rest(state, &room.units).map_err(|error| error.to_string())?;
    for (vm, room) in vms.iter().zip(&mut room.guests) {
        rest_of_guest(state, vm, room, moment).map_err(|error| format!("guest {}: {error}", vm.name))?;
    }
    convert::management::save_totals(state, &settings::totals());
    convert::report::save(state, core::slice::from_ref(current));
    if settled {
        state.sort_unsettled();
    } else {
        state.sort();
    }
    Ok(())
}

fn rest_of_guest(state: &mut State, vm: &Vm, room: &mut GuestRoom, moment: Moment) -> Result<(), String> {
    let GuestRoom { platform, routes: ways } = room;
    if moment == (Moment::Freeze { settled: true }) {
        vm.platform.save_unsettled_into(platform);
    } else {
        vm.platform.save_into(platform);
        routes(&platform.pci.functions, ways);
        convert::pci::save(state, vm.token, &platform.pci.functions, ways).map_err(|error| error.to_string())?;
    }
    let rest = GuestRest {
        token: vm.token,
        state: vm.state(),
        reason: vm.reason(),
        power: platform.power,
        entries: 0,
        interrupts: 0,
        started_tsc: 0,
    };
    convert::guest::save_rest(state, &rest);
    convert::platform::save(state, vm.token, platform).map_err(|error| error.to_string())?;
    let apart = !state.vcpu_places.is_empty();
    for (index, shared) in (0u32..).zip(&vm.vcpus) {
        let mut place = shared.place.lock();
        let Some(place) = place.as_mut() else { return Err(format!("vCPU {index} has no place")) };
        if moment == Moment::DryRun {
            let registers = (&ArchState::reset(), &VcpuPlatform::initial(index));
            place.fill(registers.0, registers.1, no_xsave).map_err(|error| error.to_string())?;
        }
        if !place.take_fresh() {
            return Err(format!("vCPU {index} did not stop, or is in a state that has no place in the records"));
        }
        if !apart {
            let (page, area) = place.left();
            convert::vcpu::save(state, &page.vcpu, area).map_err(|error| error.to_string())?;
            convert::lapic::save(state, page);
        }
    }
    Ok(())
}

/// Reports kept, as records.
pub fn reports() -> Vec<ReportV1> {
    report::all()
}
