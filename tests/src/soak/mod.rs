//! Upgrades one after the other, with everything else that an operator or a bad image may do between them, while one guest works on
//! its disk and another on its wire. Which image, what between, how far an upload gets: dice say, and the same seed says the same.
//!
//! - `act`: what is done; `dice`: what is drawn
//! - `watch`: what nobody may notice, and what must not leak
//! - `report`: what came of it

mod act;
mod dice;
mod report;
mod watch;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use batonctl::api::Report as Ended;

use crate::config::Guest;
use crate::machine::Machine;
use crate::spec::{Device, Kind, Place, Spec};
use crate::wire::Wire;

use act::{Act, Hand, Images};
use dice::Dice;
use watch::Watch;

pub use report::Report;

/// So many upgrades lie between two looks for leaks, when there are enough of them.
const LOOK_EVERY: u32 = 50;
/// Of so many upgrades one has something else before it.
const ACT_EVERY: usize = 3;

/// A machine with a guest on its disk and one on its wire, which share a pCPU.
#[must_use]
pub fn spec(wire: &Wire) -> Spec {
    let disk = Guest::bare("disk", "disk", &["1b36:0010"]);
    let card = Guest { console: "com1".into(), ..Guest::bare("wire", "wire", &["8086:10c9"]) };
    let wired = Device { kind: Kind::Wired(wire.port()), place: Place::RootPort };
    Spec { devices: vec![Device::DISK, wired], memory_mib: 256, ..Spec::bare(&["disk", "wire"], &[disk, card]) }
}

/// Soaks a machine of [`spec`] until `report` has its upgrades, or something does not hold. `tell` hears of every step.
///
/// # Errors
/// What did not hold, with the number of the step; the report has it as well.
pub fn run(machine: &Machine, report: &mut Report, tell: &mut dyn FnMut(&Report)) -> Result<()> {
    let (begun, before) = (Instant::now(), report.seconds);
    report.boots += 1;
    let result = soak(machine, report, &mut |report| {
        report.seconds = before + begun.elapsed().as_secs();
        tell(report);
    });
    report.seconds = before + begun.elapsed().as_secs();
    report.failure = result.as_ref().err().map(|error| format!("{error:#}"));
    report.ok = result.is_ok();
    tell(report);
    result
}

fn soak(machine: &Machine, report: &mut Report, tell: &mut dyn FnMut(&mut Report)) -> Result<()> {
    let images = Images::read()?;
    let hand = Hand { machine, images: &images };
    let mut watch = Watch::begin(machine)?;
    let every = LOOK_EVERY.min(report.upgrades.div_ceil(3)).max(1);
    while report.committed < report.upgrades {
        let step = report.committed + 1;
        let mut dice = Dice::new(report.seed, step);
        let done = one(&hand, &mut watch, report, &mut dice);
        done.with_context(|| format!("upgrade {step} of {}, seed {}", report.upgrades, report.seed))?;
        report.guests = watch.guests();
        if step.is_multiple_of(every) || step == 1 || step == report.upgrades {
            let resources = watch.leaks().with_context(|| format!("after upgrade {step}, seed {}", report.seed))?;
            report.resources.push(report::Look { after: step, resources });
        }
        tell(report);
    }
    Ok(())
}

/// An upgrade, and now and then something else before it.
fn one(hand: &Hand<'_>, watch: &mut Watch<'_>, report: &mut Report, dice: &mut Dice) -> Result<()> {
    let something = dice.below(ACT_EVERY) == 0;
    if let Some(act) = dice.pick(&Act::ALL).copied().filter(|_| something) {
        between(hand, watch, report, act, dice).with_context(|| format!("{act:?}"))?;
    }
    upgrade(hand, watch, report, dice)
}

/// Something else than an upgrade: afterwards the same image runs, but for a cancel that came too late.
fn between(hand: &Hand<'_>, watch: &mut Watch<'_>, report: &mut Report, act: Act, dice: &mut Dice) -> Result<()> {
    let api = watch.api()?;
    let before = api.status()?;
    let ended = hand.perform(act, &api, dice)?;
    let after = watch.settle()?;
    let moved = u64::from(ended.as_ref().is_some_and(|ended| ended.outcome == "committed"));
    ensure!(
        after.generation == before.generation + moved && (after.build_id == before.build_id) == (moved == 0),
        "{} of generation {} runs after {} of generation {}: {ended:?}",
        after.build_name,
        after.generation,
        before.build_name,
        before.generation
    );
    report.note(act.name(), ended.as_ref());
    ended.as_ref().map_or(Ok(()), sound)
}

fn upgrade(hand: &Hand<'_>, watch: &mut Watch<'_>, report: &mut Report, dice: &mut Dice) -> Result<()> {
    let api = watch.api()?;
    let before = api.status()?;
    let (name, ended) = hand.upgrade(&api, dice)?;
    ensure!(ended.outcome == "committed", "{name} is {}: {}", ended.outcome, ended.reason);
    let after = watch.settle()?;
    ensure!(
        after.build_name == name && after.generation == before.generation + 1 && ended.generation == after.generation,
        "{} of generation {} runs after generation {}, {name} was sent: {ended:?}",
        after.build_name,
        after.generation,
        before.generation
    );
    report.note("upgrade", Some(&ended));
    report.committed += 1;
    sound(&ended)
}

/// No interrupt was lost or came twice, no device faulted, no memory was taken in the pause.
fn sound(ended: &Ended) -> Result<()> {
    let whole = ended.outcome != "committed"
        || ended.interrupts_pending == ended.interrupts_delivered && ended.pause_allocations == 0;
    ensure!(whole && ended.iommu_faults == 0, "{ended:?}");
    Ok(())
}
