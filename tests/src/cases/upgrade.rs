//! Three upgrades in a row: the third is done by an image that came by the second.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use batonctl::api::Report;
use batonctl::upgrade;

use super::Bed;
use crate::machine::Machine;
use crate::paths;
use crate::witness::{self, Witness};

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.linux()?;
    ["baton-next1", "baton-next2", "baton-next3"].iter().try_for_each(|name| to(machine, name))
}

/// One upgrade under the guest's I/O, with everything that has to hold.
pub fn to(machine: &Machine, name: &str) -> Result<()> {
    let watch = Witness::begin(machine)?;
    let report = perform(machine, name)?;
    let watched = watch.end()?;
    witness::all_hold(&witness::committed(&watched, &report)).with_context(|| format!("upgrade to {name}"))?;
    witness::all_hold(&watched.checks).with_context(|| format!("upgrade to {name}"))?;
    ensure!(watched.after.build_name == name, "{} runs instead of {name}", watched.after.build_name);
    Ok(())
}

/// One upgrade to its end, whatever that is.
pub fn perform(machine: &Machine, name: &str) -> Result<Report> {
    let api = machine.wait_api(30)?;
    let image = fs::read(paths::image(name)).context("./x image --all builds it")?;
    let accepted = upgrade::send(&api, &mut image.as_slice(), image.len() as u64)?;
    Ok(upgrade::wait(&api, accepted.id, Duration::from_secs(120), &mut |_| ())?)
}
