//! Management: what pCPU 0 does between virtual CPUs.
//!
//! - here: when which part is looked after, and the upgrade's course from the API to the jump
//! - `settings`: how Baton is reached; `link`: the server and its card; `nic`: the card's place in the machine
//! - `control`: what the API can ask for; `uploads`: the one upload and the upgrade it becomes
//! - `view`: the machine as the API shows it; `devices`: what is on its buses
//! - `keyboard`: COM2's way to a guest; `operator`: commands on COM1
//!
//! All of it runs on pCPU 0 with interrupts off. Interrupts only leave marks (`trap::dispatch`).

mod control;
mod devices;
mod keyboard;
mod link;
pub mod nic;
mod operator;
pub mod settings;
mod uploads;
mod view;

use alloc::boxed::Box;
use alloc::string::String;
use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use handover::phase::{Outcome, Phase};
use handover::state::report::{BLAME_MACHINE, BLAME_OPERATOR, ReportV1};
use handover::state::text;
use hermit_sync::SpinMutex;

use self::control::Machine;
use self::keyboard::Keyboard;
use self::link::Link;
use self::operator::Operator;
pub use self::settings::Settings;
use crate::config::{Config, DEFAULT_DEADLINE_MS};
use crate::passthrough::{quarantine, release, units};
use crate::sched::Core;
use crate::trap::dispatch::{IOMMU_FAULT, MANAGEMENT};
use crate::upgrade::convert::management::ManagementState;
use crate::upgrade::plan::Planned;
use crate::upgrade::stage::Staged;
use crate::upgrade::warm::{Course, Warming};
use crate::upgrade::{self, leave, plan, retire, switch};
use crate::{cpu, time};

/// Faults are collected at least so often, in milliseconds; a unit in a storm of them tells of none.
const FAULTS_MS: u64 = 1_000;

struct Manager {
    link: Option<Link>,
    machine: Machine,
    keyboard: Keyboard,
    operator: Operator,
    faults_due: u64,
    /// What every object has said yes to, while it can still be withdrawn.
    planned: Option<(Box<Planned>, u64)>,
}

/// How long an upgrade rests after PLAN, in milliseconds: so long it can be withdrawn even where WARM takes no time.
const GRACE_MS: u64 = 100;
/// Between two looks whether RETIRE is due, in milliseconds.
const RETIRE_MS: u64 = 1;

/// Locked only for as long as [`tend`] works, never across an upgrade.
static MANAGER: SpinMutex<Manager> = SpinMutex::new(Manager {
    link: None,
    machine: Machine::new(),
    keyboard: Keyboard::new(),
    operator: Operator::new(),
    faults_due: 0,
    planned: None,
});
/// When [`tend`] has something to do without being told, in ticks of the TSC.
static NEXT: AtomicU64 = AtomicU64::new(0);
static DEADLINE_MS: AtomicU32 = AtomicU32::new(DEFAULT_DEADLINE_MS);

/// Starts management as `baton.toml` asks for. Without it the guests run all the same.
pub fn init(config: &Config) {
    DEADLINE_MS.store(config.upgrade.deadline_ms, Ordering::Relaxed);
    publish(None);
    match config.management.as_ref().map(Settings::from_config) {
        // The configuration's reader has warned of it.
        None => {}
        Some(Err(error)) => log::error!("no management: {error}"),
        Some(Ok(settings)) => init_from(settings),
    }
}

/// Starts management on a known card.
pub fn init_from(settings: Settings) {
    match Link::open(settings) {
        Ok(link) => {
            publish(Some(&link));
            MANAGER.lock().link = Some(link);
            NEXT.store(0, Ordering::Relaxed);
        }
        Err(error) => log::error!("no management: {error}"),
    }
}

/// Goes on where the image before this one stopped: after COMMIT, while guests run.
pub fn init_after_upgrade(state: &ManagementState) {
    DEADLINE_MS.store(state.deadline_ms, Ordering::Relaxed);
    publish(None);
    if let Some(settings) = Settings::from_state(state) {
        init_from(settings);
    }
}

/// What the next image must know of management.
fn publish(link: Option<&Link>) {
    let deadline_ms = deadline_ms();
    let nothing = ManagementState {
        nic: None,
        mac: [0; 6],
        dhcp: false,
        address: Ipv4Addr::UNSPECIFIED,
        prefix: 0,
        gateway: None,
        port: 0,
        deadline_ms,
    };
    upgrade::settings::set_management(link.map_or(nothing, |link| link.state(deadline_ms)));
}

/// The longest guests may stand still in an upgrade, in milliseconds.
pub fn deadline_ms() -> u32 {
    DEADLINE_MS.load(Ordering::Relaxed)
}

impl Manager {
    /// Looks after every part that is due. Returns when the next one is.
    fn work(&mut self, now: u64) -> u64 {
        if IOMMU_FAULT.swap(false, Ordering::AcqRel) || now >= self.faults_due {
            units::service_faults();
            quarantine::judge();
            self.keyboard.find_guest();
            release::run();
            self.faults_due = now.saturating_add(time::ms_to_ticks(FAULTS_MS));
        }
        if release::is_due() {
            release::run();
        }
        let told = MANAGEMENT.swap(false, Ordering::AcqRel);
        let mut next = self.faults_due.min(self.keyboard.poll(now)).min(self.operator.poll(now, &mut self.machine));
        if let Some((_, until)) = &self.planned {
            next = next.min(*until);
        }
        if let Some(link) = &mut self.link {
            let (due, changed) = link.poll(now, told, &mut self.machine);
            if changed {
                publish(Some(link));
            }
            next = next.min(due);
        }
        next
    }
}

impl Manager {
    /// What was planned, when its time has come; `true`: it was withdrawn.
    fn ripe(&mut self, now: u64) -> Option<(Box<Planned>, bool)> {
        let (planned, until) = self.planned.take()?;
        let withdrawn = self.machine.uploads.is_withdrawn();
        if !withdrawn && now < until {
            self.planned = Some((planned, until));
            return None;
        }
        Some((planned, withdrawn))
    }
}

/// Whether somebody has left a mark for [`tend`].
pub fn is_told() -> bool {
    MANAGEMENT.load(Ordering::Acquire) || IOMMU_FAULT.load(Ordering::Acquire) || release::is_due()
}

/// Does what there is to do; when to come back, in ticks of the TSC. On pCPU 0, interrupts off.
pub fn tend(core: &mut Core) -> Option<u64> {
    let now = cpu::tsc();
    if retire::waits() {
        // Guests first: until one of them runs nobody else has anything to say.
        return Some(now.saturating_add(time::ms_to_ticks(RETIRE_MS)));
    }
    let next = NEXT.load(Ordering::Relaxed);
    if now < next && !is_told() {
        return Some(next);
    }
    let (mut next, due, planned) = {
        let mut manager = MANAGER.lock();
        (manager.work(now), manager.machine.uploads.take_due(), manager.ripe(now))
    };
    if let Some(staged) = due {
        plan(staged);
        next = cpu::tsc();
    }
    match planned {
        Some((planned, true)) => {
            withdraw(*planned);
            next = cpu::tsc();
        }
        Some((planned, false)) => {
            run(core, *planned);
            next = cpu::tsc();
        }
        None => {}
    }
    NEXT.store(next, Ordering::Relaxed);
    Some(next)
}

/// PLAN. What every object says yes to is kept for a while, in which the operator can still think better of it.
fn plan(staged: Staged) {
    match plan::plan(staged) {
        Ok(planned) => {
            let until = cpu::tsc().saturating_add(time::ms_to_ticks(GRACE_MS));
            MANAGER.lock().planned = Some((Box::new(planned), until));
        }
        Err(report) => {
            tell_refused(&report);
            ended();
        }
    }
}

/// Back to before PLAN.
fn withdraw(planned: Planned) {
    tell_cancelled(&planned.give_up(Outcome::Cancelled, None, BLAME_OPERATOR, uploads::OPERATOR));
    ended();
}

/// From PLAN to WARM.
fn run(core: &mut Core, mut planned: Planned) {
    let early = !leave::is_said_in(planned.staged.format);
    match core.virtualize().and_then(|()| if early { depart(&mut planned) } else { Ok(()) }) {
        Ok(()) => match Warming::begin(planned) {
            Ok(warming) => {
                core.warming = Some(Box::new(warming));
                MANAGER.lock().machine.uploads.warming();
                return;
            }
            Err(none) => tell_refused(&none.refuse()),
        },
        Err(reason) => {
            tell_refused(&planned.give_up(Outcome::Refused, Some(Phase::Plan), BLAME_MACHINE, &reason));
        }
    }
    ended();
}

/// Nobody can cancel any more, and whoever is not preserved leaves: the card, whose standing still costs nobody anything, then guests.
fn depart(planned: &mut Planned) -> Result<(), String> {
    MANAGER.lock().machine.uploads.close();
    stop_nic()?;
    leave::stop(planned.report.sequence, &core::mem::take(&mut planned.leaving))
}

/// This image goes on.
fn ended() {
    restart_nic();
    MANAGER.lock().machine.uploads.ended();
}

/// A slice of the sandbox, and when the new image is ready, the jump. Returns only when this image goes on.
pub fn warm(core: &mut Core) {
    let Some(mut warming) = core.warming.take() else { return };
    if MANAGER.lock().machine.uploads.is_withdrawn() {
        tell_cancelled(&warming.cancel(uploads::OPERATOR));
        return ended();
    }
    match warming.slice() {
        Course::Goes => {
            core.warming = Some(warming);
            return;
        }
        Course::Ready(entry) => {
            let mut planned = warming.end();
            let left = if leave::is_said_in(planned.staged.format) { depart(&mut planned) } else { Ok(()) };
            match left {
                // It tells of its end itself.
                Ok(()) => {
                    let _report = switch::execute(core, planned, entry);
                }
                Err(reason) => {
                    tell_refused(&planned.give_up(Outcome::RolledBack, Some(Phase::Warm), BLAME_MACHINE, &reason));
                }
            }
        }
        Course::Ends(outcome, reason) => tell_refused(&warming.refuse(outcome, &reason)),
    }
    ended();
}

fn tell_cancelled(report: &ReportV1) {
    log::info!("upgrade {} is cancelled: {}", report.sequence, uploads::OPERATOR);
}

fn tell_refused(report: &ReportV1) {
    let reason = text(&report.reason).unwrap_or_default();
    // What failed in WARM has not been refused by anybody, and no guest has paused for it.
    let how = if report.outcome == Outcome::RolledBack.code() { "failed before the pause" } else { "is refused" };
    log::warn!("upgrade {} {how}: {reason}", report.sequence);
}

/// Stops the card, so that neither context entry nor remapping entry of it is left: before FREEZE.
///
/// # Errors
/// It can't be made sure that it stands still.
fn stop_nic() -> Result<(), String> {
    let mut guard = MANAGER.lock();
    let Manager { link, machine, .. } = &mut *guard;
    machine.uploads.withdraw("the management NIC was stopped");
    link.as_mut().map_or(Ok(()), |link| link.stop(machine))
}

/// Starts the card again, if it was stopped.
fn restart_nic() {
    if let Some(link) = &mut MANAGER.lock().link
        && !link.is_up()
    {
        link.restart(cpu::tsc());
    }
    NEXT.store(0, Ordering::Relaxed);
}
