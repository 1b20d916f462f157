//! Who is not preserved, and how it leaves: guests with `on_upgrade = "stop"` and their devices, and Baton's own card (`manage::nic`).
//!
//! The plan names the requester ids of all of them, so the new image knows in its sandbox whose entries it meets there and does
//! not find at the end. They are stopped when it is ready, as the last thing before FREEZE: an upgrade that is refused or cancelled
//! before has stopped nobody.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use handover::record::Record;
use handover::state::device::LeavingV1;
use handover::state::report::StoppedV1;
use iommu::state::{LeavingState, Snapshot};

use super::{convert, report};
use crate::config::OnUpgrade;
use crate::passthrough::{release, units};
use crate::vm::{self, Vm, VmState};
use crate::{cpu, time};

/// How long the virtual CPUs of a guest may take to leave it, in milliseconds.
const LEAVE_MS: u64 = 1_000;

/// Whether a stream of this format says who leaves. In one that does not, nobody may be left when the new image looks: they
/// leave before WARM.
#[must_use]
pub fn is_said_in(format: u16) -> bool {
    LeavingV1::LAYOUTS.first().is_some_and(|layout| format >= layout.format)
}

/// All guests: those that are preserved, and those that leave.
#[must_use]
pub fn split() -> (Vec<Arc<Vm>>, Vec<Arc<Vm>>) {
    vm::all().into_iter().partition(|vm| vm.on_upgrade == OnUpgrade::Preserve)
}

/// Every id under which a device of none of these domains may make requests.
pub(super) fn requesters(taken: &Snapshot, preserved: &BTreeSet<u64>) -> Vec<LeavingState> {
    let leaving = || taken.devices.iter().filter(|device| !preserved.contains(&device.token));
    let own = leaving().map(|device| (device.segment, device.source));
    let of = |segment, source| leaving().any(|device| (device.segment, device.source) == (segment, source));
    let aliases = taken.aliases.iter().filter(|alias| of(alias.segment, alias.source));
    let all = own.chain(aliases.map(|alias| (alias.segment, alias.alias)));
    all.map(|(segment, source)| LeavingState { segment, source }).collect()
}

/// What the plan says of the guests that upgrade `sequence` will stop.
pub(super) fn records(sequence: u64, leaving: &[Arc<Vm>]) -> Vec<StoppedV1> {
    let running = leaving.iter().filter(|vm| vm.state() == VmState::Running);
    running.filter_map(|vm| convert::report::stopped(sequence, vm.id, &vm.name)).collect()
}

/// Stops these guests one after the other: their virtual CPUs leave for good, their devices are quiet, blocked under every id and
/// reset; then every unit forgets what it has cached (HANDOVER.md, behaviour 9). On pCPU 0.
///
/// # Errors
/// A guest can't be stopped, or a unit does not obey. Those that were stopped stay so.
pub fn stop(sequence: u64, leaving: &[Arc<Vm>]) -> Result<(), String> {
    if leaving.is_empty() {
        return Ok(());
    }
    for vm in leaving {
        stop_one(sequence, vm).map_err(|error| format!("guest {} does not stop: {error}", vm.name))?;
    }
    if let Some(Err(error)) = units::with(|units, platform| units.forget_all(platform)) {
        return Err(error.to_string());
    }
    // What their devices sent last is nobody's, and would wait through the pause.
    cpu::take_interrupts();
    Ok(())
}

fn stop_one(sequence: u64, vm: &Arc<Vm>) -> Result<(), String> {
    if vm.state() == VmState::Running {
        report::add_stopped(records(sequence, core::slice::from_ref(vm)));
        vm.stop(format!("upgrade {sequence} does not preserve it (on_upgrade = \"stop\")"));
    }
    vm.kick();
    if !cpu::spin_until(time::ms_to_ticks(LEAVE_MS), || !vm.is_entered()) {
        return Err(format!("its virtual CPUs are still in it after {LEAVE_MS} ms"));
    }
    release::take(vm)?;
    vm.space.lock().destroy();
    Ok(())
}
