//! Guests without devices on the other emulator: VMX, and SVM by another hand (docs/bochs.md).

use anyhow::{Context, Result, ensure};

use super::Bed;
use crate::bochs::{Machine, Spec};
use crate::config::Guest;
use crate::paths;

/// Beats that the small guest has to tell of in each image: it works its processor in each.
const BEATS: usize = 10;
/// The images that the first one is upgraded to.
const IMAGES: [&str; 2] = ["baton-next1", "baton-next2"];
/// Signs of life of the Linux guest in each image, four a second.
const SIGNS: usize = 8;

/// Waits until the guest has said `word` at the begin of `count` more lines.
fn wait_more(machine: &Machine, word: &str, count: usize, seconds: u64) -> Result<()> {
    let said = || machine.guest.lines().iter().filter(|line| line.starts_with(word)).count();
    let due = said() + count;
    machine.wait(&format!("{due} lines {word:?} of the guest"), seconds, || (said() >= due).then_some(()))
}

/// Has the machine upgraded by Baton's console, again and again; after each time the guest says `word`.
fn upgrades(machine: &Machine, images: &[&str], word: &str, count: usize, seconds: u64) -> Result<()> {
    for (sequence, image) in (1..).zip(images) {
        machine.command(&format!("upgrade {image}.img"))?;
        machine.wait_baton(&format!("upgrade {sequence}: generation {sequence} runs"), seconds)?;
        wait_more(machine, word, count, seconds)?;
    }
    machine.healthy()
}

/// Fails unless guests run by `extension`.
fn extension(machine: &Machine, extension: &str) -> Result<()> {
    let line = machine.wait_baton("guests run by ", 60)?;
    ensure!(line.contains(extension), "not the extension that this is about: {line}");
    Ok(())
}

/// The small guest on `model`, and upgrades under it.
fn small(bed: &mut Bed, name: &str, model: &'static str, by: &str) -> Result<()> {
    let guest = Guest { pcpu: 0, ..Guest::bare("small", "beat", &[]) };
    // Real mode is where the two extensions differ most.
    let sector =
        Guest { pcpu: 0, kernel: "sector.bin".into(), console: "com1".into(), ..Guest::bare("sector", "", &[]) };
    let files = [paths::bare_guest("beat"), paths::legacy_guest("sector.bin")];
    let machine = bed.start_bochs(name, &Spec::new(model, 256, &files, &[guest, sector], &IMAGES))?;
    extension(&machine, by)?;
    wait_more(&machine, "beat ", BEATS, 60)?;
    machine.wait_baton("sector: sector: map entries 4, usable 1703936", 60)?;
    upgrades(&machine, &IMAGES, "beat ", BEATS, 120)?;
    let lives = || machine.baton.lines().iter().filter(|line| line.contains("sector: sector: lives ")).count();
    let due = lives() + 1;
    machine.wait("a further sign of the guest in real mode", 60, || (lives() >= due).then_some(()))
}

/// SVM as Bochs has it.
pub fn svm(bed: &mut Bed) -> Result<()> {
    small(bed, "bochs-svm", "ryzen", "SVM")
}

/// VMX.
pub fn vmx(bed: &mut Bed) -> Result<()> {
    small(bed, "bochs-vmx", "corei7_haswell_4770", "VMX")
}

/// Linux on VMX.
pub fn linux(bed: &mut Bed) -> Result<()> {
    linux_on(bed, "bochs-linux", "corei7_haswell_4770", "VMX")
}

/// Linux on Bochs's SVM.
pub fn linux_svm(bed: &mut Bed) -> Result<()> {
    linux_on(bed, "bochs-linux-svm", "ryzen", "SVM")
}

fn linux_on(bed: &mut Bed, name: &str, model: &'static str, by: &str) -> Result<()> {
    let guest = Guest {
        name: "debian".into(),
        memory_mib: 256,
        pcpu: 0,
        kernel: "vmlinuz".into(),
        initrd: Some("initrd.cpio".into()),
        command_line: "console=ttyS0 panic=-1 mode=idle".into(),
        ..Guest::bare("debian", "", &[])
    };
    let files = [paths::kernel(), paths::initrd()];
    let machine = bed.start_bochs(name, &Spec::new(model, 512, &files, &[guest], &IMAGES[..1]))?;
    extension(&machine, by)?;
    let up = machine.wait_guest("guest: up ", 240)?;
    ensure!(up.contains(" linux 6.1."), "not the Debian kernel: {up}");
    upgrades(&machine, &IMAGES[..1], "ioload t=", SIGNS, 120)?;
    let last = machine.guest.lines().into_iter().rev().find(|line| line.starts_with("ioload ")).context("no line")?;
    ensure!(last.contains(" clock_back=0 "), "the guest's clock went back: {last}");
    Ok(())
}
