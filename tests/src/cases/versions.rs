//! Releases that follow each other, forwards and backwards, while the guest works on its disk. The images of other releases are
//! built from this source by features of `handover` (docs/handover.md, releases).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use batonctl::api::Report;

use super::{Bed, stop, upgrade};
use crate::config::{self, DEADLINE_MS, Guest};
use crate::guest_log::{complaints, samples};
use crate::machine::Machine;
use crate::outside::Trace;
use crate::paths;
use crate::spec::Spec;

pub fn run(bed: &mut Bed) -> Result<()> {
    let guest = Guest::bare("disk", "disk", &["1b36:0010"]);
    // Format 1 can't say that signatures are demanded.
    let text = config::with_policy(DEADLINE_MS, "unsigned = \"allow\"", &[guest]);
    let spec = Spec { memory_mib: 256, texts: vec![("baton.toml".into(), text)], ..Spec::bare(&["disk"], &[]) };
    let machine = bed.start("versions", &spec)?;
    machine.wait_guest("ioload t=", 60)?;

    // Each with the format that both know, or that the one writes and the other may read.
    for (generation, (name, format)) in (1..).zip([
        ("baton-previous", 1),
        ("baton-next1", 1),
        ("baton-later", 2),
        ("baton-next2", 3),
        ("baton-critical", 2),
    ]) {
        upgrade::to(&machine, name)?;
        machine.wait_baton(&format!("generation {generation} runs, handed over in format {format}"), 30)?;
    }
    machine.wait_baton("records of kind 0x7f01, version 1, are not known here and were skipped", 10)?;

    // A critical record that the present release does not know: no upgrade, and the guest works on.
    let report = send(&machine, "baton-next3")?;
    ensure!(report.outcome == "refused" && report.pause_ticks == 0, "{report:?}");
    ensure!(report.reason.contains("0x7f02"), "the record is not named: {report:?}");
    let status = machine.wait_api(30)?.status()?;
    ensure!(status.build_name == "baton-critical", "{} runs", status.build_name);
    // Whoever knows it follows.
    let report = send(&machine, "baton-critical")?;
    ensure!(report.outcome == "committed", "{report:?}");
    unharmed(&machine)?;
    drop(machine);

    // A machine that demands signatures is not handed over in a format that can't say so.
    let guest = Guest::bare("disk", "disk", &["1b36:0010"]);
    let machine = bed.start("versions-signed", &Spec { memory_mib: 256, ..Spec::bare(&["disk"], &[guest]) })?;
    machine.wait_guest("ioload t=", 60)?;
    let report = send(&machine, "baton-previous")?;
    ensure!(report.outcome == "refused" && report.pause_ticks == 0, "{report:?}");
    ensure!(report.reason.contains("signing key") && report.reason.contains("format 1"), "{report:?}");
    upgrade::to(&machine, "baton-next1")?;
    unharmed(&machine)?;
    drop(machine);
    stop::downgraded(bed)
}

/// An upgrade, however it ends.
fn send(machine: &Machine, name: &str) -> Result<Report> {
    let api = machine.wait_api(30)?;
    let image = fs::read(paths::image(name)).context("./x image --all builds it")?;
    let accepted = batonctl::upgrade::send(&api, &mut image.as_slice(), image.len() as u64)?;
    Ok(batonctl::upgrade::wait(&api, accepted.id, Duration::from_secs(120), &mut |_| ())?)
}

/// No fault, no I/O error, no reset.
fn unharmed(machine: &Machine) -> Result<()> {
    let wrong = complaints(&samples(&machine.guest));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let trace = Trace::read(&machine.trace);
    ensure!(trace.faults.is_empty(), "{:?}", trace.faults);
    Ok(())
}
