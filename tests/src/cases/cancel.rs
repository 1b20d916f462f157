//! An upgrade is cancelled while its image gets ready in the sandbox: whoever asks is answered there too, and everything is as
//! before PLAN. HANDOVER.md, behaviours 8 and 22.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use batonctl::api::Resources;
use batonctl::client::{Client, Error};

use super::{Bed, upgrade};
use crate::config::Guest;
use crate::images;
use crate::log::wait_for;
use crate::machine::Machine;
use crate::paths;
use crate::spec::Spec;
use crate::witness::{self, Witness};

const CANCELS: usize = 10;
/// An image that hangs in the sandbox, with interrupts on and off: it is there until somebody ends it, or its 5 s are over.
const HANGS: [(u8, u8); 2] = [(4, 1), (5, 1)];

pub fn run(bed: &mut Bed) -> Result<()> {
    cancelled(bed, "cancel", 2)?;
    // The guest, the sandbox and management share the only one.
    cancelled(bed, "cancel-1", 1)
}

fn cancelled(bed: &mut Bed, name: &str, cpus: u32) -> Result<()> {
    let guest = Guest { pcpu: cpus - 1, ..Guest::bare("disk", "disk", &["1b36:0010"]) };
    let machine = bed.start(name, &Spec { cpus, memory_mib: 256, ..Spec::bare(&["disk"], &[guest]) })?;
    machine.wait_guest("ioload t=", 60)?;
    let api = machine.wait_api(30)?;
    let images = [hanging(0)?, hanging(1)?];
    // From an image that has been handed a machine, not from power-on.
    upgrade::to(&machine, "baton-next1")?;
    let watch = Witness::begin(&machine)?;
    let before = resources(&api)?;
    for number in 0..CANCELS {
        in_the_sandbox(&machine, &images[number % 2]).with_context(|| format!("cancel {number}"))?;
    }
    let after = resources(&api)?;
    // The heap serves the request that asks for it.
    ensure!(
        Resources { heap_bytes: 0, ..after } == Resources { heap_bytes: 0, ..before },
        "handed out was {before:?}, is {after:?}"
    );
    let watched = watch.end()?;
    witness::all_hold(&watched.checks)?;
    witness::all_hold(&witness::unchanged(&watched))?;
    upgrade::to(&machine, "baton-next2")
}

fn resources(api: &Client) -> Result<Resources> {
    let resources = api.status()?.resources;
    ensure!(resources.arena_frames > 0 && resources.arena_unclaimed == 0, "{resources:?}");
    Ok(resources)
}

/// An image that stays in the sandbox.
pub(super) fn hanging(how: usize) -> Result<Vec<u8>> {
    let mut image = std::fs::read(paths::image("baton-fault")).context("./x test e2e cancel builds it")?;
    images::set_fault(&mut image, HANGS[how].0, HANGS[how].1)?;
    Ok(image)
}

/// Sends an image that stays in the sandbox, looks around while it is there, and cancels it.
pub(super) fn in_the_sandbox(machine: &Machine, image: &[u8]) -> Result<()> {
    let api = machine.api();
    let accepted = api.send(&mut { image }, image.len() as u64)?;
    let warming = || api.upgrade().ok().filter(|upgrade| upgrade.state == "warming" && upgrade.id == Some(accepted.id));
    wait_for("image in the sandbox", Duration::from_secs(20), || machine.healthy(), warming)?;
    // Another one is turned away, before it is sent.
    match api.send(&mut [0u8; 64].as_slice(), 64) {
        Err(Error::Refused(refusal)) => ensure!(refusal.code == "busy", "{refusal:?}"),
        other => bail!("a second upgrade gives {other:?}"),
    }
    let cancelled = api.cancel()?;
    ensure!(cancelled.id == accepted.id, "{} was cancelled instead of {}", cancelled.id, accepted.id);
    let report = batonctl::upgrade::wait(&api, accepted.id, Duration::from_secs(30), &mut |_| ())?;
    ensure!(report.outcome == "cancelled" && report.pause_ticks == 0 && report.stopped.is_empty(), "{report:?}");
    ensure!(report.blame.as_deref() == Some("operator"), "{report:?}");
    ensure!(report.phases.get("warm").is_some_and(|ticks| *ticks > 0), "it was not in the sandbox: {report:?}");
    let upgrade = api.upgrade()?;
    ensure!(upgrade.state == "idle", "{upgrade:?}");
    Ok(())
}
