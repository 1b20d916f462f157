//! What translation costs a disk's DMA: a guest's NVMe throughput under Baton, against the same kernel, program and disk on the
//! same machine without Baton and without an IOMMU.
//!
//! QEMU completes disk I/O in host time, whatever a guest's clock says: under `-icount` a faster disk path is no shorter, so the only
//! figure is one in wall-clock time, and it does not repeat to the digit. What makes it fair: both machines are up, one of them stands
//! still while the other is measured, and they take turns in short windows, so that whatever else the host does meets both.
//! The figure is the median of the windows' ratios, and their quartiles are told beside it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_tests::config::Config;
use baton_tests::log::wait_for;
use baton_tests::machine::Machine;
use baton_tests::paths;
use baton_tests::spec::{Boot, Spec};
use serde_json::{Value, json};

use super::{Figure, PERMILLE};

/// Pairs of windows.
const PAIRS: usize = 31;
/// A window, and how long a machine runs before it: the emulator has code to find again.
const WINDOW: Duration = Duration::from_millis(400);
const LEAD: Duration = Duration::from_millis(100);
/// How long booting may take on a busy machine, in seconds.
const BOOT_SECONDS: u64 = 900;
/// What `ioload read` says when its threads have begun.
const READS: &str = "ioload reads";

/// Measures in turns.
pub fn measure() -> Result<Figure> {
    let with = translated()?;
    pause(&with)?;
    let without = plain()?;
    pause(&without)?;
    let mut ratios = Vec::with_capacity(PAIRS);
    for pair in 0..PAIRS {
        // The first of a pair has the advantage or disadvantage of being first by turns.
        let (one, other) = if pair % 2 == 0 { (&with, &without) } else { (&without, &with) };
        let (first, second) = (window(one)?, window(other)?);
        ratios.push(if pair % 2 == 0 { first / second } else { second / first });
    }
    ratios.sort_by(f64::total_cmp);
    let at = |quarter: usize| permille(ratios[(PAIRS - 1) * quarter / 4]);
    let figure = Figure::new("io.nvme_ratio", at(2), PERMILLE, 1000);
    Ok(figure.spread(at(1), at(3)))
}

fn permille(ratio: f64) -> u64 {
    (ratio * 1000.0).round() as u64
}

/// Baton and its guest; translation is on, or Baton would not have given the disk away.
fn translated() -> Result<Machine> {
    let config = Config { mode: "read".into(), ..Config::default() };
    let spec = Spec { texts: vec![("baton.toml".into(), config.to_string())], ..Spec::default() };
    let machine = Machine::start(&spec, &paths::target("runs").join("bench-translated"))?;
    machine.wait_guest(READS, BOOT_SECONDS)?;
    let iommu = machine.wait_api(BOOT_SECONDS)?.iommu()?;
    ensure!(iommu.units.iter().any(|unit| unit.translation_enabled), "translation is off: {:?}", iommu.units);
    Ok(machine)
}

/// The guest's kernel on the machine itself.
fn plain() -> Result<Machine> {
    let config = Config::default();
    let spec = Spec {
        image: paths::kernel(),
        modules: vec![paths::initrd()],
        texts: Vec::new(),
        boot: Boot::Linux("console=ttyS0 panic=-1 mode=read".into()),
        memory_mib: config.memory_mib,
        // As the guest has.
        cpus: 1,
        iommu: None,
        ..Spec::default()
    };
    let machine = Machine::start(&spec, &paths::target("runs").join("bench-plain"))?;
    // Without Baton the machine's first port is the kernel's.
    let console = &machine.baton;
    let what = "reading guest on the machine without Baton";
    wait_for(what, Duration::from_secs(BOOT_SECONDS), || machine.alive(), || console.find(READS))?;
    Ok(machine)
}

fn pause(machine: &Machine) -> Result<()> {
    machine.qmp()?.execute("stop", &json!({}))?;
    Ok(())
}

/// Lets a machine run for a while; bytes per second that its disk moved.
fn window(machine: &Machine) -> Result<f64> {
    machine.qmp()?.execute("cont", &json!({}))?;
    thread::sleep(LEAD);
    let (before, start) = (read_bytes(machine)?, Instant::now());
    thread::sleep(WINDOW);
    let (after, seconds) = (read_bytes(machine)?, start.elapsed().as_secs_f64());
    pause(machine)?;
    let bytes = after.saturating_sub(before);
    ensure!(bytes > 0, "a machine moved nothing in {seconds:.1} s: the host is too busy to measure");
    Ok(bytes as f64 / seconds)
}

/// Bytes that the guest has read from its disk.
fn read_bytes(machine: &Machine) -> Result<u64> {
    let answer = machine.qmp()?.execute("query-blockstats", &json!({}))?;
    let drives = answer.as_array().context("QEMU tells no block statistics")?;
    let read = drives.iter().filter_map(|drive| drive.pointer("/stats/rd_bytes").and_then(Value::as_u64)).max();
    read.context("QEMU tells no bytes of the disk")
}
