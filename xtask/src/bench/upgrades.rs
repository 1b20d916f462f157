//! Upgrades: how long guests stand still, what that grows with, and what a rollback costs.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use baton_tests::config::{Config, Guest};
use baton_tests::log::wait_for;
use baton_tests::machine::Machine;
use baton_tests::spec::{Device, Spec};
use baton_tests::{guest_log, images, paths};
use batonctl::api::Report;
use batonctl::client::Client;
use batonctl::show::PHASES;
use batonctl::upgrade;

use super::{Figure, TICKS, plot};
use crate::image;

/// Linux in the same emulator, from the table of baselines.
mod baseline {
    /// kexec to user space with 1 GiB preserved, then retrieving it: 2,693 + 361 million.
    pub const PAUSE_1G: u64 = 3_054_000_000;
    /// Without guest memory 2,190 million, 860 million more per GiB.
    pub const PAUSE_4G: u64 = 2_190_000_000 + 4 * PER_GIB;
    pub const PER_GIB: u64 = 860_000_000;
}

/// What Baton must not exceed, from the same table and the issue on upgrades.
mod aim {
    pub const PAUSE: u64 = 100_000;
    /// Per further device or virtual CPU.
    pub const FURTHER: u64 = 2_000;
    pub const ROLLBACK: u64 = 1_000_000;
    /// 20 ms of guest time.
    pub const GAP: u64 = 20_000_000;
}

/// Guests' memory, in GiB, for which the pause must be the same ...
const MEMORY_GIB: [u32; 3] = [1, 4, 8];
/// ... within so many thousandths.
const SAME_PERMILLE: u64 = 20;

/// How long an upgrade, or an answer, may take on a busy host.
const PATIENCE: Duration = Duration::from_secs(600);

/// A plot's file name and text.
type Plot = (String, String);

/// All figures of upgrades, and their plots.
pub fn measure() -> Result<(Vec<Figure>, Vec<Plot>)> {
    image::build_fault()?;
    // What is quick comes first.
    let (mut figures, mut plots) = (vec![rollback()?, gap()?], Vec::new());
    let growth = growth()?;
    plots.push(growth.plot);
    figures.extend(growth.figures);
    let mut linux_pause = 0;
    for (name, gib, baseline) in [("upgrade.pause", 1, baseline::PAUSE_1G), ("upgrade.pause_4g", 4, baseline::PAUSE_4G)]
    {
        let config = Config { memory_mib: gib * 1024, ..linux() };
        let report = committed(name, &super::spec_of(&config))?;
        figures.push(Figure::new(name, report.pause_ticks, TICKS, baseline).aim(aim::PAUSE));
        if gib == 1 {
            linux_pause = report.pause_ticks;
        }
        let phases = PHASES.iter().filter_map(|phase| Some(((*phase).to_owned(), *report.phases.get(*phase)?)));
        let title = format!("Phases of an upgrade, guest of {gib} GiB");
        plots.push((format!("{name}.svg"), plot::bars(&title, TICKS, &phases.collect::<Vec<_>>())));
    }
    // A second virtual CPU that works takes a Linux; both share the machine's one CPU.
    let config = Config { vcpus: 2, memory_mib: 1024, ..linux() };
    let further = committed("upgrade.vcpus_2", &super::spec_of(&config))?.pause_ticks.saturating_sub(linux_pause);
    figures.push(Figure::new("upgrade.growth_vcpu", further, TICKS, aim::FURTHER).aim(aim::FURTHER));
    Ok((figures, plots))
}

fn linux() -> Config {
    Config { pcpu: 0, ..Config::default() }
}

/// An upgrade of this machine, once its guest works, to the next image.
fn committed(name: &str, spec: &Spec) -> Result<Report> {
    let image = fs::read(paths::image(image::NEXT[0].name))?;
    let report = performed(name, spec, &image)?;
    ensure!(report.outcome == "committed", "{name}: {}: {}", report.outcome, report.reason);
    Ok(report)
}

fn performed(name: &str, spec: &Spec, image: &[u8]) -> Result<Report> {
    eprintln!("x: {name}");
    let machine = Machine::start(spec, &paths::target("runs").join(format!("bench-{name}")))?;
    machine.wait_guest("ioload t=", 600).with_context(|| name.to_owned())?;
    let api = patient(&machine)?;
    let accepted = upgrade::send(&api, &mut { image }, image.len() as u64)?;
    let report = upgrade::wait(&api, accepted.id, PATIENCE, &mut |_| ())?;
    eprintln!("x: {name}: {} ticks", report.pause_ticks);
    Ok(report)
}

/// Baton's API. An emulator that counts instructions can take long to answer.
fn patient(machine: &Machine) -> Result<Client> {
    machine.wait_api(120)?;
    Ok(Client::within(&machine.host(), PATIENCE))
}

/// What the pause grows with.
struct Growth {
    figures: Vec<Figure>,
    plot: Plot,
}

/// A guest of our own that works on its disks, on the CPU that Baton has as well.
fn worker(memory_mib: u32, devices: &[&str]) -> Guest {
    Guest { memory_mib, pcpu: 0, ..Guest::bare("disk", "disk", devices) }
}

const DISKS: [&str; 2] = ["03:00.0", "04:00.0"];

fn bare(guest: &Guest) -> Spec {
    Spec {
        devices: vec![Device::DISK; guest.devices.len()],
        memory_mib: super::machine_mib(guest.memory_mib),
        cpus: 1,
        deterministic: true,
        ..Spec::bare(&["disk"], std::slice::from_ref(guest))
    }
}

fn growth() -> Result<Growth> {
    let (one, two) = (&DISKS[..1], &DISKS[..]);
    let mut figures = Vec::new();
    let mut pauses: Vec<(u64, u64)> = Vec::new();
    for gib in MEMORY_GIB {
        let guest = worker(gib * 1024, one);
        pauses.push((gib.into(), committed(&format!("upgrade.memory_{gib}g"), &bare(&guest))?.pause_ticks));
    }
    let plot = ("upgrade.growth.svg".into(), plot::line("Pause by the guest's memory", "GiB", TICKS, &pauses));
    let all = || pauses.iter().map(|(_, ticks)| *ticks);
    let (base, most) = (all().next().unwrap_or(0), all().max().unwrap_or(0));
    let spread = most - all().min().unwrap_or(0);
    let same = base * SAME_PERMILLE / 1000;
    figures.push(Figure::new("upgrade.growth_memory", spread, TICKS, 7 * baseline::PER_GIB).aim(same));

    let small = Guest { page_size: Some("4k"), ..worker(1024, one) };
    let ticks = committed("upgrade.pages_4k", &bare(&small))?.pause_ticks;
    figures.push(Figure::new("upgrade.growth_4k", ticks.abs_diff(base), TICKS, baseline::PER_GIB).aim(same));

    let ticks = committed("upgrade.devices_2", &bare(&worker(1024, two)))?.pause_ticks;
    figures
        .push(Figure::new("upgrade.growth_device", ticks.saturating_sub(base), TICKS, aim::FURTHER).aim(aim::FURTHER));
    Ok(Growth { figures, plot })
}

/// A panic just before COMMIT: the longest way there and back.
fn rollback() -> Result<Figure> {
    const PANIC: u8 = 1;
    const BEFORE_COMMIT: u8 = 4;
    let mut image = fs::read(paths::image("baton-fault"))?;
    images::set_fault(&mut image, PANIC, BEFORE_COMMIT)?;
    let report = performed("upgrade.rollback_pause", &bare(&worker(1024, &DISKS[..1])), &image)?;
    ensure!(report.outcome == "rolled_back" && report.reason.contains("a planted panic"), "{report:?}");
    Ok(Figure::new("upgrade.rollback_pause", report.pause_ticks, TICKS, aim::ROLLBACK).aim(aim::ROLLBACK))
}

/// The longest that a guest which never sleeps did not run, on the one CPU that it shares with PLAN, WARM, the pause and RETIRE: from
/// when the image was accepted to the next image's report.
fn gap() -> Result<Figure> {
    const NAME: &str = "upgrade.warm_gap";
    eprintln!("x: {NAME}");
    let guest = Guest { pcpu: 0, ..Guest::bare("watch", "watch", &[]) };
    let spec =
        Spec { cpus: 1, deterministic: true, memory_mib: 256, devices: vec![], ..Spec::bare(&["watch"], &[guest]) };
    let machine = Machine::start(&spec, &paths::target("runs").join(format!("bench-{NAME}")))?;
    let api = patient(&machine)?;
    let looks = || guest_log::looks(&machine.guest);
    let further = |than: usize| {
        let more = || Some(looks().len()).filter(|now| *now >= than + 2);
        wait_for("further line of the guest that watches", Duration::from_secs(120), || machine.healthy(), more)
    };
    further(0)?;
    let image = fs::read(paths::image(image::NEXT[0].name))?;
    let accepted = upgrade::send(&api, &mut image.as_slice(), image.len() as u64)?;
    // The line that comes next may still tell of STAGE. Before WARM there is the grace after PLAN, five lines long.
    let before = looks().len() + 1;
    let report = upgrade::wait(&api, accepted.id, PATIENCE, &mut |_| ())?;
    ensure!(report.outcome == "committed", "{report:?}");
    further(looks().len())?;
    let longest = looks().iter().skip(before).map(|look| look.longest).max().unwrap_or(0);
    ensure!(longest > report.pause_ticks, "the guest did not even see the pause: {longest}");
    eprintln!("x: {NAME}: {longest} ticks");
    Ok(Figure::new(NAME, longest, TICKS, aim::GAP).aim(aim::GAP))
}
