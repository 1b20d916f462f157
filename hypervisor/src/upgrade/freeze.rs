//! FREEZE: every pCPU takes its virtual CPUs out of their guests, leaves their state where
//! the boot CPU finds it, and waits: for the jump or for the way back.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::block;
use crate::cpu;
use crate::sched::Core;
use crate::smp::{lapic, pcpu};

const RUN: u32 = 0;
const PARK: u32 = 1;

static ORDER: AtomicU32 = AtomicU32::new(RUN);
static PARKED: AtomicU32 = AtomicU32::new(0);
static PENDING: AtomicU64 = AtomicU64::new(0);

/// Whether this pCPU shall park.
pub fn requested() -> bool {
    ORDER.load(Ordering::Acquire) == PARK && pcpu::this().index != 0
}

/// What a pCPU but the boot CPU does from FREEZE until the jump, or until it goes on here.
pub fn park(core: &mut Core) {
    snapshot(core);
    PENDING.fetch_add(lapic::pending_device_interrupts(), Ordering::AcqRel);
    let own = core.pcpu();
    PARKED.fetch_add(1, Ordering::AcqRel);
    while ORDER.load(Ordering::Acquire) == PARK {
        if block::jump_when_called(own.index) {
            own.reclaim();
        }
        core::hint::spin_loop();
    }
    PARKED.fetch_sub(1, Ordering::AcqRel);
}

/// Takes the state of the virtual CPUs that live here out of hardware.
pub fn snapshot(core: &mut Core) {
    core.unload();
    for runner in core.runners() {
        let snapshot = runner.snapshot();
        if let Some(shared) = runner.vm.vcpus.get(runner.index as usize) {
            *shared.snapshot.lock() = Some(snapshot);
        }
    }
}

/// Stops all other pCPUs; `false` when one of them did not come within `ticks`, and then all run on.
#[must_use]
pub fn all_others(ticks: u64) -> bool {
    let others: u32 = pcpu::all().iter().filter(|pcpu| pcpu.index != 0).count() as u32;
    PENDING.store(0, Ordering::Release);
    ORDER.store(PARK, Ordering::Release);
    for pcpu in pcpu::all() {
        pcpu::kick(pcpu.index);
    }
    let parked = cpu::spin_until(ticks, || PARKED.load(Ordering::Acquire) == others);
    if !parked {
        thaw();
    }
    parked
}

/// Lets the other pCPUs go on here.
pub fn thaw() {
    ORDER.store(RUN, Ordering::Release);
}

/// Device interrupts that were pending in LAPICs when the pCPUs stopped, this one's included.
pub fn pending_interrupts() -> u64 {
    PENDING.load(Ordering::Acquire) + lapic::pending_device_interrupts()
}

/// Waits until the other pCPUs have gone on here; `false` when one has not within `ticks`.
#[must_use]
pub fn all_back(ticks: u64) -> bool {
    cpu::spin_until(ticks, || PARKED.load(Ordering::Acquire) == 0)
}
