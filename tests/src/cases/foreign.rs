//! A mapping of what is not preserved, put into the live tables behind everybody's back: PLAN finds it, refuses by name and
//! changes nothing; when it is gone the same image is taken.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use batonctl::upgrade;

use super::attack::Owned;
use super::{Bed, upgrade as upgrades};
use crate::config::Guest;
use crate::guest_log::{complaints, samples};
use crate::log::wait_for;
use crate::outside::Registers;
use crate::paths;
use crate::spec::{Iommu, Offer, Spec};
use crate::tables::Structures;

/// Behind the machine's memory: no guest's.
const FOREIGN: u64 = GIB;
/// The last entry of a table of 1 GiB entries.
const LAST: u64 = 511;
const GIB: u64 = 1 << 30;

pub fn run(bed: &mut Bed) -> Result<()> {
    // A leaf of 1 GiB for reads and writes, by hand (VT-d 9.8, 9.7).
    for (offer, leaf) in [(Offer::Legacy, 0x83), (Offer::FirstStage, 0xe7)] {
        on(bed, offer, FOREIGN | leaf)?;
    }
    Ok(())
}

fn on(bed: &mut Bed, offer: Offer, leaf: u64) -> Result<()> {
    let guest = Guest::bare("disk", "disk", &["1b36:0010"]);
    let iommu = Some(Iommu { offer, ..Iommu::default() });
    let spec = Spec { iommu, memory_mib: 256, typed: true, ..Spec::bare(&["disk"], &[guest]) };
    let machine = bed.start("foreign-mapping", &spec)?;
    machine.wait_guest("ioload t=", 30)?;
    let api = machine.wait_api(30)?;
    let device = Owned::of(&machine, "disk", 0)?;
    let (before, registers) = (Structures::read(&machine)?, Registers::read(machine.qmp()?)?);
    let table = before.find(&format!("level 3 of device {:#06x}", device.id))?.base;
    let place = table + LAST * 8;
    ensure!(machine.memory(place, 8)? == [0; 8], "the last entry is in use");
    let write = |entry: u64| {
        let bus = machine.bus()?;
        bus.write(place + 4, (entry >> 32) as u32)?;
        bus.write(place, entry as u32)
    };
    write(leaf)?;

    let image = fs::read(paths::image("baton-next1")).context("./x image --all builds it")?;
    let bytes = image.len() as u64;
    let planned = api.plan(&mut image.as_slice(), bytes)?.plan;
    let reason = planned.objects.iter().map(|object| object.reason.as_str()).find(|reason| !reason.is_empty());
    let reason = reason.with_context(|| format!("{planned:?}"))?.to_owned();
    let ranges = [(FOREIGN, FOREIGN + GIB), (LAST * GIB, (LAST + 1) * GIB)];
    let ranges = ranges.map(|(from, to)| format!("{from:#x}..{to:#x}"));
    let words = ["guest disk", device.name.as_str(), &ranges[0], &ranges[1], "power the guest off"];
    ensure!(!planned.ok && words.iter().all(|word| reason.contains(word)), "{planned:?}");
    let accepted = upgrade::send(&api, &mut image.as_slice(), bytes)?;
    let report = upgrade::wait(&api, accepted.id, Duration::from_secs(120), &mut |_| ())?;
    ensure!(report.outcome == "refused" && reason.starts_with(&report.reason) && report.pause_ticks == 0, "{report:?}");

    write(0)?;
    // Nothing is frozen, nothing has moved; the guest works on, and the upgrade goes through.
    ensure!(Registers::read(machine.qmp()?)? == registers, "registers of the unit have changed");
    let report = upgrades::perform(&machine, "baton-next1")?;
    ensure!(report.outcome == "committed" && report.iommu_faults == 0, "{report:?}");
    let lines = samples(&machine.guest).len();
    let more = || Some(samples(&machine.guest)).filter(|now| now.len() >= lines + 2);
    let now = wait_for("further lines of the guest", Duration::from_secs(30), || machine.healthy(), more)?;
    let wrong = complaints(&now);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
