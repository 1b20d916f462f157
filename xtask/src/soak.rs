//! The long soak: a progress bar, a report that is written after every upgrade, and a way to go on from it.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use baton_tests::machine::Machine;
use baton_tests::paths;
use baton_tests::soak::{self, Report};
use baton_tests::wire::Wire;
use batonctl::show::grouped;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use crate::image;

/// How many, and which.
#[derive(Args)]
pub struct Orders {
    /// Committed upgrades.
    #[arg(long, default_value_t = 1000)]
    upgrades: u32,
    /// What the dice begin with: the same seed does the same. Without it, the time.
    #[arg(long)]
    seed: Option<u64>,
    /// Goes on where target/reports/soak.json ends, on a new machine.
    #[arg(long, conflicts_with_all = ["seed", "upgrades"])]
    resume: bool,
    /// Takes images and guests as they were built last.
    #[arg(long)]
    no_build: bool,
}

/// Whether every upgrade was committed, everything else ended as it must, nothing leaked, and nobody else noticed.
pub fn run(orders: &Orders) -> Result<bool> {
    let path = paths::target("reports/soak.json");
    let mut report = if orders.resume { read(&path)? } else { begin(orders) };
    if !orders.no_build {
        image::build_with_guest()?;
        image::build_fault()?;
    }
    println!("seed {}: ./x soak --upgrades {} --seed {} repeats it", report.seed, report.upgrades, report.seed);
    let wire = Wire::start()?;
    let machine = Machine::start(&soak::spec(&wire), &paths::target("runs/soak-long"))?;
    let bar = ProgressBar::new(report.upgrades.into()).with_position(report.committed.into());
    bar.set_style(ProgressStyle::with_template("{bar:32} {pos}/{len} upgrades, {elapsed} (left: {eta}) {msg}")?);
    bar.enable_steady_tick(Duration::from_secs(1));
    let mut written = Ok(());
    let result = soak::run(&machine, &mut report, &mut |report| {
        bar.set_position(report.committed.into());
        bar.set_message(format!("longest pause {} ticks", grouped(report.pause_ticks.longest)));
        written = write(&path, report);
    });
    bar.finish_and_clear();
    written?;
    print!("{}", text(&report));
    result.map(|()| true).with_context(|| format!("logs in target/runs/soak-long, report in {}", path.display()))
}

fn begin(orders: &Orders) -> Report {
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Report { seed: orders.seed.unwrap_or_else(now), upgrades: orders.upgrades, ..Report::default() }
}

fn read(path: &Path) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("{}: there is nothing to resume", path.display()))?;
    let report: Report =
        serde_json::from_str(&text).with_context(|| format!("{} is no report of a soak", path.display()))?;
    ensure!(report.committed < report.upgrades, "all {} upgrades are done: start a new soak", report.upgrades);
    Ok(report)
}

/// A report is whole whenever it is looked at.
fn write(path: &Path, report: &Report) -> Result<()> {
    let fresh = path.with_extension("new");
    fs::create_dir_all(path.parent().context("a file in a directory")?)?;
    fs::write(&fresh, serde_json::to_string_pretty(report)?)?;
    Ok(fs::rename(&fresh, path)?)
}

/// For people.
fn text(report: &Report) -> String {
    let counts = |counts: &std::collections::BTreeMap<String, u32>| {
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    let (pause, back) = (&report.pause_ticks, &report.rollback_pause_ticks);
    format!(
        "{} of {} upgrades in {} s on {} machines\n  done: {}\n  ended: {}\n  pause in ticks: median {}, 99 % {}, longest {}\n  \
         rolled back, pause: median {}, longest {}\n  interrupts: {} pending, {} delivered\n  \
         disk I/Os verified: {}, frames returned: {}\n",
        report.committed,
        report.upgrades,
        report.seconds,
        report.boots,
        counts(&report.acts),
        counts(&report.outcomes),
        grouped(pause.median),
        grouped(pause.percent_99),
        grouped(pause.longest),
        grouped(back.median),
        grouped(back.longest),
        report.interrupts_pending,
        report.interrupts_delivered,
        grouped(report.guests.disk_ops),
        grouped(report.guests.frames),
    )
}
