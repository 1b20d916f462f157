//! Power-on, step by step.
#![expect(unsafe_code, reason = "the heap is given its memory")]

use alloc::vec::Vec;
use machine::addr::PAGE_SIZE_2M;

use crate::boot_info::{BootInfo, ColdBoot, MemoryRange};
use crate::mem::layout::{ARENA_BYTES, SLOT_BYTES};
use crate::mem::regions::{Owner, RegionMap};
use crate::mem::{heap, host_map};
use crate::smp::{lapic, pcpu};
use crate::time::calibrate;
use crate::{console, cpu, sched, time};

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
    log::info!("baton {} from {}", env!("CARGO_PKG_VERSION"), cold.loader.as_str());

    let mut regions = memory(boot, cold);
    if let Err(error) = host_map::init(&boot.image) {
        refuse(format_args!("no page tables: {error:?}"));
    }
    if !lapic::supported() {
        refuse(format_args!("this CPU has no x2APIC: enable it in the firmware"));
    }
    let own = pcpu::enlist(0);
    match calibrate::measure(power_on) {
        Ok(rates) => {
            time::set_rates(rates);
            log::info!("TSC {} kHz, LAPIC timer {} kHz", rates.tsc_khz, rates.lapic_khz);
        }
        Err(error) => refuse(format_args!("{error}")),
    }
    let arena = regions.allocate(ARENA_BYTES, PAGE_SIZE_2M, 1 << 32, Owner::Arena);
    let slot = regions.allocate(SLOT_BYTES, PAGE_SIZE_2M, 1 << 32, Owner::Slot(1));
    log::info!("arena {arena:?} slot {slot:?}");
    sched::ap_main(own)
}

fn memory(boot: &BootInfo, cold: &ColdBoot) -> RegionMap {
    let ranges = cold.memory.as_slice().iter().map(|range| (range.base, range.bytes, range.kind == MemoryRange::USABLE));
    let mut regions = RegionMap::from_firmware(ranges);
    let total = regions.bytes(|owner| owner == Owner::Free);
    let low: Vec<_> = regions.iter().filter(|region| region.owner == Owner::Free && region.base < 1 << 20).copied().collect();
    for region in low {
        let bytes = region.end().min(1 << 20) - region.base;
        if let Err(error) = regions.claim(region.base, bytes, Owner::Low) {
            refuse(format_args!("the firmware's memory map contradicts itself below 1 MiB: {error}"));
        }
    }
    if let Err(error) = regions.claim(boot.image.base, SLOT_BYTES, Owner::Slot(0)) {
        refuse(format_args!("the firmware says that the image's own memory at {:#x} is no RAM: {error}", boot.image.base));
    }
    for (index, module) in cold.modules.as_slice().iter().enumerate() {
        let start = module.start & !0xfff;
        let bytes = (module.start + module.bytes).next_multiple_of(4096) - start;
        match regions.claim(start, bytes, Owner::Module(index as u8)) {
            Ok(()) => log::info!("module {} with {} KiB at {start:#x}", module.base_name(), module.bytes >> 10),
            Err(error) => log::warn!("module {} is ignored, the loader put it where it can't be: {error}", module.base_name()),
        }
    }
    log::info!("{} MiB of memory", total >> 20);
    regions
}
