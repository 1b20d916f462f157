//! The new image after SWITCH: out of the sandbox, with everything ready. It reads the rest of the records, compares what it finds
//! with what it is told, and takes over. Until COMMIT it writes only to its slot and its scratch, keeps the old
//! image's descriptor tables, and can give up at any point; then it is as if it had never run.
#![expect(unsafe_code, reason = "memory and CPUs are taken over from another image")]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};

use handover::graph;
use handover::jump::{CPU_ARRIVED, CPU_REFUSES, CPU_VERIFIED};
use handover::phase::Phase;
use handover::state::report::ReportV1;

use super::block::Block;
#[cfg(feature = "fault")]
use super::fault;
use super::ready::{self, Ready};
use super::{convert, jump, last_words, report, restore, retire};
use crate::mem::{guard, host_map};
use crate::smp::pcpu;
use crate::{cpu, sched, vm};

/// What the last records say of the upgrade itself.
struct Reports {
    own: ReportV1,
    totals: convert::management::Totals,
}

/// pCPU 0, on its page tables and stack, to its loop, or back to where it came from.
pub fn arrive() -> ! {
    let entered = cpu::tsc();
    guard::begin();
    host_map::adopt_control_registers();
    // Without what is ready there is no block either: the old image's handlers are the way back.
    let Some(mut ready) = ready::take() else { panic!("entered before WARM was done") };
    let block = ready.block;
    block.set_state(0, CPU_ARRIVED);
    #[cfg(feature = "fault")]
    fault::at(fault::Place::First);
    match verify(&mut ready, entered) {
        Ok(reports) => take_over(ready, reports),
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
    if ready::is_inside() {
        block.set_reason_from(message);
        ready::refuse_inside();
    }
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

fn verify(ready: &mut Ready, entered: u64) -> Result<Reports, String> {
    let block = ready.block;
    // The others do their part meanwhile.
    for index in 1..ready.pcpus {
        block.call(index, jump::follow_entry());
    }
    let (base, bytes) = ready.region;
    // SAFETY: the arena, in which the region lies, is mapped; the old image stands still.
    let region = unsafe { core::slice::from_raw_parts(base as usize as *const u8, bytes) };
    let stream = ready.prefix.reopen(region, base).map_err(|error| error.to_string())?;
    let state = &mut ready.state;
    state.refresh(&stream).map_err(|error| error.to_string())?;
    #[cfg(feature = "fault")]
    fault::lie(state, fault::Place::First);
    // What is settled was judged and taken over in the sandbox.
    let settled = stream.is_unsettled();
    let judge = if settled { graph::validate_unsettled } else { graph::validate_rest };
    judge(state).map_err(|error| error.to_string())?;
    let mut own = convert::report::load_own(state).map_err(|error| error.to_string())?;
    if let Some(place) = own.phase_tsc.get_mut(Phase::Verify.index()) {
        *place = entered;
    }
    let totals = convert::management::load_totals(state).map_err(|error| error.to_string())?;
    restore::bridges(state)?;
    restore::finish_units(state, &mut ready.units, settled)?;
    for guest in &mut ready.guests {
        guest.continue_from(state, settled)?;
    }
    #[cfg(feature = "fault")]
    fault::lie_of_guests(&mut ready.guests, fault::Place::First);
    ready::account(state, &ready.guests)?;
    wait_for_others(block, ready.pcpus)?;
    Ok(Reports { own, totals })
}

/// Waits until each of the other pCPUs has found everything as told.
fn wait_for_others(block: Block, count: u32) -> Result<(), String> {
    let verified = || (1..count).all(|index| block.state(index) == CPU_VERIFIED);
    // Somewhat before the old image's patience ends: this one can say which pCPU it was.
    let patience = block.deadline().saturating_sub(cpu::tsc()) / 4 * 3;
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
fn take_over(ready: Box<Ready>, reports: Reports) -> ! {
    let block = ready.block;
    let Reports { mut own, totals } = reports;
    report::enter(&mut own, Phase::Commit);
    #[cfg(feature = "fault")]
    fault::at(fault::Place::Commit);
    if !block.commit() {
        give_up(block, 0, "the old image gave this one up");
    }
    report::enter(&mut own, Phase::Run);
    last_words::end();
    // The arena is this image's now.
    host_map::make_writable();
    let pcpu = pcpu::enlist(0);
    retire::note_pending();
    let Ready { state, mut guests, pcpus, region, management, .. } = *ready;
    guests.iter().for_each(|guest| vm::register(guest.vm.clone()));
    sched::assign(guests.iter_mut().flat_map(|guest| guest.vcpus.drain(..)));
    retire::later(retire::Leftover {
        report: own,
        state,
        guests,
        pcpus,
        region: region.0,
        region_bytes: region.1 as u64,
        totals,
        management,
    });
    sched::run(pcpu)
}
