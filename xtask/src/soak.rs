//! Upgrades under device I/O until one fails, or all have been done.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use baton_tests::machine::Machine;
use baton_tests::paths;
use baton_tests::spec::Spec;
use baton_tests::witness::{self, Witness};
use batonctl::upgrade;
use indicatif::{ProgressBar, ProgressStyle};

use crate::image;

/// Whether every upgrade was committed and nothing else noticed it.
pub fn run(upgrades: u32) -> Result<bool> {
    image::build_with_guest()?;
    let images: Vec<_> = [&image::NEXT[0], &image::NEXT[1]]
        .into_iter()
        .map(|variant| fs::read(paths::image(variant.name)))
        .collect::<Result<_, _>>()?;
    let machine = Machine::start(&Spec::default(), &paths::target("runs/soak"))?;
    machine.wait_guest("ioload t=", 120)?;
    let api = machine.wait_api(30)?;
    let bar = ProgressBar::new(upgrades.into());
    bar.set_style(ProgressStyle::with_template("{bar:32} {pos}/{len} upgrades, {msg}")?);
    let mut pauses = Vec::new();
    for (number, image) in (1..=upgrades).zip(images.iter().cycle()) {
        let once = || -> Result<u64> {
            let watch = Witness::begin(&machine)?;
            let accepted = upgrade::send(&api, &mut image.as_slice(), image.len() as u64)?;
            let report = upgrade::wait(&api, accepted.id, Duration::from_secs(120), &mut |_| ())?;
            let watched = watch.end()?;
            witness::all_hold(&witness::committed(&watched, &report))?;
            witness::all_hold(&watched.checks)?;
            Ok(report.pause_ticks)
        };
        let pause = once().with_context(|| format!("upgrade {number} of {upgrades}; logs in target/runs/soak"))?;
        pauses.push(pause);
        bar.set_message(format!("last pause {pause} ticks"));
        bar.inc(1);
    }
    bar.finish_and_clear();
    pauses.sort_unstable();
    let at = |part: usize| pauses.get(pauses.len().saturating_sub(1) * part / 100).copied().unwrap_or(0);
    println!("{} upgrades, pause in ticks: median {}, 99 % {}, longest {}", pauses.len(), at(50), at(99), at(100));
    Ok(true)
}
