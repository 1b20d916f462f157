//! Images with a planted fault, one after the other, on machines with two and (given the cores) four CPUs: each ends as stated, and the
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

/// A fault by its number in `hypervisor/src/upgrade/fault.rs`, and a word that the report's reason must contain.
const KINDS: [(u8, &str, &str); 8] = [
    (1, "a panic", "a planted panic"),
    (2, "#GP", "#GP"),
    (3, "#UD", "#UD"),
    (4, "a hang with interrupts on", "silent until the deadline|let interrupt|did not come over"),
    (5, "a hang with interrupts off", "silent until the deadline|did not come over"),
    (6, "a wild write to the arena", "#PF"),
    (7, "a wild write to the old image", "#PF"),
    (8, "a wild write to the firmware's memory", "#PF"),
];

/// Places, by number, and what they are called.
const PLACES: [(u8, &str); 3] =
    [(2, "after SWITCH on the first pCPU"), (3, "after SWITCH on the last pCPU"), (4, "just before COMMIT")];

pub fn run(bed: &mut Bed) -> Result<()> {
    // An emulated CPU without a core of its own is away for long: what looks like silence then is the emulator's.
    let cores = std::thread::available_parallelism().map_or(2, |cores| cores.get() as u32);
    for cpus in [2, 4].into_iter().filter(|cpus| *cpus <= cores.max(2)) {
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
    for (place, place_name) in PLACES {
        for (kind, kind_name, reasons) in KINDS {
            // On arrival the old image's tables are in force, which do not protect that image from the new one yet.
            if place == 2 && (6..=8).contains(&kind) {
                continue;
            }
            one(machine, &image, (kind, place), reasons).with_context(|| format!("{kind_name} {place_name}"))?;
        }
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

fn one(machine: &Machine, image: &[u8], (kind, place): (u8, u8), reasons: &str) -> Result<()> {
    let api = machine.wait_api(60)?;
    let mut image = image.to_vec();
    images::set_fault(&mut image, kind, place)?;
    let watch = Witness::begin(machine)?;
    let accepted = upgrade::send(&api, &mut image.as_slice(), image.len() as u64)?;
    let report = upgrade::wait(&api, accepted.id, Duration::from_secs(120), &mut |_| ())?;
    let watched = watch.end()?;
    ensure!(report.outcome == "rolled_back", "the outcome is {}: {}", report.outcome, report.reason);
    ensure!(reasons.split('|').any(|word| report.reason.contains(word)), "the reason is {:?}", report.reason);
    ensure!(
        report.blame.as_deref() == Some("baton") && report.pause_ticks > 0 && report.id == accepted.id,
        "{report:?}"
    );
    witness::all_hold(&watched.checks)?;
    witness::all_hold(&witness::unchanged(&watched))
}
