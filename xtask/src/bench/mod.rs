//! Measurements: QEMU counts instructions as time, one CPU, so a tick is an instruction and runs repeat.
//!
//! - `iommu`: the IOMMU driver, in the emulator and on the host
//! - `throughput`: a disk's DMA with and without translation; the only one in wall-clock time, so with its spread
//! - `upgrades`: the pause, what it grows with, and what a rollback takes
//! - `plot`: the pause as SVG

use std::fs;

use anyhow::{Context, Result, ensure};
use baton_tests::config::{Config, Guest};
use baton_tests::machine::Machine;
use baton_tests::paths;
use baton_tests::spec::Spec;
use batonctl::show::{grouped, table};
use clap::ValueEnum;
use serde::Serialize;

use crate::image;

mod iommu;
mod plot;
mod throughput;
mod upgrades;

const TICKS: &str = "ticks";
const BYTES: &str = "bytes";
const INSTRUCTIONS: &str = "instructions";
/// Thousandths of the baseline.
const PERMILLE: &str = "permille";

/// What others reach in the same emulator, from the table of baselines: Linux 7.3-rc7 with KHO and LUO on one CPU.
mod baseline {
    pub const CPUID: u64 = 3_210;
    pub const PORT_READ: u64 = 4_857;
    pub const HYPERCALL: u64 = 9_574;
    /// Program, expire, interrupt in the guest.
    pub const ONE_SHOT: u64 = 12_821;
    /// Of the host kernel to its init; a VMM would have to start yet.
    pub const TO_GUEST: u64 = 1_090_000_000;
    /// The kernel alone; user space and VMM are some 50 MB more.
    pub const IMAGE: u64 = 3_300_000;
    /// Nobody publishes one: the aim, 32 MiB and 0.3 % of the guest's memory.
    pub const fn overhead(guest_bytes: u64) -> u64 {
        (32 << 20) + guest_bytes * 3 / 1000
    }
}

/// What Baton must not exceed, from the same table.
mod aim {
    pub const IMAGE: u64 = 1 << 20;
    pub const CPUID: u64 = 400;
    pub const PORT_READ: u64 = 600;
    pub const HYPERCALL: u64 = 400;
    pub const ONE_SHOT: u64 = 2_000;
    pub const TO_GUEST: u64 = 100_000_000;
}

/// One line of bench.json.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    value: u64,
    unit: &'static str,
    baseline: u64,
    ratio: f64,
    /// What Baton must not exceed, where that is written down.
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<u64>,
    /// The quartiles below and above a value that does not repeat.
    #[serde(skip_serializing_if = "Option::is_none")]
    quartiles: Option<[u64; 2]>,
}

impl Figure {
    fn new(name: &'static str, value: u64, unit: &'static str, baseline: u64) -> Self {
        Self { name, value, unit, baseline, ratio: value as f64 / baseline as f64, aim: None, quartiles: None }
    }

    fn aim(self, aim: u64) -> Self {
        Self { aim: Some(aim), ..self }
    }

    fn spread(self, lower: u64, upper: u64) -> Self {
        Self { quartiles: Some([lower, upper]), ..self }
    }
}

/// What can be measured alone.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The image's size, exits and boot.
    Exits,
    /// The IOMMU driver, in the emulator and on the host.
    Iommu,
    /// Throughput of a passed-through disk.
    Io,
    /// The pause of an upgrade.
    Upgrade,
}

/// Measures and prints; all of it also into target/reports/bench.json.
pub fn run(only: Option<Part>) -> Result<()> {
    if only != Some(Part::Iommu) {
        image::build_with_guest()?;
    }
    let mut figures = Vec::new();
    let wanted = |part| only.is_none_or(|only| only == part);
    if wanted(Part::Exits) {
        eprintln!("x: exits and boot");
        let bytes = fs::metadata(paths::image("baton"))?.len();
        figures.push(Figure::new("image.bytes", bytes, BYTES, baseline::IMAGE).aim(aim::IMAGE));
        figures.extend(exits().context("exits and boot")?);
    }
    if wanted(Part::Iommu) {
        eprintln!("x: the IOMMU driver");
        figures.extend(iommu::measure()?);
    }
    if wanted(Part::Io) {
        eprintln!("x: a disk with and without translation");
        figures.push(throughput::measure().context("a disk with and without translation")?);
    }
    let mut plots = Vec::new();
    if wanted(Part::Upgrade) {
        let (measured, drawn) = upgrades::measure()?;
        figures.extend(measured);
        plots.extend(drawn);
    }
    show(&figures);
    fs::create_dir_all(paths::target("reports"))?;
    for (name, svg) in plots {
        write_report(&name, &svg)?;
    }
    if only.is_none() {
        write_report("bench.json", &(serde_json::to_string_pretty(&figures)? + "\n"))?;
    }
    Ok(())
}

fn write_report(name: &str, content: &str) -> Result<()> {
    let path = paths::target("reports").join(name);
    fs::write(&path, content)?;
    println!("{}", path.display());
    Ok(())
}

fn show(figures: &[Figure]) {
    let rows: Vec<_> = figures
        .iter()
        .map(|figure| {
            vec![
                figure.name.into(),
                grouped(figure.value),
                figure.unit.into(),
                grouped(figure.baseline),
                format!("{:.4}", figure.ratio),
                figure.aim.map_or_else(String::new, grouped),
                figure.quartiles.map_or_else(String::new, |[lower, upper]| format!("{lower} to {upper}")),
            ]
        })
        .collect();
    print!("{}", table(&["FIGURE", "VALUE", "UNIT", "BASELINE", "RATIO", "AIM", "QUARTILES"], &rows));
}

/// A machine with one CPU, which Baton and the guest share.
fn machine(name: &str, guest_mib: u32, mode: &str) -> Result<Machine> {
    Machine::start(&spec(guest_mib, mode), &paths::target("runs").join(format!("bench-{name}")))
}

fn spec(guest_mib: u32, mode: &str) -> Spec {
    spec_of(&Config { memory_mib: guest_mib, pcpu: 0, mode: mode.into(), ..Config::default() })
}

/// More than the guest's: it lies in two pieces, as its own memory does, and q35 cuts at 2 GiB, the guest at 3.
const fn machine_mib(guest_mib: u32) -> u32 {
    guest_mib * 3 / 2 + 256
}

fn spec_of(config: &Config) -> Spec {
    Spec {
        texts: vec![("baton.toml".into(), config.to_string())],
        memory_mib: machine_mib(config.memory_mib),
        cpus: 1,
        deterministic: true,
        ..Spec::default()
    }
}

/// What the guest's line `bench NAME TICKS` says.
fn measured(machine: &Machine, name: &str) -> Result<u64> {
    let line = machine.wait_guest(&format!("bench {name} "), 1)?;
    let ticks = line.split_whitespace().next_back().and_then(|word| word.parse().ok());
    ticks.with_context(|| format!("no figure in {line:?}"))
}

fn exits() -> Result<Vec<Figure>> {
    // What takes kernel mode, a guest of our own measures.
    let guest = Guest { pcpu: 0, ..Guest::bare("exits", "exits", &[]) };
    let spec = Spec { cpus: 1, deterministic: true, memory_mib: 256, ..Spec::bare(&["exits"], &[guest]) };
    let bare = Machine::start(&spec, &paths::target("runs").join("bench-exits-bare"))?;
    bare.wait_guest("bench done", 300)?;
    let machine = machine("exits", 512, "bench")?;
    machine.wait_guest("bench done", 300)?;
    let status = machine.wait_api(120)?.status()?;
    let memory = status.memory;
    ensure!(memory.hypervisor_bytes > 0 && status.boot.ticks_to_guest > 0, "{status:?}");
    Ok(vec![
        Figure::new("exit.cpuid", measured(&machine, "exit.cpuid")?, TICKS, baseline::CPUID).aim(aim::CPUID),
        Figure::new("exit.port_read", measured(&machine, "exit.port_read")?, TICKS, baseline::PORT_READ)
            .aim(aim::PORT_READ),
        Figure::new("exit.hypercall", measured(&bare, "exit.hypercall")?, TICKS, baseline::HYPERCALL)
            .aim(aim::HYPERCALL),
        Figure::new("timer.oneshot", measured(&bare, "timer.oneshot")?, TICKS, baseline::ONE_SHOT).aim(aim::ONE_SHOT),
        Figure::new("boot.to_guest", status.boot.ticks_to_guest, TICKS, baseline::TO_GUEST).aim(aim::TO_GUEST),
        Figure::new("memory.overhead", memory.hypervisor_bytes, BYTES, baseline::overhead(memory.guest_bytes)),
    ])
}
