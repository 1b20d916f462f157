//! WARM, the new image's side: in the old image's sandbox it makes everything it will need, from the records of the dry run, and ends with a
//! hypercall. It writes only to its slot and its scratch (nested paging sees to it), and touches no CPU state but its own.
#![expect(unsafe_code, reason = "memory is taken over from another image; the sandbox is left")]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use handover::graph;
use handover::jump::{JumpBlock, WARM_READY, WARM_REFUSED};
use handover::reader::{Prefix, Stream};
use handover::{State, state::machine::FrameTag};
use hermit_sync::SpinMutex;
use iommu::state::Snapshot;
use machine::addr::HostPhys;
use machine::paging::Permissions;

use super::block::Block;
use super::convert::machine::MachineState;
use super::convert::management::ManagementState;
#[cfg(feature = "fault")]
use super::fault;
use super::restore::Restored;
use super::{convert, jump, last_words, report, restore, trust};
use crate::boot_info::BootInfo;
use crate::mem::layout::ARENA_BYTES;
use crate::mem::regions::{Owner, RegionMap};
use crate::mem::{frames, heap, host_map};
use crate::passthrough::units;
use crate::smp::start::STACK_BYTES;
use crate::smp::{apic_registers, pcpu};
use crate::{console, cpu, firmware, host, machine_cpus, modules, sched, start, time, vm};

/// Everything that is ready for SWITCH.
pub struct Ready {
    /// The jump block.
    pub block: Block,
    /// What was read of the stream; the rest is read again.
    pub prefix: Prefix,
    /// The records.
    pub state: State,
    /// What they say of the IOMMU units.
    pub units: Snapshot,
    /// Where the stream is, host physical, and its bytes.
    pub region: (u64, usize),
    /// pCPUs.
    pub pcpus: u32,
    /// How Baton is reached.
    pub management: Option<ManagementState>,
    /// The guests.
    pub guests: Vec<Restored>,
}

static READY: SpinMutex<Option<Box<Ready>>> = SpinMutex::new(None);
static INSIDE: AtomicBool = AtomicBool::new(false);

/// Takes what is ready, once; from here on this image is out of the sandbox.
pub fn take() -> Option<Box<Ready>> {
    INSIDE.store(false, Ordering::Release);
    READY.lock().take()
}

/// Whether this image is in the sandbox.
pub fn is_inside() -> bool {
    INSIDE.load(Ordering::Acquire)
}

/// Leaves the sandbox with a refusal, if this image is in it.
pub fn refuse_inside() {
    if is_inside() {
        // SAFETY: in the sandbox.
        unsafe { jump::warm_call(WARM_REFUSED, 0) }
    }
}

/// From the entry of the staged image to the hypercall.
pub fn ready(boot: &BootInfo, at: HostPhys) -> ! {
    INSIDE.store(true, Ordering::Release);
    // SAFETY: the first thing this image does; the image before mapped this slot writable.
    unsafe { heap::init(&boot.image) };
    console::init(false);
    console::set_quiet(true);
    // SAFETY: the contract of the jump: the scratch, in which the block lies, is mapped.
    let (block, jump) = match unsafe { Block::find(at.get()) } {
        Ok(found) => found,
        // There is no block to write a reason to.
        Err(_) => {
            // SAFETY: in the sandbox.
            unsafe { jump::warm_call(WARM_REFUSED, 0) }
        }
    };
    last_words::begin(block);
    log::info!("{} in the sandbox", boot.build_name);
    #[cfg(feature = "fault")]
    {
        fault::plant(boot.fault);
        fault::at(fault::Place::Sandbox);
    }
    match prepare(boot, block, &jump) {
        Ok(ready) => {
            *READY.lock() = Some(Box::new(ready));
            log::info!("ready");
            // SAFETY: in the sandbox; all that is ready lies in statics and on the heap, this stack begins anew.
            unsafe { jump::warm_call(WARM_READY, jump::continue_entry()) }
        }
        Err(reason) => {
            block.set_reason(&reason);
            // SAFETY: in the sandbox.
            unsafe { jump::warm_call(WARM_REFUSED, 0) }
        }
    }
}

fn prepare(boot: &BootInfo, block: Block, jump: &JumpBlock) -> Result<Ready, String> {
    let base = jump.region_base;
    let bytes = usize::try_from(jump.region_bytes).map_err(|_| "the handover region is too long")?;
    // SAFETY: the contract of the jump: the arena, in which the region lies, is mapped; the image before writes the rest again
    // only when this one stands still.
    let region = unsafe { core::slice::from_raw_parts(base as usize as *const u8, bytes) };
    let stream = Stream::open(region, base).map_err(|error| error.to_string())?;
    let mut state = State::decode(&stream).map_err(|error| error.to_string())?;
    graph::validate(&state).map_err(|error| error.to_string())?;
    lie(&mut state);
    let records = stream.records().count();
    let vcpus: u32 = state.guests.iter().map(|guest| guest.vcpu_count).sum();
    log::info!("{records} records, {} guests, {vcpus} vCPUs", state.guests.len());

    let machine = convert::machine::load(&state).map_err(|error| error.to_string())?;
    time::set_rates(machine.rates);
    time::set_epoch_ns(machine.epoch_ns);
    host::set_ticks_to_guest(machine.ticks_to_guest);
    convert::report::load(&state).map_err(|error| error.to_string())?;
    let arena = convert::machine::load_arena(&state).map_err(|error| error.to_string())?;
    if arena.bytes != ARENA_BYTES || arena.frame_table != arena.base {
        return Err(format!("the arena has {:#x} bytes, this release wants {ARENA_BYTES:#x}", arena.bytes));
    }
    map_machine(boot, jump, arena.base)?;
    if machine.x2apic != apic_registers::is_x2apic() {
        return Err("this CPU's local APIC is not in the mode that the records say".into());
    }
    let regions = convert::machine::load_regions(&state).map_err(|error| error.to_string())?;
    let regions = RegionMap::from_saved(regions.into_iter()).map_err(|error| error.to_string())?;
    modules::restore(convert::machine::load_modules(&state).map_err(|error| error.to_string())?);
    let firmware = firmware::read(HostPhys(machine.rsdp))?;
    set_host(boot, jump, &machine, arena.base, regions, &firmware)?;
    // SAFETY: the arena of the image before this one, mapped; until COMMIT it is only read.
    unsafe { frames::adopt(HostPhys(arena.base)) };
    make_pcpus(jump, &machine)?;
    restore::bridges(&state)?;
    let units = if is_unit_left() { Snapshot::default() } else { restore::units(&state, &firmware)? };
    machine_cpus::detect()?;
    machine_cpus::prepare(machine.pcpus.len())?;
    let mut guests = restore::guests(&state)?;
    for guest in &mut guests {
        guest.continue_from(&state, false)?;
    }
    lie_of_guests(&mut guests);
    vm::reserve(guests.len());
    for (target, _) in guests.iter().flat_map(|guest| &guest.vcpus) {
        sched::reserve(*target, 1);
    }
    account(&state, &guests)?;
    let unowned = unowned(&state, &guests);
    if unowned != 0 {
        log::warn!("{unowned} frames of the arena belong to nobody; they will be kept");
    }
    report::adopt_stopped(convert::report::load_stopped(&state).map_err(|error| error.to_string())?);
    trust::restore(convert::trust::load(&state).map_err(|error| error.to_string())?);
    let management = convert::management::load(&state).map_err(|error| error.to_string())?;
    let (prefix, pcpus) = (stream.prefix(), machine.pcpus.len() as u32);
    Ok(Ready { block, prefix, state, units, region: (base, bytes), pcpus, management, guests })
}

#[cfg(feature = "fault")]
fn lie(state: &mut State) {
    fault::lie(state, fault::Place::Sandbox);
}

#[cfg(feature = "fault")]
fn lie_of_guests(guests: &mut Vec<Restored>) {
    fault::lie_of_guests(guests, fault::Place::Sandbox);
}

#[cfg(feature = "fault")]
fn is_unit_left() -> bool {
    fault::lies(fault::Lie::UnitLeft, fault::Place::Sandbox)
}

/// Nothing is planted in an image that is not built for it.
#[cfg(not(feature = "fault"))]
const fn lie(_: &mut State) {}
#[cfg(not(feature = "fault"))]
const fn lie_of_guests(_: &mut Vec<Restored>) {}
#[cfg(not(feature = "fault"))]
const fn is_unit_left() -> bool {
    false
}

/// This image's own tables: its slot, the arena (read only until COMMIT), the scratch, and the old image's slot, whose
/// exception handlers are in force after SWITCH and lead back.
fn map_machine(boot: &BootInfo, jump: &JumpBlock, arena: u64) -> Result<(), String> {
    host_map::build(&boot.image).map_err(|error| error.to_string())?;
    for (base, bytes, rights) in [
        (arena, ARENA_BYTES, Permissions::READ),
        (jump.scratch_base, jump.scratch_bytes, Permissions::READ_WRITE),
        (jump.old_slot_base, jump.old_slot_bytes, Permissions::READ_EXECUTE),
    ] {
        host_map::map_memory(HostPhys(base), bytes, rights).map_err(|error| error.to_string())?;
    }
    host_map::prepare_writable(arena, ARENA_BYTES)?;
    // SAFETY: all that is in use is mapped: this slot, the block, the records, the old image's handlers.
    unsafe { host_map::activate() };
    apic_registers::find().map_err(|error| error.to_string())
}

fn set_host(
    boot: &BootInfo,
    jump: &JumpBlock,
    machine: &MachineState,
    arena: u64,
    regions: RegionMap,
    firmware: &firmware::Firmware,
) -> Result<(), String> {
    let slot = match regions.owner(boot.image.base) {
        Some(Owner::Slot(slot @ (0 | 1))) => slot,
        other => return Err(format!("this image's slot belongs to {other:?} in the records")),
    };
    let mut slots = [jump.old_slot_base; 2];
    slots[usize::from(slot)] = boot.image.base;
    host::set(host::Host {
        image: boot.image,
        note: start::note(boot),
        build_name: boot.build_name,
        generation: machine.generation,
        via: machine.via.clone(),
        boot_nonce: machine.boot_nonce,
        slot,
        slots,
        scratch: jump.scratch_base,
        arena,
        rsdp: machine.rsdp,
        ecam: Arc::new(start::config_space(firmware)),
        regions: SpinMutex::new(regions),
        entered: cpu::tsc(),
    });
    Ok(())
}

/// Descriptor tables and stacks of every pCPU.
fn make_pcpus(jump: &JumpBlock, machine: &MachineState) -> Result<(), String> {
    let count = machine.pcpus.len() as u32;
    if jump.pcpu_count != count {
        return Err(format!("the jump block has {} pCPUs, the records {count}", jump.pcpu_count));
    }
    let mut stacks: Vec<u64> = Vec::new();
    for (index, pcpu) in (0u32..).zip(&machine.pcpus) {
        pcpu::prepare(index, pcpu.apic_id);
        // pCPU 0 has the boot stack.
        let stack = if index == 0 { &mut [][..] } else { alloc::vec![0u8; STACK_BYTES].leak() };
        stacks.push((stack.as_ptr() as u64 + stack.len() as u64) & !15);
    }
    jump::expect_followers(host_map::root(), stacks.leak().as_ptr() as u64);
    Ok(())
}

/// Everything that is recorded is there: units, guests with their memory and virtual CPUs, and the owner of every frame of the arena.
///
/// # Errors
/// What is missing.
pub fn account(state: &State, guests: &[Restored]) -> Result<(), String> {
    let all = |what: &str, recorded: usize, found: usize| {
        if recorded == found { Ok(()) } else { Err(format!("{found} of {recorded} {what} were restored")) }
    };
    let unit_count = units::with(|units, _| units.units()).unwrap_or(0);
    all("IOMMU units", state.units.len(), unit_count)?;
    all("guests", state.guests.len(), guests.len())?;
    let vcpus = state.vcpus.len() + state.vcpu_places.len();
    all("vCPUs", vcpus, guests.iter().map(|guest| guest.vcpus.len()).sum())?;
    all("memory extents", state.extents.len(), guests.iter().map(|guest| guest.vm.ram.extents.len()).sum())
}

/// Frames of the arena that belong to nobody this image knows, but for the stream's, and those that go with guests that leave.
fn unowned(state: &State, guests: &[Restored]) -> usize {
    let known = |tag: FrameTag| {
        tag == units::TAG
            || tag.kind() == FrameTag::STREAM
            || state.stopped.iter().any(|one| tag == FrameTag::new(FrameTag::SPACE_TABLE, one.number as u16))
            || guests.iter().any(|guest| tag == FrameTag::new(FrameTag::SPACE_TABLE, guest.vm.id))
    };
    frames::with(|arena| arena.unclaimed().filter(|(_, tag)| !known(*tag)).count()).unwrap_or(0)
}
