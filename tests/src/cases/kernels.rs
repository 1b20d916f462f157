//! Debian's kernels of three ages, unmodified, on two virtual CPUs.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::{Bed, upgrade};
use crate::config::{self, Guest};
use crate::guest_log::{complaints, samples};
use crate::paths;
use crate::spec::Spec;

/// What kernels may warn of: a guest's processors have one frequency, and no table that says otherwise.
const EXPECTED: [&str; 1] = ["amd_pstate: the _CPC object is not present"];

/// A kernel: its file, and what its release begins with.
type Kernel = (PathBuf, &'static str);

/// Boots each on two virtual CPUs, to verified I/O on its disk, and upgrades Baton under it.
pub fn run(bed: &mut Bed) -> Result<()> {
    let kernels: [Kernel; 3] =
        [(paths::kernel(), "6.1."), (paths::backports_kernel(), "6.12."), (paths::newest_kernel(), "")];
    kernels.into_iter().try_for_each(|kernel| one(bed, &kernel).with_context(|| kernel.0.display().to_string()))
}

fn one(bed: &mut Bed, (file, release): &Kernel) -> Result<()> {
    let name = file.file_name().and_then(|name| name.to_str()).context("a kernel without a name")?;
    let guest = Guest {
        kernel: name.into(),
        initrd: Some("initrd.cpio".into()),
        memory_mib: 512,
        command_line: "console=ttyS0 panic=-1 mode=load".into(),
        ..Guest::bare("debian", "", &["1b36:0010"]).on(&[1, 2])
    };
    let modules = vec![file.clone(), paths::initrd()];
    let texts = vec![("baton.toml".into(), config::toml(&[guest]))];
    let machine = bed.start("kernels", &Spec { modules, texts, cpus: 3, ..Spec::default() })?;
    let up = machine.wait_guest("guest: up ", 180)?;
    ensure!(up.contains(&format!(" linux {release}")), "not the kernel that this is about: {up}");
    machine.wait_guest("guest: disk ", 60)?;
    machine.wait_guest("ioload t=", 60)?;
    let cpus = machine.wait_guest("guest: cpus ", 1)?;
    ensure!(cpus == "guest: cpus 2", "not all virtual CPUs came up: {cpus}");
    // SETUP_RNG_SEED.
    machine.wait_guest("guest: setup data 0x9", 1)?;
    // ACPI, PCI, CPUID, clocks: a platform that is in order leaves the kernel nothing to warn of.
    let unexpected =
        |line: &String| line.contains("kernel warns: ") && !EXPECTED.iter().any(|expected| line.contains(expected));
    let warnings: Vec<_> = machine.guest.lines().into_iter().filter(unexpected).collect();
    ensure!(warnings.is_empty(), "{}", warnings.join("\n"));
    upgrade::to(&machine, "baton-next1")?;
    let wrong = complaints(&samples(&machine.guest));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
