//! Images with a planted fault, one after the other, on machines with two and four CPUs: each ends as stated, and the
//! guest's I/O goes on. HANDOVER.md, behaviours 19, 20 and 24.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use batonctl::upgrade;

use super::Bed;
use crate::config::Config;
use crate::images;
use crate::machine::Machine;
use crate::paths;
use crate::spec::Spec;
use crate::witness::{self, Witness};

/// A fault by its number in `hypervisor/src/upgrade/fault.rs`.
struct Fault {
    kind: u8,
    name: &'static str,
    /// How it ends in the sandbox, if it is planted there: outcome, words of which the reason has one.
    sandbox: Option<(&'static str, &'static str)>,
    /// Likewise on the first pCPU after SWITCH: always rolled back.
    first: Option<&'static str>,
    /// Likewise on the last pCPU, and just before COMMIT.
    later: Option<&'static str>,
}

const ROLLED_BACK: &str = "rolled_back";
const REFUSED: &str = "refused";
const WILD: &str = "which is not its own";

/// What would be a triple fault is seen as the exception it begins with: the sandbox lets none of them through. One that is let
/// through: `running_faults`.
const FAULTS: [Fault; 15] = [
    all(1, "a panic", (REFUSED, "a planted panic"), "a planted panic"),
    all(2, "#GP", (ROLLED_BACK, "#GP"), "#GP"),
    all(3, "#UD", (ROLLED_BACK, "#UD"), "#UD"),
    all(4, "a hang with interrupts on", (ROLLED_BACK, "was not ready after"), "silent|let interrupt|did not come over"),
    all(5, "a hang with interrupts off", (ROLLED_BACK, "was not ready after"), "silent|did not come over"),
    all(6, "a wild write to the arena", (ROLLED_BACK, WILD), "#PF"),
    all(7, "a wild write to the old image", (ROLLED_BACK, WILD), "#PF"),
    all(8, "a wild write to the firmware's memory", (ROLLED_BACK, WILD), "#PF"),
    Fault {
        kind: 9,
        name: "the beginning of a triple fault",
        sandbox: Some((ROLLED_BACK, "#UD")),
        first: None,
        later: None,
    },
    lie(16, "a lost record", "virtual|vCPU", Some("vCPU")),
    lie(17, "a guest's memory that nobody claims", "guests", Some("guests")),
    lie(18, "a unit not adopted", "IOMMU|unit", None),
    lie(19, "a domain, its id and its tables, claimed twice", "used twice", Some("not the one prepared")),
    lie(20, "a dropped vCPU", "vCPUs", Some("vCPUs")),
    lie(21, "a feature that the image does not offer", "CPUID 0x7.0 EBX bits 0x10", None),
];

const fn all(kind: u8, name: &'static str, sandbox: (&'static str, &'static str), reason: &'static str) -> Fault {
    Fault { kind, name, sandbox: Some(sandbox), first: Some(reason), later: Some(reason) }
}

const fn lie(kind: u8, name: &'static str, sandbox: &'static str, first: Option<&'static str>) -> Fault {
    Fault { kind, name, sandbox: Some((REFUSED, sandbox)), first, later: None }
}

pub fn run(bed: &mut Bed) -> Result<()> {
    // An emulated CPU without a core of its own is away for a while, which the deadline of the tests' machines covers.
    for cpus in [2, 4] {
        let config = Config::default();
        let spec = Spec { cpus, texts: vec![("baton.toml".into(), config.to_string())], ..Spec::default() };
        let machine = bed.start(&format!("faults-{cpus}"), &spec)?;
        matrix(&machine).with_context(|| format!("{cpus} CPUs"))?;
    }
    Ok(())
}

fn matrix(machine: &Machine) -> Result<()> {
    machine.wait_guest("ioload t=", 120)?;
    machine.wait_api(30)?;
    let image = std::fs::read(paths::image("baton-fault")).context("./x test e2e faults builds it")?;
    for planted in planted() {
        one(machine, &image, &planted).with_context(|| planted.name.clone())?;
    }
    // After all that the machine can still be upgraded.
    let watch = Witness::begin(machine)?;
    let good = std::fs::read(paths::image("baton-next1")).context("./x image --all builds it")?;
    let accepted = upgrade::send(&machine.api(), &mut good.as_slice(), good.len() as u64)?;
    let report = upgrade::wait(&machine.api(), accepted.id, Duration::from_secs(120), &mut |_| ())?;
    let watched = watch.end()?;
    witness::all_hold(&witness::committed(&watched, &report))?;
    witness::all_hold(&watched.checks)
}

/// A fault at a place, and how it must end.
pub(crate) struct Planted {
    /// For people.
    pub name: String,
    /// Its numbers: kind, place.
    pub numbers: (u8, u8),
    /// The report's outcome.
    pub outcome: &'static str,
    /// Words of which the report's reason has one.
    pub reasons: &'static str,
}

/// Every fault at every place where it is stopped.
pub(crate) fn planted() -> Vec<Planted> {
    let mut all = Vec::new();
    for fault in &FAULTS {
        let back = |reasons| (ROLLED_BACK, reasons);
        for (place, name, expected) in [
            (1, "in the sandbox", fault.sandbox),
            (2, "after SWITCH on the first pCPU", fault.first.map(back)),
            (3, "after SWITCH on the last pCPU", fault.later.map(back)),
            (4, "just before COMMIT", fault.later.map(back)),
        ] {
            if let Some((outcome, reasons)) = expected {
                let name = format!("{} {name}", fault.name);
                all.push(Planted { name, numbers: (fault.kind, place), outcome, reasons });
            }
        }
    }
    all
}

pub(super) fn one(machine: &Machine, image: &[u8], planted: &Planted) -> Result<()> {
    let api = machine.wait_api(60)?;
    let mut image = image.to_vec();
    images::set_fault(&mut image, planted.numbers.0, planted.numbers.1)?;
    let watch = Witness::begin(machine)?;
    let accepted = upgrade::send(&api, &mut image.as_slice(), image.len() as u64)?;
    let report = upgrade::wait(&api, accepted.id, Duration::from_secs(120), &mut |_| ())?;
    let watched = watch.end()?;
    ensure!(report.outcome == planted.outcome, "the outcome is {}: {}", report.outcome, report.reason);
    ensure!(planted.reasons.split('|').any(|word| report.reason.contains(word)), "the reason is {:?}", report.reason);
    ensure!(report.blame.as_deref() == Some("baton") && report.id == accepted.id, "{report:?}");
    // Guests stand still only from FREEZE on.
    ensure!((report.pause_ticks == 0) == (planted.numbers.1 == 1), "{report:?}");
    witness::all_hold(&watched.checks)?;
    witness::all_hold(&witness::unchanged(&watched))
}
