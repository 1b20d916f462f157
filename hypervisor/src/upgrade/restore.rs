//! From records to the living machine, without a write to hardware.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use handover::State;
use handover::state::machine::FrameTag;
use hermit_sync::SpinMutex;
use iommu::Iommu;
use machine::access::TableMemory;
use machine::addr::HostPhys;
use machine::pci::ConfigSpace;

use super::convert;
use super::convert::pci::{FunctionPlan, RouteState};
use crate::config::DEFAULT_FAULT_LIMIT;
use crate::firmware::Firmware;
use crate::guest::clock::GuestClock;
use crate::guest::cpuid::CpuidTable;
use crate::host;
use crate::mem::frames::{self, ArenaFrames};
use crate::passthrough::router::{Router, Way};
use crate::passthrough::{Assigned, inventory, quarantine, routes, sriov, units};
use crate::vm::Vm;
use crate::vm::build::{self, Parts};
use crate::vm::memory::AddressSpace;
use crate::vm::runner::Runner;

static RESTORED: SpinMutex<Vec<Arc<Vm>>> = SpinMutex::new(Vec::new());

/// The guests that were restored, once.
pub fn take_restored() -> Vec<Arc<Vm>> {
    core::mem::take(&mut *RESTORED.lock())
}

/// The bridges above preserved devices are as recorded.
///
/// # Errors
/// One has changed.
pub fn bridges(state: &State) -> Result<(), String> {
    let ecam = &*host::get().ecam;
    for bridge in convert::machine::load_bridges(state).map_err(|error| error.to_string())? {
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

/// Takes the IOMMU units over. Every live register is compared; none is written.
///
/// # Errors
/// A register, table or frame is not as recorded.
pub fn units(state: &State, firmware: &Firmware) -> Result<(), String> {
    let physical = convert::pci::load_physical(state).map_err(|error| error.to_string())?;
    sriov::restore(physical)?;
    quarantine::set_limit(convert::pci::load_policy(state).unwrap_or(DEFAULT_FAULT_LIMIT));
    inventory::set_dmar(firmware.dmar.clone());
    let mut snapshot = convert::iommu::load(state).map_err(|error| error.to_string())?;
    if snapshot.units.is_empty() {
        return Ok(());
    }
    let mut registers = Vec::new();
    for unit in &firmware.units {
        registers.push((unit.base, units::map_registers(unit.base)?));
    }
    let memory = ArenaFrames(units::TAG);
    let owned = |frame: HostPhys| frames::with(|arena| arena.owner(frame)).flatten() == Some(units::TAG);
    let routes = routes::from_dmar(firmware);
    let memory: &dyn TableMemory = &memory;
    let adopted = Iommu::adopt(&mut snapshot, registers, routes, memory, &owned).map_err(|error| error.to_string())?;
    units::set(adopted);
    Ok(())
}

/// Restores every guest; the virtual CPUs with their pCPUs.
///
/// # Errors
/// A guest can't be restored, by name.
pub fn guests(state: &State) -> Result<Vec<(u32, Runner)>, String> {
    let mut runners = Vec::new();
    for record in &state.guests {
        let one = guest(state, record.token, &mut runners);
        one.map_err(|error| format!("guest {:#x}: {error}", record.token))?;
    }
    Ok(runners)
}

fn guest(state: &State, token: u64, runners: &mut Vec<(u32, Runner)>) -> Result<(), String> {
    let text = |error: convert::ConvertError| error.to_string();
    let planned = convert::guest::load(state, token).map_err(text)?;
    let rest = convert::guest::load_rest(state, token).map_err(text)?;
    let (space, ram) = convert::memory::load(state, token).map_err(text)?;
    let owner = frames::with(|arena| arena.owner(space.root)).flatten();
    if owner != Some(FrameTag::new(FrameTag::SPACE_TABLE, planned.number)) {
        return Err(format!("its nested page tables at {} belong to {owner:?}", space.root));
    }
    let space = AddressSpace::adopt(space.token, planned.number, space.root, space.levels, space.leaves)
        .map_err(|error| error.to_string())?;
    let platform = convert::platform::load(state, token).map_err(text)?;
    let functions = convert::pci::load_plan(state, token).map_err(text)?;
    let (_, routes) = convert::pci::load(state, token).map_err(text)?;
    let mut vcpus = Vec::new();
    for index in 0..planned.vcpus {
        let vcpu = convert::vcpu::load(state, token, index).map_err(text)?;
        let own = convert::lapic::load(state, token, index).map_err(text)?;
        vcpus.push((vcpu, own));
    }
    let parts = Parts {
        token,
        id: planned.number,
        name: planned.name.clone(),
        kernel: planned.kernel.clone(),
        on_upgrade: planned.on_upgrade,
        console: planned.console,
        pcpus: vcpus.iter().map(|(vcpu, _)| vcpu.pcpu).collect(),
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
    vm.platform.restore(&platform).map_err(|error| error.to_string())?;
    for device in vm.devices().iter().filter(|device| quarantine::holds(device.bdf)) {
        vm.platform.with_pci(|pci| pci.mark_removed(device.bdf));
    }
    let router = Router::new(vm.fabric.clone(), vm.vcpus.iter().map(|vcpu| vcpu.pcpu).collect());
    for route in &routes {
        restore_route(&router, route)?;
    }
    for (index, (vcpu, own)) in (0u32..).zip(vcpus) {
        let mut hardware = build::hardware_cpu(&vm)?;
        hardware.set_state(&vcpu.arch).map_err(|error| error.to_string())?;
        hardware.restore_extended(&vcpu.xsave).map_err(|error| error.to_string())?;
        let mut private = vm.platform.vcpu(index).ok_or("a virtual CPU has no LAPIC")?;
        private.restore(&own).map_err(|error| error.to_string())?;
        runners.push((vcpu.pcpu, Runner::new(vm.clone(), index, hardware, private)));
    }
    if rest.state != crate::vm::VmState::Running {
        vm.stop(rest.reason);
    }
    RESTORED.lock().push(vm);
    Ok(())
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
