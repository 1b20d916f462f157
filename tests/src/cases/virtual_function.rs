//! A virtual function of a network card, whose physical function stays with Baton, through two upgrades.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Bed, upgrade};
use crate::config::{self, Guest};
use crate::log::wait_for;
use crate::machine::Machine;
use crate::outside::Registers;
use crate::spec::{Device, Kind, Place, Spec};

/// What QEMU's 82576 and its virtual functions call themselves.
const CARD: &str = "8086:10c9";
const FUNCTION: &str = "8086:10ca";

fn spec() -> Spec {
    let guest = Guest::bare("functions", "functions", &[&format!("{CARD}/vf0")]);
    let text = config::toml(&[guest]) + &format!("\n[[sriov]]\ndevice = \"{CARD}\"\nvfs = 2\n");
    Spec {
        devices: vec![Device { kind: Kind::Igb, place: Place::RootPort }],
        memory_mib: 256,
        texts: vec![("baton.toml".into(), text)],
        ..Spec::bare(&["functions"], &[])
    }
}

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.start("virtual-function", &spec())?;
    let line = machine.wait_guest("function 0000:00:01.0 ", 30)?;
    ensure!(line.contains(FUNCTION), "not a virtual function: {line}");
    beats(&machine)?;
    let registers = Registers::read(machine.qmp()?)?;
    let devices = machine.api().iommu()?.devices;
    for name in ["baton-next1", "baton-next2"] {
        let report = upgrade::perform(&machine, name)?;
        ensure!(report.outcome == "committed", "{}: {}", report.outcome, report.reason);
        beats(&machine)?;
        ensure!(Registers::read(machine.qmp()?)? == registers, "the IOMMU's registers have changed");
        ensure!(machine.api().iommu()?.devices == devices, "the devices were {devices:?}");
    }
    Ok(())
}

/// The guest goes on, and its function is what it was.
fn beats(machine: &Machine) -> Result<()> {
    let lines = || {
        let lines = machine.guest.lines();
        lines.into_iter().filter(|line| line.contains(" beat ")).collect::<Vec<_>>()
    };
    let before = lines().len();
    let more = || Some(lines()).filter(|lines| lines.len() >= before + 3);
    let lines = wait_for("further beat of the guest", Duration::from_secs(30), || machine.healthy(), more)?;
    let last = lines.last().context("no beat")?;
    ensure!(last.starts_with("functions: 1 beat ") && last.ends_with(" changed 0"), "{last}");
    Ok(())
}
