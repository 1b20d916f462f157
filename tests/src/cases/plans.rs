//! Plans that come to nothing, a thousand of them: dry runs, uploads that are cancelled, and upgrades that are cancelled after PLAN.
//! Afterwards everything is as it was, and the machine can be upgraded. HANDOVER.md, behaviour 8.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
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

const PLANS: usize = 1000;
/// More attempts than Baton keeps reports of.
const KEPT: usize = 40;
/// Looks of which the lowest counts.
const LOOKS: usize = 16;
/// What the heap may have more of in use. Less than what a connection takes, so one that stays is noticed.
const HEAP_SLACK: u64 = 4096;

pub fn run(bed: &mut Bed) -> Result<()> {
    let guest = Guest::bare("disk", "disk", &["1b36:0010"]);
    let machine = bed.start("plans", &Spec { memory_mib: 256, ..Spec::bare(&["disk"], &[guest]) })?;
    machine.wait_guest("ioload t=", 60)?;
    let api = machine.wait_api(30)?;
    let image = std::fs::read(paths::image("baton-next1")).context("./x image --all builds it")?;
    let image = images::short(&image)?;
    // From an image that has been handed a machine, not from power-on.
    upgrade::to(&machine, "baton-next2")?;
    let watch = Witness::begin(&machine)?;
    let before = resources(&machine)?;
    alike(&machine, &api, &image)?;
    let settled = (0..LOOKS).try_fold(u64::MAX, |lowest, _| anyhow::Ok(lowest.min(resources(&machine)?.heap_bytes)))?;
    let mut withdrawn = 0;
    for number in 0..PLANS {
        let done = match number % 3 {
            0 => dry_run(&api, &image),
            1 => cancel(&machine, &api, &image),
            _ => withdraw(&api, &image).map(|done| withdrawn += usize::from(done)),
        };
        done.with_context(|| format!("plan {number}"))?;
    }
    // A host that was away for long comes too late now and then: the sandbox ends those.
    ensure!(withdrawn > PLANS / 6, "{withdrawn} upgrades were cancelled after PLAN");
    alike(&machine, &api, &image)?;
    let after = resources(&machine)?;
    ensure!(
        Resources { heap_bytes: 0, ..after } == Resources { heap_bytes: 0, ..before },
        "handed out was {before:?}, is {after:?}"
    );
    // A connection takes 16 KiB until it has been closed from both sides, which a busy host may put off.
    let most = settled + HEAP_SLACK;
    wait_for(
        &format!("a heap with at most {most} bytes in use, as before the plans (it had {})", after.heap_bytes),
        Duration::from_secs(60),
        || machine.alive(),
        || resources(&machine).ok().filter(|now| now.heap_bytes <= most),
    )?;
    let watched = watch.end()?;
    witness::all_hold(&watched.checks)?;
    witness::all_hold(&witness::unchanged(&watched))?;
    upgrade::to(&machine, "baton-next1")
}

/// Makes what is kept of attempts the same whatever came before: each report, and no last words.
fn alike(machine: &Machine, api: &Client, image: &[u8]) -> Result<()> {
    (0..KEPT).try_for_each(|_| cancel(machine, api, image))
}

fn resources(machine: &Machine) -> Result<Resources> {
    let resources = machine.wait_api(30)?.status()?.resources;
    ensure!(resources.arena_frames > 0 && resources.heap_bytes > 0, "Baton doesn't say what it has handed out");
    Ok(resources)
}

fn dry_run(api: &Client, image: &[u8]) -> Result<()> {
    let plan = api.plan(&mut { image }, image.len() as u64)?.plan;
    ensure!(plan.ok, "{plan:?}");
    Ok(())
}

/// Half an image, then a DELETE.
fn cancel(machine: &Machine, api: &Client, image: &[u8]) -> Result<()> {
    let mut upload = TcpStream::connect(machine.host())?;
    write!(upload, "POST /v1/upgrade HTTP/1.1\r\nHost: baton\r\nContent-Length: {}\r\n\r\n", image.len())?;
    upload.write_all(image.get(..image.len() / 2).unwrap_or_default())?;
    wait_for(
        "upload under way",
        Duration::from_secs(20),
        || machine.alive(),
        || api.upgrade().ok().filter(|upgrade| upgrade.state == "staging"),
    )?;
    let cancelled = api.cancel()?;
    let upgrade = api.upgrade()?;
    let outcome = upgrade.report(cancelled.id).map(|report| report.outcome.as_str());
    ensure!(outcome == Some("cancelled") && upgrade.state == "idle", "{upgrade:?}");
    Ok(())
}

/// A whole image, then a DELETE: whether that came in time. If it did not, the sandbox has met what is no image.
fn withdraw(api: &Client, image: &[u8]) -> Result<bool> {
    let accepted = api.send(&mut { image }, image.len() as u64)?;
    let asked = api.cancel();
    let report = batonctl::upgrade::wait(api, accepted.id, Duration::from_secs(60), &mut |_| ())?;
    match asked {
        Ok(_) => ensure!(report.outcome == "cancelled" && report.pause_ticks == 0, "{report:?}"),
        Err(Error::Refused(_) | Error::Unreachable { .. }) => {
            ensure!(["refused", "rolled_back"].contains(&report.outcome.as_str()), "{report:?}");
            ensure!(report.pause_ticks == 0, "it has left the sandbox: {report:?}");
        }
        Err(error) => return Err(error.into()),
    }
    Ok(report.outcome == "cancelled")
}
