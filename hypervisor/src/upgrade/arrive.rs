//! The new image's first steps. Until COMMIT it writes only to its slot and its scratch, keeps the old
//! image's descriptor tables, and can give up at any point; then it is as if it had never run.
#![expect(unsafe_code, reason = "memory and devices are taken over from another image")]

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use handover::State;
use handover::graph;
use handover::jump::{CPU_ARRIVED, CPU_REFUSES, CPU_VERIFIED, JumpBlock};
use handover::phase::Phase;
use handover::reader::Stream;
use handover::state::Skipped;
use handover::state::report::ReportV1;
use hermit_sync::SpinMutex;
use machine::addr::HostPhys;
use machine::paging::Permissions;

use super::block::Block;
use super::convert::machine::MachineState;
use super::convert::management::ManagementState;
#[cfg(feature = "fault")]
use super::fault;
use super::{convert, jump, last_words, report, restore, retire, trust};
use crate::boot_info::BootInfo;
use crate::mem::layout::ARENA_BYTES;
use crate::mem::regions::{Owner, RegionMap};
use crate::mem::{frames, heap, host_map};
use crate::smp::pcpu;
use crate::smp::start::STACK_BYTES;
use crate::trap::devices;
use crate::vm::runner::Runner;
use crate::{console, cpu, firmware, host, machine_cpus, sched, start, time, vm};

/// What is ready when VERIFY is done.
struct Arrival {
    block: Block,
    jump: JumpBlock,
    report: ReportV1,
    reports: Vec<ReportV1>,
    totals: convert::management::Totals,
    management: Option<ManagementState>,
    skipped: Vec<Skipped>,
    runners: Vec<(u32, Runner)>,
}

/// From the jump to the loop of pCPU 0, or back to where it came from.
pub fn arrive(boot: &BootInfo, at: HostPhys) -> ! {
    let entered = cpu::tsc();
    // SAFETY: the first thing this image does; the old image mapped this slot writable.
    unsafe { heap::init(&boot.image) };
    console::init(false);
    console::set_quiet(true);
    // SAFETY: the contract of the jump: the scratch, in which the block lies, is mapped.
    let (block, jump) = match unsafe { Block::find(at.get()) } {
        Ok(found) => found,
        Err(error) => {
            // Without a block, the old image's exception handlers are the way back.
            panic!("{error}");
        }
    };
    last_words::begin(block);
    #[cfg(feature = "fault")]
    fault::plant(boot.fault);
    block.set_state(0, CPU_ARRIVED);
    #[cfg(feature = "fault")]
    fault::at(fault::Place::First);
    match verify(boot, block, jump, entered) {
        Ok(arrival) => take_over(arrival),
        Err(reason) => give_up(block, 0, &reason),
    }
}

/// Goes back to the image before this one, with the reason. Others that have come along see that this one was abandoned.
fn give_up(block: Block, index: u32, reason: &str) -> ! {
    if !block.has_reason() {
        block.set_reason(reason);
    }
    if !block.abandon() {
        panic!("{reason}");
    }
    block.set_state(index, CPU_REFUSES);
    // SAFETY: before COMMIT, and nothing of the old image's was changed (the rule of this file).
    unsafe { block.give_back(index) }
}

/// A panic before COMMIT: back to the image before this one, if this pCPU came from there.
pub fn panicked(message: core::fmt::Arguments<'_>) {
    let Some(block) = Block::current() else { return };
    let Some(index) = block.index_of(crate::smp::lapic::id()) else { return };
    if !matches!(block.state(index), CPU_ARRIVED | CPU_VERIFIED) || block.committed() {
        return;
    }
    // Before the decision: after it others fetch this pCPU back, whether it has said why or not.
    if !block.has_reason() {
        block.set_reason_from(message);
    }
    if block.abandon() {
        block.set_state(index, CPU_REFUSES);
        // SAFETY: before COMMIT.
        unsafe { block.give_back(index) }
    }
}

fn verify(boot: &BootInfo, block: Block, jump: JumpBlock, entered: u64) -> Result<Arrival, String> {
    let base = jump.region_base;
    let bytes = usize::try_from(jump.region_bytes).map_err(|_| "the handover region is too long")?;
    // SAFETY: the contract of the jump: the arena, in which the region lies, is mapped; the old image has stopped.
    let region = unsafe { core::slice::from_raw_parts(base as usize as *const u8, bytes) };
    let stream = Stream::open(region, base).map_err(|error| error.to_string())?;
    let state = State::decode(&stream).map_err(|error| error.to_string())?;
    graph::validate(&state).map_err(|error| error.to_string())?;

    let machine = convert::machine::load(&state).map_err(|error| error.to_string())?;
    time::set_rates(machine.rates);
    time::set_epoch_ns(machine.epoch_ns);
    host::set_ticks_to_guest(machine.ticks_to_guest);
    let mut reports = convert::report::load(&state).map_err(|error| error.to_string())?;
    let mut own =
        reports.pop().filter(|report| report.outcome == 0).ok_or("the records lack the report of this upgrade")?;
    if let Some(place) = own.phase_tsc.get_mut(Phase::Verify.index()) {
        *place = entered;
    }

    let arena = convert::machine::load_arena(&state).map_err(|error| error.to_string())?;
    if arena.bytes != ARENA_BYTES || arena.frame_table != arena.base {
        return Err(format!("the arena has {:#x} bytes, this release wants {ARENA_BYTES:#x}", arena.bytes));
    }
    map_machine(boot, &jump, arena.base)?;
    let regions = convert::machine::load_regions(&state).map_err(|error| error.to_string())?;
    let regions = RegionMap::from_saved(regions.into_iter()).map_err(|error| error.to_string())?;
    let firmware = firmware::read(HostPhys(machine.rsdp))?;
    set_host(boot, &jump, &machine, arena.base, regions, &firmware, entered)?;
    // SAFETY: the arena of the image before this one, mapped; that image stands still.
    unsafe { frames::adopt(HostPhys(arena.base)) };
    for index in 0..machine.pcpus.len() as u32 {
        devices::prepare(index);
    }
    restore::bridges(&state)?;
    restore::units(&state, &firmware)?;
    machine_cpus::detect()?;
    let runners = restore::guests(&state)?;
    verify_counts(&state, &runners)?;
    let totals = convert::management::load_totals(&state).map_err(|error| error.to_string())?;
    trust::restore(convert::trust::load(&state).map_err(|error| error.to_string())?);
    let management = convert::management::load(&state).map_err(|error| error.to_string())?;
    call_others(block, &jump, &machine)?;
    Ok(Arrival { block, jump, report: own, reports, totals, management, skipped: state.skipped, runners })
}

/// This image's own tables: its slot, the arena (read only until COMMIT), the scratch, and the old image's slot, whose
/// exception handlers are in force and lead back.
fn map_machine(boot: &BootInfo, jump: &JumpBlock, arena: u64) -> Result<(), String> {
    host_map::build(&boot.image).map_err(|error| error.to_string())?;
    for (base, bytes, rights) in [
        (arena, ARENA_BYTES, Permissions::READ),
        (jump.scratch_base, jump.scratch_bytes, Permissions::READ_WRITE),
        (jump.old_slot_base, jump.old_slot_bytes, Permissions::READ_EXECUTE),
    ] {
        host_map::map_memory(HostPhys(base), bytes, rights).map_err(|error| error.to_string())?;
    }
    // SAFETY: all that is in use is mapped: this slot, the block, the records, the old image's handlers.
    unsafe { host_map::activate() };
    Ok(())
}

fn set_host(
    boot: &BootInfo,
    jump: &JumpBlock,
    machine: &MachineState,
    arena: u64,
    regions: RegionMap,
    firmware: &firmware::Firmware,
    entered: u64,
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
        entered,
    });
    Ok(())
}

/// Every virtual CPU of the records is there.
fn verify_counts(state: &State, runners: &[(u32, Runner)]) -> Result<(), String> {
    let recorded = state.vcpus.len();
    if recorded != runners.len() {
        return Err(format!("{} of {recorded} vCPUs were restored", runners.len()));
    }
    Ok(())
}

/// Calls the other pCPUs over and waits until each has found everything as told.
fn call_others(block: Block, jump: &JumpBlock, machine: &MachineState) -> Result<(), String> {
    let count = machine.pcpus.len() as u32;
    if jump.pcpu_count != count {
        return Err(format!("the jump block has {} pCPUs, the records {count}", jump.pcpu_count));
    }
    if count > 1 {
        let mut stacks: Vec<u64> = Vec::new();
        for _ in 0..count {
            let stack = alloc::vec![0u8; STACK_BYTES].leak();
            stacks.push((stack.as_ptr() as u64 + STACK_BYTES as u64) & !15);
        }
        jump::expect_followers(host_map::root(), stacks.leak().as_ptr() as u64);
        for index in 1..count {
            block.call(index, jump::follow_entry());
        }
    }
    let verified = || (1..count).all(|index| block.state(index) == CPU_VERIFIED);
    // Somewhat before the old image's patience ends: this one can say which pCPU it was.
    let patience = jump.deadline_tsc.saturating_sub(cpu::tsc()) / 4 * 3;
    let decided = cpu::spin_until(patience, || verified() || block.abandoned());
    if block.abandoned() {
        return Err("another pCPU gave up".into());
    }
    if !decided {
        let missing = (1..count).find(|index| block.state(*index) != CPU_VERIFIED).unwrap_or(0);
        return Err(format!("pCPU {missing} did not come over in time"));
    }
    Ok(())
}

/// COMMIT, RUN; RETIRE follows when the guests run.
fn take_over(arrival: Arrival) -> ! {
    let Arrival { block, jump, report: mut own, reports, totals, management, skipped, runners } = arrival;
    report::enter(&mut own, Phase::Commit);
    #[cfg(feature = "fault")]
    fault::at(fault::Place::Commit);
    if !block.commit() {
        give_up(block, 0, "the old image gave this one up");
    }
    last_words::end();
    report::enter(&mut own, Phase::Run);
    // The arena is this image's now.
    if let Err(error) = host_map::protect(host::get().arena, ARENA_BYTES, Permissions::READ_WRITE) {
        panic!("the arena can't be made writable: {error}");
    }
    let pcpu = pcpu::enlist(0);
    retire::note_pending();
    for (target, runner) in runners {
        sched::assign(target, runner);
    }
    for vm in restore::take_restored() {
        vm::register(vm);
    }
    report::adopt(reports);
    report::adopt_outcomes(totals.outcomes);
    retire::later(retire::Leftover {
        report: own,
        pcpus: jump.pcpu_count,
        region: jump.region_base,
        region_bytes: jump.region_bytes,
        faults: totals.faults,
        management,
        skipped,
    });
    sched::run(pcpu)
}
