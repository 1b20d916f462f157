//! A disk that interrupts at a steady rate, set by the emulator whatever the guest does, through many upgrades. QEMU counts the
//! messages that the disk sends, the guest the interrupts that it takes and the completions that it finds: three numbers that must be
//! one. HANDOVER.md, behaviour 23.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use batonctl::upgrade;

use super::Bed;
use crate::config::Guest;
use crate::guest_log::Pulses;
use crate::log::{Tail, wait_for};
use crate::machine::Machine;
use crate::paths;
use crate::spec::{Device, Kind, Place, Spec};

const UPGRADES: usize = 100;
/// Interrupts a second.
const RATE: u32 = 400;
/// QEMU's line for a message of the disk.
const MESSAGE: &str = "pci_nvme_irq_msix";

pub fn run(bed: &mut Bed) -> Result<()> {
    let guest = Guest::bare("pulse", "pulse", &["1b36:0010"]);
    let disk = Device { kind: Kind::SteadyNvme(RATE), place: Place::RootPort };
    let spec = Spec {
        devices: vec![disk],
        memory_mib: 256,
        typed: true,
        traces: vec![MESSAGE],
        ..Spec::bare(&["pulse"], &[guest])
    };
    let machine = bed.start("interrupts", &spec)?;
    machine.wait_guest("pulse t=", 30)?;
    let images = ["baton-next1", "baton-next2"].map(|name| std::fs::read(paths::image(name)));
    let images = images.into_iter().collect::<std::io::Result<Vec<_>>>().context("./x image --all builds them")?;
    let mut console = Tail::new(&machine.guest);
    let mut last = Pulses::default();
    let (mut pending, mut delivered) = (0, 0);
    for (number, image) in (1..=UPGRADES).zip(images.iter().cycle()) {
        let api = machine.api();
        wait_for("answer from the API", Duration::from_secs(60), || machine.alive(), || api.status().ok())?;
        let accepted = upgrade::send(&api, &mut image.as_slice(), image.len() as u64)?;
        let report = upgrade::wait(&api, accepted.id, Duration::from_secs(120), &mut |_| ())?;
        ensure!(report.outcome == "committed", "upgrade {number}: {report:?}");
        ensure!(report.interrupts_pending == report.interrupts_delivered, "upgrade {number}: {report:?}");
        pending += report.interrupts_pending;
        delivered += report.interrupts_delivered;
        look(&mut console, &mut last).with_context(|| format!("upgrade {number}"))?;
    }
    ensure!(pending > 0 && pending == delivered, "{pending} interrupts were pending, {delivered} delivered");
    machine.type_line("stop")?;
    let stopped = || {
        let looked = look(&mut console, &mut last);
        (looked.is_err() || last.stopped).then_some(looked)
    };
    wait_for("last line of the guest", Duration::from_secs(60), || machine.healthy(), stopped)??;
    let sent = messages(&machine);
    ensure!(
        sent == last.interrupts && last.interrupts == last.completions,
        "the disk has sent {sent} messages, the guest has {last:?}"
    );
    // A steady rate: nothing stood still for long, and there was something to be counted in every pause.
    let due = last.t / 1_000_000 * u64::from(RATE) / 1000;
    ensure!(
        last.interrupts > due / 2,
        "{} interrupts in {} ms at {RATE} a second",
        last.interrupts,
        last.t / 1_000_000
    );
    Ok(())
}

/// Reads the guest's lines: every one is sound.
fn look(console: &mut Tail, last: &mut Pulses) -> Result<()> {
    for line in console.lines()? {
        ensure!(!line.contains("guest failed"), "{line}");
        if let Some(pulses) = Pulses::parse(&line) {
            ensure!(pulses.trouble == [0; 3] && pulses.t > last.t, "{pulses:?} after {last:?}");
            *last = pulses;
        }
    }
    Ok(())
}

/// Messages of the disk's I/O queues. That of the administrative queue, vector 0, is no business of this guest's.
fn messages(machine: &Machine) -> u64 {
    let lines = machine.trace.lines();
    let of_queues = |line: &&String| line.contains(MESSAGE) && !line.trim_end().ends_with("vector 0");
    lines.iter().filter(of_queues).count() as u64
}
