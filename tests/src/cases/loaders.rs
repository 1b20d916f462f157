//! Each way into a guest: what the guest itself finds is right, and it goes on through an upgrade.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bed, upgrade};
use crate::config::{self, Guest};
use crate::log::{Log, wait_for};
use crate::machine::Machine;
use crate::paths;
use crate::spec::Spec;

/// The image that each machine is upgraded to.
const NEXT: &str = "baton-next1";
/// Signs of life that a guest has to give before and after.
const SIGNS: usize = 3;

/// A machine with these guests and files, and no devices for them.
fn spec(guests: &[Guest], files: &[&str], texts: &[(&str, &str)]) -> Spec {
    let mut all = vec![("baton.toml".into(), config::toml(guests))];
    all.extend(texts.iter().map(|(name, text)| ((*name).into(), (*text).into())));
    let modules = files.iter().map(|file| paths::legacy_guest(file)).collect();
    Spec { modules, texts: all, devices: Vec::new(), memory_mib: 768, ..Spec::default() }
}

/// Waits for more lines with `word` in a guest's console, wherever that is.
fn more(machine: &Machine, log: &Log, word: &str) -> Result<()> {
    let said = || log.lines().iter().filter(|line| line.contains(word)).count();
    let due = said() + SIGNS;
    let alive = || {
        machine.healthy()?;
        let failed = [&machine.baton, &machine.guest].into_iter().find_map(|log| log.find("guest failed: "));
        ensure!(failed.is_none(), "{failed:?}");
        let refused = machine.baton.find(" can't start: ");
        ensure!(refused.is_none(), "{refused:?}");
        Ok(())
    };
    wait_for(&format!("{due} lines {word:?}"), Duration::from_secs(60), alive, || (said() >= due).then_some(()))
}

/// An upgrade, with signs of life of each guest before and after it.
fn upgraded(machine: &Machine, guests: &[(&Log, &str)]) -> Result<()> {
    guests.iter().try_for_each(|(log, word)| more(machine, log, word))?;
    let report = upgrade::perform(machine, NEXT)?;
    ensure!(report.outcome == "committed", "{report:?}");
    guests.iter().try_for_each(|(log, word)| more(machine, log, word))
}

/// Fails unless the console has told this.
fn told(log: &Log, line: &str) -> Result<()> {
    ensure!(log.find(line).is_some(), "{line:?} is not on the console:\n{}", log.tail(20));
    Ok(())
}

/// Multiboot, by program headers and by address fields.
pub fn multiboot(bed: &mut Bed) -> Result<()> {
    const MODULE: &str = "the content of a module";
    let by_headers = Guest {
        kernel: "multiboot.elf".into(),
        memory_mib: 4,
        initrd: Some("first.txt".into()),
        modules: vec!["second.txt with=words".into()],
        command_line: "one two=2".into(),
        ..Guest::bare("elf", "", &[])
    };
    let by_fields =
        Guest { kernel: "multiboot.bin".into(), console: "com1".into(), pcpu: 0, ..Guest::bare("flat", "", &[]) };
    let texts = [("first.txt", "first module"), ("second.txt", MODULE)];
    let spec = spec(&[by_headers, by_fields], &["multiboot.elf", "multiboot.bin"], &texts);
    let machine = bed.start("multiboot", &spec)?;
    upgraded(&machine, &[(&machine.guest, "multiboot: lives "), (&machine.baton, "flat: multiboot: lives ")])?;
    let elf = &machine.guest;
    told(elf, "multiboot: command line one two=2")?;
    told(elf, "multiboot: module first.txt, bytes 12, begins first module")?;
    told(elf, &format!("multiboot: module second.txt with=words, bytes {}, begins the content ", MODULE.len()))?;
    // 640 KiB and what is above 1 MiB: RAM, firmware's, RAM, configuration space.
    told(elf, "multiboot: map entries 4, usable 3801088, upper KiB 3072")?;
    told(&machine.baton, "multiboot: map entries 4, usable 1703936, upper KiB 1024")
}

/// A boot sector in real mode, and Linux from its 32-bit entry beside it.
pub fn sector(bed: &mut Bed) -> Result<()> {
    let sector =
        Guest { kernel: "sector.bin".into(), console: "com1".into(), pcpu: 0, ..Guest::bare("sector", "", &[]) };
    let linux = Guest { entry: Some("32-bit"), ..linux("mode=idle") };
    let mut spec = spec(&[sector, linux], &["sector.bin"], &[]);
    spec.modules.extend([paths::kernel(), paths::initrd()]);
    let machine = bed.start("sector", &spec)?;
    machine.wait_guest("guest: up ", 120)?;
    upgraded(&machine, &[(&machine.baton, "sector: sector: lives "), (&machine.guest, "ioload t=")])?;
    told(&machine.baton, "sector: map entries 4, usable 1703936, KiB below 16 MiB 1024, blocks above 0")
}

/// Linux from its real-mode code on, with its disk.
pub fn real_mode(bed: &mut Bed) -> Result<()> {
    let guest = Guest { entry: Some("16-bit"), devices: vec!["1b36:0010".into()], ..linux("mode=load") };
    let spec = Spec { texts: vec![("baton.toml".into(), config::toml(&[guest]))], ..Spec::default() };
    let machine = bed.start("real-mode", &spec)?;
    machine.wait_guest("guest: disk ", 120)?;
    machine.wait_guest("ioload t=", 60)?;
    upgrade::to(&machine, NEXT)
}

/// Debian's kernel.
fn linux(mode: &str) -> Guest {
    Guest {
        kernel: "vmlinuz".into(),
        initrd: Some("initrd.cpio".into()),
        memory_mib: 512,
        command_line: format!("console=ttyS0 panic=-1 {mode}"),
        ..Guest::bare("debian", "", &[])
    }
}
