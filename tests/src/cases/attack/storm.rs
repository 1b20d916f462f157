//! A device that does nothing but fault.

use anyhow::{Result, ensure};

use super::{GUEST_BYTES, Watch};
use crate::cases::Bed;

/// Writes to pages that are not there.
const WRITES: u64 = 4_000;
/// Lines that such a storm may cost: one a second for each kind of fault, and some for what is done about it.
const LINES: usize = 20;

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = super::machine(bed)?;
    let watch = Watch::begin(machine)?;
    let before = machine.baton.lines().iter().filter(|line| line.contains("blocked")).count();
    let answer = watch.order(&format!("storm {WRITES} {GUEST_BYTES:#x}"))?;
    ensure!(answer.contains("writes"), "{answer}");
    machine.wait_baton(&format!("device {}: write at", watch.attacker.name), 5)?;
    machine.wait_api(5)?;
    let lines = machine.baton.lines().iter().filter(|line| line.contains("blocked")).count() - before;
    ensure!(lines <= LINES, "{WRITES} faults cost {lines} lines");
    watch.end()
}
