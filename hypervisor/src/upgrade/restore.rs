//! From records to the living machine, without a write to hardware.
#![expect(unsafe_code, reason = "virtual CPUs' state lies in memory that another image wrote")]

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use handover::state::guest::GuestV1;
use handover::state::machine::FrameTag;
use handover::state::page::VcpuPlaceV1;
use handover::{State, graph};
use iommu::Iommu;
use iommu::state::Snapshot;
use machine::access::TableMemory;
use machine::addr::HostPhys;
use machine::pci::ConfigSpace;

use super::convert;
use super::convert::pci::{FunctionPlan, RouteState};
use super::convert::vcpu::VcpuState;
use super::pages;
use crate::config::DEFAULT_FAULT_LIMIT;
use crate::firmware::Firmware;
use crate::guest::clock::GuestClock;
use crate::guest::cpuid::{CpuidTable, offer};
use crate::guest::platform::PlatformState;
use crate::host;
use crate::mem::frames::{self, ArenaFrames};
use crate::passthrough::router::{self, Router, Way};
use crate::passthrough::{Assigned, inventory, quarantine, routes, sriov, units};
use crate::vm::Vm;
use crate::vm::build::{self, Parts};
use crate::vm::memory::AddressSpace;
use crate::vm::runner::Runner;

/// The bridges above preserved devices are as recorded.
///
/// # Errors
/// One has changed.
pub fn bridges(state: &State) -> Result<(), String> {
    let ecam = &*host::get().ecam;
    for bridge in convert::machine::load_bridges(state) {
        let bridge = bridge.map_err(text)?;
        let live = [
            ecam.read32(bridge.bridge, 0),
            ecam.read8(bridge.bridge, 0x19).into(),
            ecam.read8(bridge.bridge, 0x1a).into(),
        ];
        let recorded = [bridge.identity, bridge.secondary.into(), bridge.subordinate.into()];
        if live != recorded {
            return Err(format!("the bridge {} is {live:x?}, recorded is {recorded:x?}", bridge.bridge));
        }
    }
    Ok(())
}

/// Remapping entries and faults that may come between WARM and FREEZE without the pause taking memory for them.
const TO_COME: usize = 64;

/// The first half of taking the IOMMU units over: what can't change any more. Every live register is compared; none is written. What
/// the records say, for [`finish_units`] to say again.
///
/// # Errors
/// A register, table or frame is not as recorded.
pub fn units(state: &State, firmware: &Firmware) -> Result<Snapshot, String> {
    let physical = convert::pci::load_physical(state).map_err(|error| error.to_string())?;
    sriov::restore(physical)?;
    quarantine::set_limit(convert::pci::load_policy(state).unwrap_or(DEFAULT_FAULT_LIMIT));
    inventory::set_dmar(firmware.dmar.clone());
    let mut snapshot = convert::iommu::load(state).map_err(text)?;
    snapshot.irtes.reserve(TO_COME);
    snapshot.faults.reserve(TO_COME);
    if snapshot.units.is_empty() {
        return Ok(snapshot);
    }
    let mut registers = Vec::new();
    for unit in &firmware.units {
        registers.push((unit.base, units::map_registers(unit.base)?));
    }
    let memory = ArenaFrames(units::TAG);
    let owned = |frame: HostPhys| frames::with(|arena| arena.owner(frame)).flatten() == Some(units::TAG);
    let routes = routes::from_dmar(firmware);
    let memory: &dyn TableMemory = &memory;
    let prepared = Iommu::prepare(&snapshot, registers, routes, memory, &owned).map_err(|error| error.to_string())?;
    units::set(prepared);
    Ok(snapshot)
}

/// The second half: queues, remapping entries, faults, as they were left; every live register is compared once more. Takes no memory. When
/// what is settled is as it was, the entries are those that [`units`] has read.
///
/// # Errors
/// A register or an entry is not as recorded, or not every recorded unit is there.
pub fn finish_units(state: &State, snapshot: &mut Snapshot, settled: bool) -> Result<(), String> {
    let load = if settled { convert::iommu::load_unsettled_into } else { convert::iommu::load_into };
    load(state, snapshot).map_err(text)?;
    let memory = ArenaFrames(units::TAG);
    match units::with(|units, _| (units.units(), units.finish(snapshot, &memory))) {
        None if snapshot.units.is_empty() => Ok(()),
        Some((count, Ok(()))) if count == snapshot.units.len() => Ok(()),
        Some((_, Err(error))) => Err(error.to_string()),
        other => {
            let adopted = other.map_or(0, |(count, _)| count);
            Err(format!("{adopted} of {} IOMMU units were adopted", snapshot.units.len()))
        }
    }
}

/// A guest on its way in.
pub struct Restored {
    /// The guest.
    pub vm: Arc<Vm>,
    /// Its virtual CPUs with their pCPUs, by index.
    pub vcpus: Vec<(u32, Runner)>,
    router: Router,
    functions: Vec<FunctionPlan>,
    /// What [`Restored::continue_from`] reads the records into: with room since WARM.
    platform: PlatformState,
    routes: Vec<RouteState>,
    states: Vec<VcpuState>,
}

/// Makes every guest, from what can't change any more; its state is [`Restored::continue_from`]'s.
///
/// # Errors
/// A guest can't be restored, by name.
pub fn guests(state: &State) -> Result<Vec<Restored>, String> {
    let one =
        |record: &GuestV1| guest(state, record.token).map_err(|error| format!("guest {:#x}: {error}", record.token));
    state.guests.iter().map(one).collect()
}

fn text(error: convert::ConvertError) -> String {
    error.to_string()
}

fn guest(state: &State, token: u64) -> Result<Restored, String> {
    let planned = convert::guest::load(state, token).map_err(text)?;
    let (space, ram) = convert::memory::load(state, token).map_err(text)?;
    let owner = frames::with(|arena| arena.owner(space.root)).flatten();
    if owner != Some(FrameTag::new(FrameTag::SPACE_TABLE, planned.number)) {
        return Err(format!("its nested page tables at {} belong to {owner:?}", space.root));
    }
    let space = AddressSpace::adopt(space.token, planned.number, space.root, space.levels, space.leaves)
        .map_err(|error| error.to_string())?;
    let platform = convert::platform::load(state, token).map_err(text)?;
    offer::check(&platform.cpuid, &build::offered(planned.vcpus, platform.clock.tsc_khz))
        .map_err(|missing| missing.to_string())?;
    let functions = convert::pci::load_plan(state, token).map_err(text)?;
    let mut states = Vec::new();
    for index in 0..planned.vcpus {
        states.push(convert::vcpu::load_plan(state, token, index).map_err(text)?);
    }
    let pcpus: Vec<u32> = states.iter().map(|vcpu| vcpu.pcpu).collect();
    let parts = Parts {
        token,
        id: planned.number,
        name: planned.name.clone(),
        kernel: planned.kernel.clone(),
        on_upgrade: planned.on_upgrade,
        console: planned.console,
        pcpus: pcpus.clone(),
        ram: Arc::new(ram),
        space,
        cpuid: CpuidTable::restore(platform.cpuid.clone()).map_err(|error| error.to_string())?,
        clock: GuestClock::new(platform.clock).map_err(|error| error.to_string())?,
    };
    let name = planned.name.clone();
    let vm = build::assemble(parts, |bus| {
        let mut assigned = Vec::new();
        for function in &functions {
            let device = take(function, &name)?;
            let slot = device.put_on(bus)?;
            if slot != function.slot {
                return Err(format!("{} is in slot {slot}, recorded is {}", device.bdf, function.slot));
            }
            assigned.push(Assigned { slot, ..device });
        }
        Ok(assigned)
    })?;
    let router = Router::new(vm.fabric.clone(), pcpus.clone());
    let mut vcpus = Vec::new();
    for (index, pcpu) in (0u32..).zip(pcpus) {
        let hardware = build::hardware_cpu(&vm)?;
        if let Some(vcpu) = states.get_mut(index as usize) {
            vcpu.xsave.reserve(hardware.extended_state_size());
        }
        let private = vm.platform.vcpu(index).ok_or("a virtual CPU has no LAPIC")?;
        vcpus.push((pcpu, Runner::new(vm.clone(), index, hardware, private)));
    }
    let routes = Vec::with_capacity(functions.iter().map(messages).sum());
    router::reserve(routes.capacity());
    Ok(Restored { vm, vcpus, router, functions, platform, routes, states })
}

/// How many messages a function can send.
fn messages(function: &FunctionPlan) -> usize {
    function.msix.map_or(0, |msix| usize::from(msix.entries)) + usize::from(function.msi.is_some())
}

impl Restored {
    /// Takes over what the guest was doing. In the sandbox from the records of the dry run, in the pause from the last ones: when what is
    /// settled is as it was, its functions and the ways of their interrupts go on as they are.
    ///
    /// # Errors
    /// The guest can't go on from there.
    pub fn continue_from(&mut self, state: &State, settled: bool) -> Result<(), String> {
        let token = self.vm.token;
        self.go_on(state, settled).map_err(|error| format!("guest {token:#x}: {error}"))
    }

    /// The guest's functions, and the ways of their interrupts.
    fn take_functions(&mut self, state: &State) -> Result<(), String> {
        let Self { functions, platform, routes, .. } = self;
        convert::pci::load(state, functions, &mut platform.pci.functions, routes).map_err(text)?;
        self.vm.platform.with_pci(|pci| pci.restore(&platform.pci)).map_err(|error| error.to_string())?;
        for device in self.vm.devices().iter().filter(|device| quarantine::holds(device.bdf)) {
            self.vm.platform.with_pci(|pci| pci.mark_removed(device.bdf));
        }
        for device in self.vm.devices() {
            let bdf = device.bdf;
            Router::keep_only(bdf, |entry| routes.iter().any(|route| route.device == bdf && route.entry == entry));
        }
        routes.iter().try_for_each(|route| restore_route(&self.router, route))
    }

    fn go_on(&mut self, state: &State, settled: bool) -> Result<(), String> {
        let token = self.vm.token;
        if !settled {
            self.take_functions(state)?;
        }
        convert::platform::load_into(state, token, &mut self.platform).map_err(text)?;
        self.vm.platform.restore_unsettled(&self.platform).map_err(|error| error.to_string())?;
        let places = convert::vcpu::places(state, token);
        if !places.is_empty() && places.len() != self.states.len() {
            return Err(format!("{} vCPUs have places, planned were {}", places.len(), self.states.len()));
        }
        for (index, ((pcpu, runner), vcpu)) in (0u32..).zip(self.vcpus.iter_mut().zip(&mut self.states)) {
            match places.get(index as usize) {
                // SAFETY: the plan was judged in the sandbox, where the arena was mapped; who writes there stands still.
                Some(place) => unsafe { from_page(state, place, runner, vcpu)? },
                None => {
                    convert::vcpu::load_into(state, token, index, vcpu).map_err(text)?;
                    let platform = convert::lapic::load(state, token, index).map_err(text)?;
                    runner.continue_from(&vcpu.arch, &vcpu.xsave, &platform)?;
                }
            }
            if vcpu.pcpu != *pcpu {
                return Err(format!("vCPU {index} is on pCPU {}, planned was {pcpu}", vcpu.pcpu));
            }
        }
        let rest = convert::guest::load_rest(state, token).map_err(text)?;
        if rest.state != crate::vm::VmState::Running {
            self.vm.stop(rest.reason);
        }
        Ok(())
    }
}

/// Takes over a virtual CPU from its place.
///
/// # Safety
/// As for [`pages::read`].
unsafe fn from_page(
    state: &State,
    place: &VcpuPlaceV1,
    runner: &mut Runner,
    vcpu: &mut VcpuState,
) -> Result<(), String> {
    // SAFETY: by contract.
    let (page, area) = unsafe { pages::read(place) };
    page.check(host::get().generation, place).map_err(|error| error.to_string())?;
    graph::vcpu_fields(state, &page.vcpu).map_err(|error| error.to_string())?;
    convert::vcpu::read(&page.vcpu, vcpu).map_err(text)?;
    let area = area.get(..page.vcpu.xsave_bytes as usize).ok_or("its XSAVE area is longer than its place")?;
    let platform = convert::lapic::read(&page.lapic, &page.clock, &page.msrs).map_err(text)?;
    runner.continue_from(&vcpu.arch, area, &platform)
}

/// Takes over a function: it is the one recorded.
fn take(plan: &FunctionPlan, owner: &str) -> Result<Assigned, String> {
    let live = sriov::identity(plan.device).unwrap_or_else(|| host::get().ecam.read32(plan.device, 0));
    if live != plan.identity {
        return Err(format!("{} is {live:#010x}, recorded is {:#010x}", plan.device, plan.identity));
    }
    inventory::claim(plan.device, owner)?;
    Ok(Assigned {
        bdf: plan.device,
        identity: plan.identity,
        slot: plan.slot,
        bars: plan.bars.clone(),
        msix: plan.msix,
        msi: plan.msi,
        ats: plan.ats,
    })
}

fn restore_route(router: &Router, route: &RouteState) -> Result<(), String> {
    let unit = units::unit_of(route.device).ok_or_else(|| format!("no IOMMU unit translates for {}", route.device))?;
    let way = Way {
        range: iommu::InterruptRange { unit, first: route.irte, count: 1 },
        vector: route.host_vector,
        pcpu: route.pcpu,
    };
    router.restore(route.device, route.entry, route.guest, way).map_err(|error| format!("{}: {error}", route.device))
}
