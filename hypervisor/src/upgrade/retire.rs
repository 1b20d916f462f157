//! RETIRE: the guests run; the old image's memory is given back and the report is completed.
#![expect(unsafe_code, reason = "the stream is marked as consumed, the old slot is wiped")]

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use handover::State;
use handover::header::{CONSUMED, MAGIC_OFFSET};
use handover::phase::{Outcome, Phase};
use handover::state::Skipped;
use handover::state::machine::FrameTag;
use handover::state::report::{BLAME_NONE, ReportV1};
use hermit_sync::SpinMutex;
use machine::addr::{HostPhys, PAGE_SIZE};
use machine::paging::Permissions;

use super::block::Block;
use super::convert::management::{ManagementState, Totals};
use super::restore::Restored;
use super::{convert, pages, report, watchdog};
use crate::guest::pci::PciBus;
use crate::mem::layout::SLOT_BYTES;
use crate::mem::{frames, guard, host_map};
use crate::passthrough::{inventory, units};
use crate::smp::{lapic, pcpu};
use crate::trap::devices;
use crate::{console, cpu, host, manage, time, vm};

/// What is left to do once the guests run.
pub struct Leftover {
    /// The report of the upgrade that made this image.
    pub report: ReportV1,
    /// The records.
    pub state: State,
    /// What guests were restored from: dropping it takes time.
    pub guests: Vec<Restored>,
    /// pCPUs that came over.
    pub pcpus: u32,
    /// The handover region.
    pub region: u64,
    /// Its bytes.
    pub region_bytes: u64,
    /// What was counted before the pause.
    pub totals: Totals,
    /// How Baton is reached.
    pub management: Option<ManagementState>,
}

static LEFTOVER: SpinMutex<Option<Leftover>> = SpinMutex::new(None);
static PCPUS: AtomicU32 = AtomicU32::new(0);
static WAITING: AtomicBool = AtomicBool::new(false);
/// Until when RETIRE waits for the interrupts of the pause to be delivered, by the TSC; 0 before it waits.
static PATIENCE_ENDS: AtomicU64 = AtomicU64::new(0);
/// How long that is: a pCPU takes them as soon as it enters a guest or sleeps.
const PATIENCE_MS: u64 = 100;

/// Keeps what is to be done.
pub fn later(leftover: Leftover) {
    PCPUS.store(leftover.pcpus, Ordering::Release);
    *LEFTOVER.lock() = Some(leftover);
    WAITING.store(true, Ordering::Release);
}

/// A pCPU has arrived, its interrupts still off: remembers what waits in its LAPIC for guests.
pub fn note_pending() {
    devices::await_waiting(pcpu::this().index, lapic::pending_device_vectors());
}

/// Whether RETIRE is still to come.
pub fn waits() -> bool {
    WAITING.load(Ordering::Acquire)
}

/// Whether RETIRE is due: somebody runs again, or nobody can.
pub fn is_due() -> bool {
    waits()
        // Until a pCPU is enlisted, the descriptor tables in force on it are the old image's.
        && pcpu::count() == PCPUS.load(Ordering::Acquire) as usize
        && (host::first_entry() != 0 || !vm::any_runs())
        && is_answered()
}

/// Whether every interrupt that waited has been delivered. One that nobody takes, which the report then says, is not waited for for ever.
fn is_answered() -> bool {
    let (.., left) = devices::awaited();
    if !left {
        return true;
    }
    let now = cpu::tsc();
    let end = now.saturating_add(time::ms_to_ticks(PATIENCE_MS));
    match PATIENCE_ENDS.compare_exchange(0, end, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => false,
        Err(end) => now >= end,
    }
}

/// Retires the old image. On pCPU 0, while the guests run.
pub fn run() {
    let Some(leftover) = LEFTOVER.lock().take() else { return };
    WAITING.store(false, Ordering::Release);
    watchdog::disarm();
    console::set_quiet(false);
    // Where no guest runs nobody else has said so.
    guard::go_on();
    match convert::report::load(&leftover.state) {
        // The last one is the one under way.
        Ok(mut reports) => {
            reports.pop();
            report::adopt(reports);
        }
        Err(error) => log::warn!("reports of earlier upgrades are lost: {error}"),
    }
    report::adopt_outcomes(leftover.totals.outcomes);
    let mut own = leftover.report;
    own.pause_allocations = own.pause_allocations.saturating_add(guard::taken_in_pause());
    if let Some(place) = own.phase_tsc.get_mut(Phase::Retire.index()) {
        // RUN ends when the first virtual CPU enters.
        *place = host::first_entry();
    }
    Block::forget();
    consume(leftover.region);
    leftover.state.vcpu_places.iter().for_each(pages::free);
    claim(leftover.region, leftover.region_bytes);
    wipe_old_slot();
    for vm in vm::all() {
        vm.platform.with_pci(PciBus::retry_routes);
    }
    own.faults = units::fault_count().saturating_sub(leftover.totals.faults);
    let (waited, answered, _) = devices::awaited();
    // Those that came in the pause wait as well. Fewer than at FREEZE: some were lost.
    own.interrupts_pending = own.interrupts_pending.max(waited);
    own.interrupts_delivered = answered;
    let own = report::end(own, Outcome::Committed, None, BLAME_NONE, "");
    let (sequence, generation, format) = (own.sequence, own.generation, own.format);
    let pause = report::pause(&own);
    log::info!("upgrade {sequence}: generation {generation} runs, handed over in format {format}, pause {pause} ticks");
    for Skipped { kind, version, count } in leftover.state.skipped {
        log::warn!("{count} records of kind {kind:#06x}, version {version}, are not known here and were skipped");
    }
    inventory::enumerate(false);
    if let Some(management) = leftover.management {
        manage::init_after_upgrade(&management);
    }
}

/// The stream is adopted once.
fn consume(region: u64) {
    let magic = (region as usize + MAGIC_OFFSET) as *mut u64;
    // SAFETY: the header lies at the region's start, in the arena, which is this image's since COMMIT; 8-byte aligned.
    unsafe { magic.write_volatile(CONSUMED) };
}

/// Everybody claims what is theirs in the arena; what nobody claims is kept and reported.
fn claim(region: u64, bytes: u64) {
    for frame in 0..bytes / PAGE_SIZE {
        frames::with(|arena| arena.free(HostPhys(region + frame * PAGE_SIZE)));
    }
    let guests = vm::all();
    let left = host::get().regions.lock().unclaimed(|token| guests.iter().any(|vm| vm.ram.token == token));
    if left != 0 {
        log::warn!("{} MiB of guests' memory were claimed by no guest; they are kept", left >> 20);
    }
    frames::with(|arena| {
        arena.mark_pending();
        arena.claim(units::TAG);
        for vm in guests {
            arena.claim(FrameTag::new(FrameTag::SPACE_TABLE, vm.id));
        }
        let left = arena.unclaimed().count();
        if left != 0 {
            log::warn!("{left} frames of the arena were claimed by nobody; they are kept");
        }
    });
}

/// Nothing of the old image is left: not mapped executable, and zeroes.
fn wipe_old_slot() {
    let host = host::get();
    let old = host.slots[usize::from(host.slot ^ 1)];
    if let Err(error) = host_map::protect(old, SLOT_BYTES, Permissions::READ_WRITE) {
        log::error!("the old image's slot can't be made data: {error}");
        return;
    }
    // SAFETY: since COMMIT no pCPU is in the old image, and nothing refers to its memory: `is_due` has waited until every
    // pCPU is enlisted here, with descriptor tables and stacks of this slot.
    unsafe { core::ptr::write_bytes(old as usize as *mut u8, 0, SLOT_BYTES as usize) };
}
