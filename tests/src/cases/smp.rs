//! Guests of several virtual CPUs, each on a pCPU of its own, that check what their processors do to each other, through upgrades.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bed, upgrade};
use crate::config::Guest;
use crate::guest_log::Rounds;
use crate::log::{Log, wait_for};
use crate::machine::Machine;
use crate::spec::Spec;

/// Rounds that every virtual CPU has to do in each image.
const ROUNDS: u64 = 10;
const IMAGES: [&str; 2] = ["baton-next1", "baton-next2"];

/// A guest, and where its lines are.
struct Worker<'a> {
    name: &'a str,
    cpus: u64,
    console: &'a Log,
}

impl Worker<'_> {
    fn last(&self) -> Option<Rounds> {
        self.console.lines().iter().rev().find_map(|line| Rounds::parse(line, self.name))
    }

    /// Waits until each of its processors has done [`ROUNDS`] more.
    fn works(&self, machine: &Machine) -> Result<()> {
        let before = self.last().map_or(0, |line| line.rounds);
        let what = format!("{ROUNDS} rounds of each processor of {}", self.name);
        let fine = || {
            machine.healthy()?;
            let failed = [&machine.guest, &machine.baton].into_iter().find_map(|log| log.find("guest failed"));
            ensure!(failed.is_none(), "{}: {failed:?}", self.name);
            Ok(())
        };
        let line = wait_for(&what, Duration::from_secs(120), fine, || {
            self.last().filter(|line| line.rounds >= before + ROUNDS)
        })?;
        ensure!(line.cpus == self.cpus, "{} has {} processors instead of {}", self.name, line.cpus, self.cpus);
        fine()
    }
}

/// Works of the guests, then upgrades, after each of which they go on.
fn upgraded(machine: &Machine, workers: &[Worker<'_>]) -> Result<()> {
    workers.iter().try_for_each(|worker| worker.works(machine))?;
    for image in IMAGES {
        let report = upgrade::perform(machine, image)?;
        ensure!(report.outcome == "committed", "{report:?}");
        workers.iter().try_for_each(|worker| worker.works(machine))?;
    }
    Ok(())
}

pub fn run(bed: &mut Bed) -> Result<()> {
    let spread = Guest::bare("apart", "ipi", &[]).on(&[0, 1, 2, 3]);
    let machine = bed.start("smp", &spec(&["ipi"], &[spread]))?;
    upgraded(&machine, &[Worker { name: "ipi", cpus: 4, console: &machine.guest }])
}

fn spec(programs: &[&str], guests: &[Guest]) -> Spec {
    Spec { cpus: 4, memory_mib: 256, devices: Vec::new(), ..Spec::bare(programs, guests) }
}
