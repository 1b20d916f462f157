//! From an entry of `baton.toml` and the boot modules to a guest that can run.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};

use guest_loader::layout::{ECAM, GuestMap, GuestRange, IOAPIC, LAPIC, PCI_WINDOW_32, PCI_WINDOW_64};
use guest_loader::{Entry, Mode, Module, Plan, SEED_BYTES};
use hermit_sync::SpinMutex;
use machine::addr::GuestPhys;
use machine::cpu::random;
use machine::pci::Bdf;

use super::memory::{AddressSpace, GuestRam};
use super::runner::{Engine, Runner};
use super::services::{Kicks, PlatformRam, SerialConsole};
use super::{VcpuShared, Vm, VmState, tokens};
use crate::config;
use crate::guest::clock::{ClockState, GuestClock};
use crate::guest::cpuid::{CpuidConfig, CpuidTable};
use crate::guest::message::InterruptFabric;
use crate::guest::pci::PciBus;
use crate::guest::platform::{GuestParts, GuestPlatform};
use crate::mem::regions::Owner;
use crate::passthrough::{self, Assigned, Candidate, router::Router};
use crate::vcpu::state::{Activity, ArchState};
use crate::{cpu, host, machine_cpus, sched, time};

/// Bits of a guest physical address, whatever the host has: the 64-bit PCI window ends far below.
const PHYSICAL_BITS: u8 = 40;

/// A module by its name.
pub type Modules<'a> = &'a dyn Fn(&str) -> Option<&'a [u8]>;

/// Where a guest's BARs must never be.
fn blocked(ram: &GuestRam) -> Vec<GuestRange> {
    let mut ranges: Vec<GuestRange> =
        ram.extents.iter().map(|extent| GuestRange { start: extent.guest, bytes: extent.bytes }).collect();
    ranges.extend(&ram.reserved);
    ranges.extend([ECAM, IOAPIC, LAPIC]);
    ranges
}

/// What is the same for a new guest and for one that continues.
pub struct Parts {
    /// Name across images.
    pub token: u64,
    /// Number on this machine.
    pub id: u16,
    /// Name in `baton.toml`.
    pub name: String,
    /// Module of its kernel.
    pub kernel: String,
    /// What an upgrade does with it.
    pub on_upgrade: config::OnUpgrade,
    /// Where its console goes.
    pub console: config::Console,
    /// pCPU of each virtual CPU.
    pub pcpus: Vec<u32>,
    /// Its RAM.
    pub ram: Arc<GuestRam>,
    /// Its nested page tables.
    pub space: AddressSpace,
    /// CPUID, new or carried over.
    pub cpuid: CpuidTable,
    /// The clock, new or carried over.
    pub clock: GuestClock,
}

/// Puts the platform and the virtual CPUs' common part together. `add_functions` puts the devices on the bus.
///
/// # Errors
/// A device can't be on the bus.
pub fn assemble(
    parts: Parts,
    add_functions: impl FnOnce(&mut PciBus) -> Result<Vec<Assigned>, String>,
) -> Result<Arc<Vm>, String> {
    let vcpus = parts.pcpus.len() as u32;
    let fabric = Arc::new(InterruptFabric::new(vcpus, Box::new(Kicks(parts.pcpus.clone()))));
    let router = Router::new(fabric.clone(), parts.pcpus.clone());
    let mut pci = PciBus::new(Box::new(router), blocked(&parts.ram), PHYSICAL_BITS);
    let devices = add_functions(&mut pci)?;
    let platform = GuestPlatform::new(GuestParts {
        fabric: fabric.clone(),
        ram: Box::new(PlatformRam(parts.ram.clone())),
        console: Box::new(SerialConsole::new(parts.console, &parts.name)),
        pci,
        cpuid: parts.cpuid,
        clock: parts.clock,
        microcode: 0,
    });
    Ok(Arc::new(Vm {
        token: parts.token,
        id: parts.id,
        name: parts.name,
        kernel: parts.kernel,
        on_upgrade: parts.on_upgrade,
        ram: parts.ram,
        space: SpinMutex::new(parts.space),
        space_generation: Arc::new(AtomicU64::new(0)),
        fabric,
        platform: Arc::new(platform),
        vcpus: parts
            .pcpus
            .iter()
            .map(|pcpu| VcpuShared {
                pcpu: *pcpu,
                exits: SpinMutex::default(),
                halted: AtomicBool::new(false),
                entered: AtomicBool::new(false),
                place: SpinMutex::new(None),
            })
            .collect(),
        devices,
        released: AtomicBool::new(false),
        console: parts.console,
        state: AtomicU8::new(VmState::Running as u8),
        reason: SpinMutex::new(String::new()),
    }))
}

/// A hardware virtual CPU for `vm`, in the state after reset.
///
/// # Errors
/// No memory.
pub fn hardware_cpu(vm: &Vm) -> Result<Box<dyn Engine>, String> {
    let ram = vm.ram.clone();
    let read_pdptes = move |at| {
        let mut bytes = [0; 32];
        // What is no RAM reads as entries that are not present.
        let _is_ram = ram.read(GuestPhys(at), &mut bytes);
        let mut words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
        core::array::from_fn(|_| words.next().unwrap_or(0))
    };
    let root = vm.space.lock().root();
    machine_cpus::common().virtual_cpu(root, vm.space_generation.clone(), Box::new(read_pdptes))
}

/// What a guest is told by CPUID on this machine, by this image.
#[must_use]
pub fn offered(vcpus: u32, tsc_khz: u32) -> CpuidTable {
    let config = CpuidConfig {
        vcpus,
        physical_bits: PHYSICAL_BITS,
        xcr0: machine_cpus::common().xstate.mask,
        tsc_khz,
        speculation_control: false,
        hide_xsavec: false,
    };
    CpuidTable::new(&config, &cpu::cpuid)
}

/// Builds the guest and gives its virtual CPUs to their pCPUs.
///
/// # Errors
/// Why it can't start; the memory it had taken is given back.
pub fn start(guest: &config::Guest, id: u16, modules: Modules<'_>) -> Result<Arc<Vm>, String> {
    let kernel = modules(&guest.kernel).ok_or_else(|| missing(&guest.kernel, "kernel"))?;
    let initrd = match &guest.initrd {
        Some(name) => Some(Module { name, bytes: modules(name).ok_or_else(|| missing(name, "initrd"))? }),
        None => None,
    };
    let more = named(&guest.modules, modules)?;
    let devices = passthrough::find(guest)?;
    let token = tokens::guest(host::get().boot_nonce, id);
    let bdfs: Vec<Bdf> = devices.iter().map(Candidate::bdf).collect();
    let kernel = Module { name: &guest.kernel, bytes: kernel };
    let started = passthrough::reserve(&devices, guest.memory).and_then(|map| {
        let ram = GuestRam::allocate(&mut host::get().regions.lock(), &map, tokens::ram(token))
            .map_err(|error| error.to_string())?;
        finish(guest, id, token, (&map, &Arc::new(ram)), kernel, (initrd, &more), devices)
    });
    if started.is_err() {
        match passthrough::withdraw(&bdfs, tokens::domain(token)) {
            Ok(()) => host::get().regions.lock().release(Owner::Object(tokens::ram(token))),
            // Its memory stays taken: a unit may still lead there.
            Err(error) => log::error!("the memory of guest {} is kept back: {error}", guest.name),
        }
    }
    started
}

/// The modules that a list in `baton.toml` names, each with its text.
fn named<'a, 'm: 'a>(texts: &'a [String], modules: Modules<'m>) -> Result<Vec<(Module<'a>, &'a str)>, String> {
    let module = |text: &'a String| {
        let name = text.split_ascii_whitespace().next().unwrap_or_default();
        let bytes = modules(name).ok_or_else(|| missing(name, "modules"))?;
        Ok((Module { name, bytes }, text.as_str()))
    };
    texts.iter().map(module).collect()
}

/// What a guest's random numbers begin with; nothing where the CPU has no generator, for a bad one would be believed.
fn seed() -> Option<[u8; SEED_BYTES]> {
    let mut seed = [0; SEED_BYTES];
    for word in seed.chunks_exact_mut(8) {
        word.copy_from_slice(&random::number()?.to_le_bytes());
    }
    Some(seed)
}

/// The registers that the first virtual CPU starts with.
fn first_state(entry: &Entry) -> ArchState {
    let (rip, rsp) = (entry.rip.get(), entry.rsp.get());
    let (base, limit) = (entry.gdt_base.get(), entry.gdt_limit);
    let mut state = match entry.mode {
        Mode::Long64 => ArchState::linux64(rip, rsp, entry.rsi, entry.cr3, base, limit),
        Mode::Protected32 => ArchState::pvh32(rip as u32, entry.rbx as u32, base, limit),
        Mode::Real16 { code, data } => ArchState::real16(code, rip as u16, data, rsp as u16),
    };
    // RAX, RSP, RSI; what an entry leaves open is zero.
    for (register, value) in [(0, entry.rax), (4, rsp), (6, entry.rsi)] {
        if let Some(place) = state.gprs.get_mut(register) {
            *place = value;
        }
    }
    state
}

fn missing(name: &str, what: &str) -> String {
    format!(
        "its {what} '{name}' is not among the boot modules: add it to the boot script, or correct {what} in baton.toml"
    )
}

fn finish(
    guest: &config::Guest,
    id: u16,
    token: u64,
    (map, ram): (&GuestMap, &Arc<GuestRam>),
    kernel: Module<'_>,
    (initrd, modules): (Option<Module<'_>>, &[(Module<'_>, &str)]),
    devices: Vec<passthrough::Candidate>,
) -> Result<Arc<Vm>, String> {
    let apic_ids: Vec<u32> = (0..guest.vcpus).collect();
    let command_line = &guest.command_line;
    let start = guest.entry;
    let plan = Plan { map, kernel, initrd, modules, start, command_line, seed: seed(), apic_ids: &apic_ids };
    let entry = guest_loader::load(&plan, &mut &**ram).map_err(|error| error.to_string())?;
    let mut space = AddressSpace::new(tokens::space(token), id, machine_cpus::nested_leaves().and(guest.pages))
        .map_err(|error| error.to_string())?;
    space.map_ram(ram).map_err(|error| error.to_string())?;
    let tsc_khz = u32::try_from(time::tsc_khz()).unwrap_or(u32::MAX);
    let clock = ClockState { base_tsc: cpu::tsc(), base_ns: 0, wall_base_ns: time::wall_clock_ns(), tsc_khz };
    let parts = Parts {
        token,
        id,
        name: guest.name.clone(),
        kernel: guest.kernel.clone(),
        on_upgrade: guest.on_upgrade,
        console: guest.console,
        pcpus: guest.pcpus.clone(),
        ram: ram.clone(),
        space,
        cpuid: offered(guest.vcpus, tsc_khz),
        clock: GuestClock::new(clock).map_err(|error| error.to_string())?,
    };
    let vm = assemble(parts, |bus| {
        let assigned = passthrough::assign(devices, tokens::domain(token), (ram, guest.pages), bus)?;
        bus.assign_bars(PCI_WINDOW_32, PCI_WINDOW_64).map_err(|error| error.to_string())?;
        Ok(assigned)
    })?;
    let mut runners = Vec::new();
    for (index, pcpu) in guest.pcpus.iter().enumerate() {
        let mut hardware = hardware_cpu(&vm)?;
        if index == 0 {
            let state = first_state(&entry);
            hardware.set_state(&state).map_err(|error| error.to_string())?;
        } else {
            hardware.set_activity(Activity::WaitForSipi);
        }
        let platform = vm.platform.vcpu(index as u32).ok_or("a virtual CPU has no LAPIC")?;
        runners.push((*pcpu, Runner::new(vm.clone(), index as u32, hardware, platform)));
    }
    sched::assign(runners.into_iter());
    Ok(vm)
}
