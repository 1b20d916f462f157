//! A device that does nothing but fault is cut off, and stays so.

use anyhow::{Result, ensure};

use super::{GUEST_BYTES, Watch, ready};
use crate::cases::{Bed, upgrade};
use crate::machine::Machine;
use crate::tables::Structures;

/// Writes to pages that are not there, far more than `iommu.fault_limit` allows in a second.
const WRITES: u64 = 4_000;
/// Lines that such a storm may cost: one a second for each kind of fault.
const LINES: usize = 20;
/// Command register, bus mastering (PCI 3.0 6.2.2).
const COMMAND: usize = 0x04;
const BUS_MASTER: u8 = 1 << 2;

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.start("attack-storm", &super::spec())?;
    ready(&machine)?;
    let mut watch = Watch::begin(&machine)?;
    watch.order(&format!("storm {WRITES} {GUEST_BYTES:#x}"))?;
    let name = watch.attacker.name.clone();
    machine.wait_baton(&format!("{name} of attacker is in quarantine"), 10)?;
    let lines = machine.baton.lines().iter().filter(|line| line.contains("blocked")).count();
    ensure!(lines <= LINES, "{WRITES} faults cost {lines} lines");
    cut_off(&machine, &watch)?;
    let answer = watch.order("identity")?;
    ensure!(answer == "0xffffffff", "the guest still sees its disk: {answer}");
    // Its context entry is gone, and its interrupts.
    for word in ["context table", "interrupt", &format!("device {:#06x}", watch.attacker.id)] {
        watch.except(word);
    }
    watch.end()?;

    upgrade::to(&machine, "baton-next1")?;
    let watch = Watch::begin(&machine)?;
    cut_off(&machine, &watch)?;
    watch.end()
}

fn cut_off(machine: &Machine, watch: &Watch<'_>) -> Result<()> {
    let device = &watch.attacker;
    ensure!(device.config(machine)?.bytes[COMMAND] & BUS_MASTER == 0, "{} may still do DMA", device.name);
    ensure!(Structures::read(machine)?.root_of(device.id).is_err(), "{} still has a context entry", device.name);
    Ok(())
}
