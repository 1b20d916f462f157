//! FREEZE: every pCPU takes its virtual CPUs out of their guests, leaves their state where
//! the boot CPU finds it, and waits: for the jump or for the way back.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::block::{self, Block};
use crate::config::OnUpgrade;
use crate::cpu;
use crate::mem::guard;
use crate::sched::Core;
use crate::smp::{lapic, pcpu};
use crate::vm::runner::Runner;

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
    guard::pause(core.pcpu().index);
    snapshot(core);
    PENDING.fetch_add(lapic::pending_device_interrupts(), Ordering::AcqRel);
    let own = core.pcpu();
    PARKED.fetch_add(1, Ordering::AcqRel);
    let mut watching = true;
    while ORDER.load(Ordering::Acquire) == PARK {
        if block::jump_when_called(own) {
            own.reclaim();
        }
        if watching && cpu::tsc() >= DEADLINE.load(Ordering::Acquire) {
            watching = false;
            end_silence();
        }
        core::hint::spin_loop();
    }
    guard::leave(own.index);
    PARKED.fetch_sub(1, Ordering::AcqRel);
}

/// Until when the new image must have taken over, by the TSC; never while no pCPU is in it.
static DEADLINE: AtomicU64 = AtomicU64::new(u64::MAX);

/// Says until when pCPU 0 may be silent in the new image; `u64::MAX` when it is back.
pub fn watch(deadline: u64) {
    DEADLINE.store(deadline, Ordering::Release);
}

/// The deadline has passed while pCPU 0 is in the new image: unless that has taken over, pCPU 0 is sent home.
fn end_silence() {
    if Block::current().is_some_and(|block| block.abandon()) {
        pcpu::each().filter(|pcpu| pcpu.index == 0).for_each(|pcpu| lapic::send_nmi(pcpu.apic_id));
    }
}

/// Takes the state of the virtual CPUs that live here out of hardware.
pub fn snapshot(core: &mut Core) {
    core.unload();
    // Who leaves is not asked: nothing of it goes over.
    let preserved = |runner: &&mut Runner| runner.vm.on_upgrade == OnUpgrade::Preserve;
    core.runners().iter_mut().filter(preserved).for_each(Runner::snapshot);
}

/// Stops all other pCPUs; `false` when one of them did not come within `ticks`, and then all run on.
#[must_use]
pub fn all_others(ticks: u64) -> bool {
    let others: u32 = pcpu::each().filter(|pcpu| pcpu.index != 0).count() as u32;
    PENDING.store(0, Ordering::Release);
    ORDER.store(PARK, Ordering::Release);
    for pcpu in pcpu::each() {
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

/// Waits until the other pCPUs have gone on here, sending for those that stay in the new image; `false` when one is missing
/// after `ticks`.
#[must_use]
pub fn all_back(ticks: u64) -> bool {
    let back = || PARKED.load(Ordering::Acquire) == 0;
    // Again and again: one that was called late may have jumped since.
    for _ in 0..20 {
        if cpu::spin_until(ticks / 20, back) {
            return true;
        }
        for pcpu in pcpu::each().filter(|pcpu| pcpu.index != 0 && pcpu.rescue.is_away()) {
            log::info!("pCPU {} stays away: an NMI fetches it", pcpu.index);
            lapic::send_nmi(pcpu.apic_id);
        }
    }
    cpu::spin_until(ticks, back)
}
