//! A short soak: `./x soak` does the long one.

use anyhow::{Result, ensure};

use super::Bed;
use crate::soak::{self, Report};
use crate::wire::Wire;

/// How many upgrades.
const UPGRADES: u32 = 30;
/// With this seed every kind of act happens.
const SEED: u64 = 1;

/// Upgrades, and six kinds of what may lie between them.
const ACTS: usize = 7;

pub fn run(bed: &mut Bed) -> Result<()> {
    let wire = Wire::start()?;
    let machine = bed.start("soak", &soak::spec(&wire))?;
    let mut report = Report { seed: SEED, upgrades: UPGRADES, ..Report::default() };
    soak::run(&machine, &mut report, &mut |_| ())?;
    ensure!(report.acts.len() == ACTS, "not everything was done: {:?}", report.acts);
    Ok(())
}
