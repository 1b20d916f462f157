//! What happens, in order.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use baton_tests::machine::Machine;
use baton_tests::outside::Trace;
use baton_tests::spec::{Boot, Spec};
use baton_tests::witness::{self, Check, Watched, Witness};
use baton_tests::{guest_log, images, paths};
use batonctl::api;
use batonctl::client::Client;
use indicatif::{ProgressBar, ProgressStyle};

use super::report::{self, Report};
use crate::{image, tool};

/// What the story gave.
pub struct Demo {
    /// For programs.
    pub report: Report,
    /// Every check with what was seen.
    pub checks: Vec<Check>,
    /// TSC ticks per millisecond, as Baton measured them.
    pub tsc_khz: u64,
}

/// Shows one step while it is done, and a line when it has been.
fn step<T>(name: &str, work: impl FnOnce(&ProgressBar) -> Result<T>) -> Result<T> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {prefix} {elapsed} {msg:.dim}")?);
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    let start = Instant::now();
    let result = work(&bar);
    bar.finish_and_clear();
    let mark = if result.is_ok() { "done" } else { "FAILED" };
    println!("{mark:<6} {name} ({:.1} s)", start.elapsed().as_secs_f32());
    result
}

/// Tells it. An error means that the story could not go on; checks that did not hold are in the result.
pub fn tell() -> Result<Demo> {
    let batonctl = step("build the images, the guest and batonctl", |_| {
        image::build_with_guest()?;
        tool::run(tool::cargo().args(["build", "--quiet", "--package", "batonctl"]))?;
        Ok(batonctl_path())
    })?;
    let directory = paths::target("runs/demo");
    let machine = step("power on", |_| Machine::start(&Spec { boot: Boot::Ipxe, ..Spec::default() }, &directory))?;
    go_on(&machine, &batonctl).with_context(|| {
        format!(
            "Baton's last words:\n{}\nthe guest's:\n{}\nall in {}",
            machine.baton.tail(15),
            machine.guest.tail(10),
            directory.display()
        )
    })
}

/// Where cargo puts it: beside this program.
fn batonctl_path() -> PathBuf {
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join("batonctl")));
    beside.unwrap_or_else(|| paths::target("debug/batonctl"))
}

fn go_on(machine: &Machine, batonctl: &Path) -> Result<Demo> {
    step("network boot by the NIC's ROM and TFTP", |_| machine.wait_baton("baton", 60))?;
    let up = step("Linux reaches user space", |_| machine.wait_guest("guest: up ", 120))?;
    let disk = step("the guest works on its disk", |_| {
        machine.wait_guest("ioload t=", 60)?;
        machine.wait_guest("guest: disk ", 1)
    })?;
    let api = machine.wait_api(60)?;
    let (status, guests) = (api.status()?, api.guests()?);
    let guest = guests.guests.first().context("Baton knows no guest")?;
    let mut demo = Demo { report: Report::default(), checks: Vec::new(), tsc_khz: status.tsc_khz };
    demo.report.boot = report::Boot { via: status.boot.via.clone(), ticks_to_guest: status.boot.ticks_to_guest };
    demo.report.guest = report::Guest { kernel: word_after(&up, "linux"), memory_mib: guest.memory_mib };
    demo.report.device =
        report::Device { bdf: guest.devices.first().cloned().unwrap_or_default(), driver: word_after(&disk, "driver") };
    demo.check("booted over the network", status.boot.via == "ipxe", || status.boot.via.clone());
    demo.check("the guest's driver is the stock one", demo.report.device.driver == "nvme", || disk.clone());

    let boot_trace = Trace::read(&machine.trace);
    demo.check(
        "translation and remapping were switched on once",
        (boot_trace.translation, boot_trace.remapping) == ((1, 0), (1, 0)),
        || format!("{boot_trace:?}"),
    );
    for (number, variant) in image::NEXT.iter().enumerate() {
        let name = format!("upgrade {} under I/O", number + 1);
        step(&name, |bar| demo.upgrade(machine, batonctl, variant.name, number + 1, bar))?;
    }
    let good = fs::read(paths::image(image::NEXT[0].name))?;
    for wrong in [images::flipped(&good)?, images::from_the_future(&good)?] {
        step(&format!("an image with {} is refused", wrong.name), |_| demo.refused(machine, batonctl, &wrong))?;
    }
    demo.end(machine, &api)?;
    Ok(demo)
}

/// The word behind another one.
fn word_after(line: &str, word: &str) -> String {
    let mut words = line.split_whitespace().skip_while(|found| *found != word);
    words.nth(1).unwrap_or_default().to_owned()
}

fn send(machine: &Machine, batonctl: &Path, image: &Path) -> Result<Output> {
    let host = machine.host();
    tool::output(Command::new(batonctl).args(["--json", "--host", &host, "upgrade"]).arg(image))
}

impl Demo {
    fn check(&mut self, name: impl Into<String>, ok: bool, seen: impl FnOnce() -> String) {
        self.checks.push(Check::new(name, ok, seen));
    }

    /// Takes checks over, with what they are about.
    fn take(&mut self, about: &str, checks: &[Check]) {
        self.checks
            .extend(checks.iter().map(|check| Check { name: format!("{about}: {}", check.name), ..check.clone() }));
    }

    fn upgrade(
        &mut self,
        machine: &Machine,
        batonctl: &Path,
        name: &str,
        number: usize,
        bar: &ProgressBar,
    ) -> Result<()> {
        bar.set_message("watching");
        let watch = Witness::begin(machine)?;
        bar.set_message("batonctl upgrade");
        let output = send(machine, batonctl, &paths::image(name))?;
        let printed =
            || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let report: api::Report = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("batonctl upgrade gave no report: {}", printed()))?;
        bar.set_message("comparing");
        let watched = watch.end()?;
        let about = format!("upgrade {number}");
        self.take(&about, &witness::committed(&watched, &report));
        self.take(&about, &watched.checks);
        self.check(format!("{about}: batonctl says so"), output.status.success(), printed);
        self.report.upgrades.push((&report).into());
        // An upgrade that did not happen leaves nothing for the next one to show.
        ensure!(report.outcome == "committed", "the upgrade to {name} was {}: {}", report.outcome, report.reason);
        Ok(())
    }

    fn refused(&mut self, machine: &Machine, batonctl: &Path, wrong: &images::Wrong) -> Result<()> {
        let file = paths::target("runs/demo/wrong.img");
        fs::write(&file, &wrong.bytes)?;
        let watch = Witness::begin(machine)?;
        let output = send(machine, batonctl, &file)?;
        let watched: Watched = watch.end()?;
        let about = wrong.name;
        self.take(about, &watched.checks);
        self.take(about, &witness::unchanged(&watched));
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let refused = output.status.code() == Some(1) && said.contains(wrong.reason);
        self.check(format!("{about}: refused with the reason"), refused, || said.clone());
        let last = machine.api().upgrade()?.last;
        let report = last.filter(|report| report.outcome == "refused");
        self.check(
            format!("{about}: no guest paused"),
            report.as_ref().is_some_and(|report| report.pause_ticks == 0),
            || format!("{report:?}"),
        );
        self.report.upgrades.extend(report.as_ref().map(report::Upgrade::from));
        Ok(())
    }

    fn end(&mut self, machine: &Machine, api: &Client) -> Result<()> {
        let samples = guest_log::samples(&machine.guest);
        let wrong = guest_log::complaints(&samples);
        let last = samples.last().context("the guest has reported nothing")?;
        self.report.io = report::Io {
            ops: last.ops,
            bytes: last.bytes,
            errors: last.errors + last.nvme_errors,
            checksum_mismatches: last.mismatches,
            max_gap_ms: samples.iter().map(|line| line.max_gap_us).max().unwrap_or(0) as f64 / 1000.0,
        };
        self.check("the guest's whole log is without gap and without error", wrong.is_empty(), || wrong.join("; "));
        let status = api.status()?;
        self.check("generation 3 runs", status.generation == 3, || status.generation.to_string());
        let trace = Trace::read(&machine.trace);
        self.check("no fault since power-on", trace.faults.is_empty(), || trace.faults.join("; "));
        self.check("translation was never switched off", trace.translation.1 == 0, || format!("{trace:?}"));
        let committed = self.report.upgrades.iter().filter(|upgrade| upgrade.outcome == "committed").count();
        self.check("three upgrades were committed", committed == 3, || committed.to_string());
        self.report.checks =
            self.checks.iter().map(|check| report::Check { name: check.name.clone(), ok: check.ok }).collect();
        self.report.ok = self.checks.iter().all(|check| check.ok);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::word_after;

    #[test]
    fn words_of_the_guest_are_found() {
        assert_eq!(word_after("guest: up 1.20 linux 6.1.0-56-cloud-amd64", "linux"), "6.1.0-56-cloud-amd64");
        assert_eq!(word_after("guest: no disk", "driver"), "");
    }
}
