//! FREEZE, SWITCH, and what happens when the new image gives up.
#![expect(unsafe_code, reason = "control leaves this image")]

use alloc::format;
use alloc::string::{String, ToString};

use handover::jump::{self as contract, JumpBlock};
use handover::phase::{Outcome, Phase};
use handover::state::report::{BLAME_NEW_IMAGE, BLAME_OLD_IMAGE, ReportV1};
use handover::state::text;
use machine::paging::Permissions;
use zerocopy::FromZeros;

use super::block::Block;
use super::plan::Planned;
use super::{freeze, jump, last_words, report, rescue, watchdog};
use crate::mem::layout::{SCRATCH_BYTES, SLOT_BYTES};
use crate::mem::{guard, host_map};
use crate::passthrough::units;
use crate::sched::Core;
use crate::smp::pcpu;
use crate::{console, cpu, host, manage, time};

/// How long the other pCPUs may take to stop, in milliseconds.
const PARK_MS: u64 = 1_000;

/// Freezes and jumps. Returns only when this image has taken over again: the guests run on, and the report,
/// which is kept, says why. Who leaves has left: the management NIC is stopped and detached before, and is the caller's to start again.
pub fn execute(core: &mut Core, mut planned: Planned, entry: u64) -> ReportV1 {
    log::info!("upgrade {}: freezing for {}", planned.report.sequence, report::version(&planned.staged.note));
    console::set_quiet(true);
    // The pause has no time for page tables: the slot is executable, and no longer written by this image, from here on.
    let slot = host_map::protect(planned.staged.base.get(), SLOT_BYTES, Permissions::READ_EXECUTE);
    if let Err(error) = slot {
        return roll_back(planned, Phase::Warm, &format!("the new slot can't be made executable: {error}"));
    }
    report::enter(&mut planned.report, Phase::Freeze);
    guard::begin();
    let stopped = freeze::all_others(time::ms_to_ticks(PARK_MS));
    let outcome = if stopped {
        attempt(core, &mut planned, entry)
    } else {
        Err((Phase::Freeze, String::from("a pCPU did not stop in time")))
    };
    report::enter(&mut planned.report, Phase::Rollback);
    rescue::rolling_back(true);
    if let Some(block) = Block::current() {
        for index in 1..pcpu::count() as u32 {
            block.call(index, 0);
        }
    }
    freeze::thaw();
    if !freeze::all_back(time::ms_to_ticks(PARK_MS)) {
        panic!("rollback: a pCPU did not come back; the records are at {}", planned.region.base());
    }
    guard::go_on();
    #[cfg(feature = "fault")]
    super::fault::at(super::fault::Place::Rollback);
    planned.report.pause_allocations = guard::taken_in_pause();
    let (phase, reason) = match outcome {
        Err(failed) => failed,
        Ok(()) => (Phase::Verify, block_reason()),
    };
    roll_back(planned, phase, &reason)
}

/// Every pCPU is here again: everything is as before PLAN.
fn roll_back(mut planned: Planned, phase: Phase, reason: &str) -> ReportV1 {
    let slot = host_map::protect(planned.staged.base.get(), SLOT_BYTES, Permissions::READ_WRITE);
    if let Some(block) = Block::current() {
        report::set_notes(planned.report.sequence, last_words::read(block));
    }
    Block::forget();
    planned.undo();
    rescue::rolling_back(false);
    console::set_quiet(false);
    if let Err(error) = slot {
        log::error!("the free slot can't be made data again: {error}");
    }
    let blame = if phase == Phase::Verify { BLAME_NEW_IMAGE } else { BLAME_OLD_IMAGE };
    let report = report::end(planned.report, Outcome::RolledBack, Some(phase), blame, reason);
    log::warn!("upgrade {}: rolled back: {reason}", report.sequence);
    report
}

/// Why the new image gave up, by its own word or by that of the handlers.
pub fn block_reason() -> String {
    let reason = Block::current().map(|block| block.reason()).unwrap_or([0; contract::REASON_BYTES]);
    match text(&reason) {
        Some("") | None => String::from("the new image gave up without a reason"),
        Some(reason) => reason.to_string(),
    }
}

/// Writes the rest and jumps. `Ok` when the new image came back.
fn attempt(core: &mut Core, planned: &mut Planned, entry: u64) -> Result<(), (Phase, String)> {
    let failed = |reason: String| (Phase::Freeze, reason);
    freeze::snapshot(core);
    planned.report.interrupts_pending = freeze::pending_interrupts();
    if let Some(Err(error)) = units::with(|units, platform| units.drain(platform)) {
        return Err(failed(format!("an invalidation queue did not drain: {error}")));
    }
    planned.report.faults = units::fault_count();
    report::enter(&mut planned.report, Phase::Switch);
    planned.freeze().map_err(failed)?;
    let host = host::get();
    let deadline_ms = manage::deadline_ms().into();
    let deadline = cpu::tsc() + time::ms_to_ticks(deadline_ms);
    let placed = place_block(planned, deadline);
    for pcpu in pcpu::each() {
        pcpu.prepare_rescue(host.scratch, placed, deadline);
    }
    watchdog::arm(deadline_ms);
    freeze::watch(deadline);
    #[cfg(feature = "fault")]
    super::fault::watched("SWITCH");
    // SAFETY: interrupts are off; the image was verified at STAGE and lies in the slot that was just made executable; all
    // other pCPUs are parked; the rescue tables are prepared; below, this pCPU is taken over again.
    unsafe { placed.leave(pcpu::this(), entry) };
    freeze::watch(u64::MAX);
    pcpu::this().reclaim();
    watchdog::disarm();
    Ok(())
}

/// Writes the jump block into the scratch and makes it the current one.
pub fn place_block(planned: &Planned, deadline: u64) -> Block {
    let host = host::get();
    let mut block = JumpBlock::new_zeroed();
    block.magic = contract::MAGIC;
    block.version = contract::VERSION;
    block.region_base = planned.region.base().get();
    block.region_bytes = planned.region.bytes();
    block.deadline_tsc = deadline;
    block.old_slot_base = host.image.base;
    block.old_slot_bytes = SLOT_BYTES;
    block.new_slot_base = planned.staged.base.get();
    block.new_slot_bytes = SLOT_BYTES;
    block.scratch_base = host.scratch;
    block.scratch_bytes = SCRATCH_BYTES;
    block.pcpu_count = pcpu::count() as u32;
    for pcpu in pcpu::each() {
        if let Some(place) = block.pcpus.get_mut(pcpu.index as usize) {
            place.apic_id = pcpu.apic_id;
            place.rollback_rip = jump::resume();
        }
    }
    // SAFETY: the scratch region belongs to no image but for the time of an upgrade, and is mapped.
    unsafe { Block::place(host.scratch, &block) }
}
