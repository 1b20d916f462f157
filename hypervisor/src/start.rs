//! Power-on, step by step.
#![expect(unsafe_code, reason = "the heap, the arena and configuration space are taken over")]

use alloc::sync::Arc;
use alloc::vec::Vec;

use handover::note::{NOTE_BYTES, Note};
use hermit_sync::SpinMutex;
use iommu::Preference;
use machine::addr::{HostPhys, PAGE_SIZE_2M};
use machine::paging::Permissions;
use machine::pci::Ecam;
use zerocopy::FromBytes;

use crate::boot_info::{BootInfo, ColdBoot, MemoryRange};
use crate::config::{self, Config};
use crate::firmware::Firmware;
use crate::mem::layout::{ARENA_BYTES, SCRATCH_BYTES, SLOT_BYTES};
use crate::mem::regions::{Owner, RegionMap};
use crate::mem::{frames, heap, host_map};
use crate::passthrough::{inventory, quarantine, sriov, units};
use crate::smp::{apic_registers, pcpu, start as processors};
use crate::time::{calibrate, rtc};
use crate::upgrade::{trust, watchdog};
use crate::{console, cpu, firmware, host, machine_cpus, manage, modules, sched, time, vm};

/// Slots, arena and scratch lie below 4 GiB: the boot tables and the SIPI's CR3 reach no further.
const LIMIT: u64 = 1 << 32;

/// Ends a start that can't go on: one line that names the cause and what to change.
fn refuse(message: core::fmt::Arguments<'_>) -> ! {
    log::error!("{message}");
    log::error!("baton can't start on this machine");
    cpu::halt_forever()
}

/// From the boot loader to the loop of pCPU 0.
pub fn cold(boot: &BootInfo, cold: &ColdBoot) -> ! {
    let power_on = cpu::tsc();
    time::set_rates(time::Rates { tsc_khz: 0, lapic_khz: 0, power_on });
    // SAFETY: the first thing this image does; the slot is mapped by the boot tables.
    unsafe { heap::init(&boot.image) };
    console::init(true);
    #[cfg(feature = "fault")]
    crate::upgrade::fault::plant(boot.fault);
    log::info!("baton {} ({}) from {}", env!("CARGO_PKG_VERSION"), boot.build_name, cold.loader.as_str());

    let mut regions = memory(boot, cold);
    if let Err(error) = host_map::build(&boot.image) {
        refuse(format_args!("no page tables: {error}"));
    }
    // SAFETY: nothing but the image is in use yet.
    unsafe { host_map::activate() };
    if let Err(error) = apic_registers::find() {
        refuse(format_args!("no page tables: {error}"));
    }
    let own = pcpu::enlist(0);
    match calibrate::measure(power_on) {
        Ok(rates) => {
            time::set_rates(rates);
            log::info!("TSC {} kHz, LAPIC timer {} kHz", rates.tsc_khz, rates.lapic_khz);
        }
        Err(error) => refuse(format_args!("{error}")),
    }
    time::set_epoch_ns(rtc::read().saturating_sub(time::uptime_micros() * 1000));

    let mut take = |bytes, owner| match regions.allocate(bytes, PAGE_SIZE_2M, LIMIT, owner) {
        Ok(at) => {
            if let Err(error) = host_map::map_memory(at, bytes, Permissions::READ_WRITE) {
                refuse(format_args!("no page tables: {error}"));
            }
            at.get()
        }
        Err(error) => refuse(format_args!("too little memory below 4 GiB for Baton itself: {error}")),
    };
    let arena = take(ARENA_BYTES, Owner::Arena);
    let other_slot = take(SLOT_BYTES, Owner::Slot(1));
    let scratch = take(SCRATCH_BYTES, Owner::Scratch);
    // SAFETY: the range was just taken for the arena and mapped.
    unsafe { frames::create(HostPhys(arena)) };

    let firmware = match firmware::find() {
        Ok(firmware) => firmware,
        Err(error) => refuse(format_args!("{error}")),
    };
    watchdog::mask();
    host::set(host::Host {
        image: boot.image,
        note: note(boot),
        build_name: boot.build_name,
        generation: 0,
        via: via(cold.loader.as_str()),
        boot_nonce: cpu::tsc() << 16,
        slot: 0,
        slots: [boot.image.base, other_slot],
        scratch,
        arena,
        rsdp: firmware.rsdp,
        ecam: Arc::new(config_space(&firmware)),
        regions: SpinMutex::new(regions),
        entered: power_on,
    });
    let others: Vec<u32> = firmware.cpus.iter().copied().filter(|id| *id != own.apic_id).collect();
    let came = processors::start(&boot.ap_trampoline, &others);
    if came as usize != others.len() {
        log::warn!("{came} of {} other CPUs came up; guests on the missing ones are refused", others.len());
    }
    host_map::retire_trampoline();
    log::info!("{} CPUs", pcpu::count());
    guests(cold, &firmware, own.apic_id);
    sched::run(own)
}

/// What `boot/` says of the loader, in a word.
fn via(loader: &str) -> alloc::string::String {
    let word = loader.split([' ', '/']).next().unwrap_or("");
    word.to_ascii_lowercase()
}

/// The image's note; an image that was not sealed has none, and can't be upgraded from.
pub fn note(boot: &BootInfo) -> Note {
    boot.note.get(..NOTE_BYTES).and_then(|bytes| Note::read_from_bytes(bytes).ok()).unwrap_or_else(Note::unsealed)
}

fn memory(boot: &BootInfo, cold: &ColdBoot) -> RegionMap {
    let ranges =
        cold.memory.as_slice().iter().map(|range| (range.base, range.bytes, range.kind == MemoryRange::USABLE));
    let mut regions = RegionMap::from_firmware(ranges);
    let total = regions.bytes(|owner| owner == Owner::Free);
    let low: Vec<_> =
        regions.iter().filter(|region| region.owner == Owner::Free && region.base < 1 << 20).copied().collect();
    for region in low {
        let bytes = region.end().min(1 << 20) - region.base;
        if let Err(error) = regions.claim(region.base, bytes, Owner::Low) {
            refuse(format_args!("the firmware's memory map contradicts itself below 1 MiB: {error}"));
        }
    }
    if let Err(error) = regions.claim(boot.image.base, SLOT_BYTES, Owner::Slot(0)) {
        refuse(format_args!(
            "the firmware says that the image's own memory at {:#x} is no RAM: {error}",
            boot.image.base
        ));
    }
    for (index, module) in cold.modules.as_slice().iter().enumerate() {
        let (start, bytes) = modules::pages(module);
        match regions.claim(start, bytes, Owner::Module(index as u8)) {
            Ok(()) => log::info!("module {} with {} KiB at {start:#x}", module.base_name(), module.bytes >> 10),
            Err(error) => {
                log::warn!("module {} is ignored, the loader put it where it can't be: {error}", module.base_name())
            }
        }
    }
    log::info!("{} MiB of memory", total >> 20);
    regions
}

/// Maps configuration space.
pub fn config_space(firmware: &Firmware) -> Ecam {
    for region in &firmware.ecam {
        let mapped = region.extent().map(|(start, bytes)| host_map::map_device(start, bytes));
        if let Some(Err(error)) = mapped {
            log::error!("PCI configuration space can't be mapped: {error}");
        }
    }
    // SAFETY: firmware's MCFG table says that configuration space is there; it was just mapped one to one, uncached.
    unsafe { Ecam::new(&firmware.ecam) }
}

/// The modules, mapped.
struct Modules(Vec<(&'static str, &'static [u8])>);

impl Modules {
    fn map(cold: &ColdBoot) -> Self {
        let regions = host::get().regions.lock();
        let mut modules = Vec::new();
        for (index, module) in cold.modules.as_slice().iter().enumerate() {
            let (start, bytes) = modules::pages(module);
            if regions.owner(start) != Some(Owner::Module(index as u8)) {
                continue;
            }
            if host_map::map_memory(HostPhys(start), bytes, Permissions::READ).is_err() {
                log::error!("module {} can't be mapped", module.base_name());
                continue;
            }
            // SAFETY: the pages were claimed for this module and mapped; nobody writes to them before they are released,
            // which is after the last use of this list.
            let bytes =
                unsafe { core::slice::from_raw_parts(module.start as usize as *const u8, module.bytes as usize) };
            modules.push((&*alloc::boxed::Box::leak(module.base_name().into()), bytes));
        }
        Self(modules)
    }

    fn get(&self, name: &str) -> Option<&'static [u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes)
    }
}

/// Everything that `baton.toml` asks for.
fn guests(cold: &ColdBoot, firmware: &Firmware, apic_id: u32) {
    let modules = Modules::map(cold);
    let Some(config) = read_config(&modules) else { return };
    inventory::enumerate(true);
    inventory::silence_all();
    inventory::measure();
    inventory::set_dmar(firmware.dmar.clone());
    quarantine::set_limit(config.iommu.fault_limit);
    iommu(&config, firmware, apic_id);
    // Behind the units: some functions have to be talked to by DMA before they have virtual ones.
    sriov::make(&config.sriov);
    #[cfg(feature = "bench")]
    crate::bench::run();
    trust::init(&config.upgrade, &|name| modules.get(name));
    manage::init(&config);
    match machine_cpus::detect() {
        Ok(extension) => log::info!("guests run by {extension}"),
        Err(error) => {
            log::error!("no guest can run: {error}");
            return;
        }
    }
    for (id, guest) in config.guests.iter().enumerate() {
        match vm::build::start(guest, id as u16 + 1, &|name| modules.get(name)) {
            Ok(vm) => {
                log::info!("guest {} starts: {} MiB, {} vCPU", vm.name, vm.ram.bytes() >> 20, vm.vcpus.len());
                vm::register(vm);
            }
            Err(error) => {
                log::error!("guest {} can't start: {error}", guest.name);
                vm::refused(guest, error);
            }
        }
    }
    for (index, module) in (0..).zip(cold.modules.as_slice()) {
        if config.upgrade.images.iter().any(|name| name == module.base_name()) {
            crate::modules::keep(index, *module);
        } else {
            host::get().regions.lock().release(Owner::Module(index));
        }
    }
}

fn read_config(modules: &Modules) -> Option<Config> {
    let Some(text) = modules.get("baton.toml") else {
        log::error!(
            "there is no baton.toml among the boot modules: add one to the boot script (module .../baton.toml)"
        );
        return None;
    };
    match config::parse_bytes(text) {
        Ok((mut config, warnings)) => {
            let placed = config.place(pcpu::count() as u32);
            for warning in warnings.iter().chain(&placed) {
                log::warn!("{warning}");
            }
            Some(config)
        }
        Err(error) => {
            log::error!("{error}");
            None
        }
    }
}

fn iommu(config: &Config, firmware: &Firmware, apic_id: u32) {
    let mode = match config.iommu.mode {
        config::IommuMode::Auto => Preference::Auto,
        config::IommuMode::Legacy => Preference::Legacy,
        config::IommuMode::Scalable => Preference::Scalable,
        config::IommuMode::None => {
            log::info!("iommu.mode is none: no device can be given to a guest");
            return;
        }
    };
    if !apic_registers::is_x2apic() {
        log::warn!(
            "this CPU has no x2APIC (enable it in the firmware), so the IOMMU is not used; guests with devices are refused"
        );
        return;
    }
    if firmware.units.is_empty() {
        log::warn!("the firmware describes no IOMMU (no DMAR table): enable VT-d; guests with devices are refused");
        return;
    }
    let routes = crate::passthrough::routes::from_dmar(firmware);
    match units::init_cold(&firmware.units, routes, apic_id, mode) {
        Ok(()) => log::info!("{} IOMMU unit(s): every device is blocked until it is given away", firmware.units.len()),
        Err(error) => log::error!("the IOMMU can't be used, guests with devices are refused: {error}"),
    }
}
