//! Interrupt messages that are not the device's own.

use anyhow::{Context, Result, ensure};

use super::{GUEST_FREE, Watch};
use crate::cases::Bed;
use crate::outside::Registers;

/// Where interrupt messages go, and the bit of a remappable one (VT-d 5.1.3, 5.1.5.2).
const WINDOW: u64 = 0xfee0_0000;
const REMAPPABLE: u64 = 1 << 4;
/// Compatibility-format interrupts are let through (VT-d 11.4.4.2: GSTS.CFIS).
const COMPATIBILITY: u32 = 1 << 23;
/// Entries that the 512 bytes of one message reach.
const REACH: u64 = 512 / 32;

/// The entry of the disk's MSI-X table that its guest uses.
const ENTRY: u64 = 1;

/// A message through entry `index`.
const fn message(index: u64) -> u64 {
    WINDOW | REMAPPABLE | (index & 0x7fff) << 5
}

/// DMA to the window is an interrupt request. QEMU hides who makes it, so entries of others can't be tried this way (it would
/// deliver them): only entries that are nobody's, and such as the table doesn't have. It also delivers compatibility-format
/// messages although they are off: what is checked is that they are off.
pub fn window(bed: &mut Bed) -> Result<()> {
    let machine = super::machine(bed)?;
    let watch = Watch::begin(machine)?;
    let registers = Registers::read(machine.qmp()?)?;
    ensure!(registers.status & COMPATIBILITY == 0, "compatibility-format interrupts are on: {registers:x?}");
    let table = watch.structures.find("interrupt")?;
    let entries = table.bytes.len() as u64 / 16;
    let present = |index: u64| table.bytes.get(index as usize * 16).is_some_and(|byte| byte & 1 != 0);
    let free = (0..entries - REACH).find(|first| (*first..first + REACH).all(|index| !present(index)));
    for (index, reason) in [(free.unwrap_or(entries), 0x22), (entries, 0x21)] {
        let before = total(&watch)?;
        watch.order(&format!("disk-signal {:#x}", message(index)))?;
        machine.wait_baton(&format!("interrupt through entry {index} blocked"), 10)?;
        let faults = machine.api().iommu()?.faults;
        let told = faults.iter().any(|fault| fault.kind == "interrupt" && fault.reason == format!("{reason:#x}"));
        ensure!(told && total(&watch)? > before, "no interrupt fault with reason {reason:#x}: {faults:?}");
    }
    let answer = watch.order("disk-check")?;
    ensure!(answer.ends_with("same true"), "the disk does not work any more: {answer}");
    watch.end()
}

/// The disk sends its own interrupt through the neighbour's entry: a device that its guest has reprogrammed by a way that
/// nobody thought of.
pub fn forged(bed: &mut Bed) -> Result<()> {
    let machine = super::machine(bed)?;
    let watch = Watch::begin(machine)?;
    let interrupts = machine.api().iommu()?.interrupts;
    let theirs = interrupts.iter().find(|entry| entry["source"] == watch.neighbour.name.as_str());
    let index = theirs.and_then(|entry| entry["index"].as_u64()).context("the neighbour has no interrupt")?;
    let (bus, entry) = (machine.bus()?, watch.attacker.message(machine, ENTRY)?);
    let own = bus.read(entry)?;
    ensure!(
        u64::from(own) != message(index) && own & 0xfff0_0000 == WINDOW as u32,
        "no message at {entry:#x}: {own:#x}"
    );
    bus.write(entry, message(index) as u32)?;
    watch.order(&format!("disk-write {GUEST_FREE:#x}"))?;
    let told = format!("device {}: interrupt through entry {index} blocked", watch.attacker.name);
    let line = machine.wait_baton(&told, 10)?;
    ensure!(line.contains("(reason 0x26)"), "{line}");
    bus.write(entry, own)?;
    let answer = watch.order("disk-check")?;
    ensure!(answer.ends_with("same true"), "the disk does not work any more: {answer}");
    watch.end()
}

fn total(watch: &Watch<'_>) -> Result<u64> {
    Ok(watch.machine.api().iommu()?.units.iter().map(|unit| unit.faults_total).sum())
}
