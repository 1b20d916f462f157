//! The attacker's disk is told to write to, and to read from, what is not its guest's.

use std::fs;

use anyhow::{Result, ensure};

use super::{GUEST_BYTES, GUEST_FREE, Watch};
use crate::cases::Bed;
use crate::machine::Machine;
use crate::outside::UNIT;
use crate::spec::Offer;
use crate::tables::PAGE;

/// Where the attacker's disk keeps what it has read: see the program.
const LOOT: usize = 16 * 512;
/// A page of the attacker's own code.
const GUEST_CODE: u64 = 0x10_0000;
/// What the attacker's disk writes.
const WRITTEN: u8 = 0xa5;

/// A place that is not the attacker's.
struct Target {
    name: &'static str,
    address: u64,
    /// Whether it is memory: then it can be looked at before and after.
    memory: bool,
}

fn targets(watch: &Watch<'_>) -> Result<Vec<Target>> {
    let memory = |name, address| Target { name, address: address & !(PAGE - 1), memory: true };
    let registers = |name, address| Target { name, address, memory: false };
    let structures = &watch.structures;
    let bus = format!("bus {:#x}", watch.attacker.id >> 8);
    Ok(vec![
        memory("Baton's image", watch.image() + PAGE),
        memory("the neighbour's memory", watch.secret),
        memory("the root table", structures.find("root table")?.base),
        memory("its own context table", structures.find(&bus)?.base),
        memory("its own page tables", structures.root_of(watch.attacker.id)?),
        memory("the interrupt remapping table", structures.find("interrupt")?.base),
        memory("the invalidation queue", structures.queue),
        registers("the unit's registers", UNIT),
        registers("the neighbour's BAR", watch.neighbour.bar(watch.machine)?),
        registers("the first page behind its memory", GUEST_BYTES),
        registers("an address wider than the unit's", 1 << 50),
    ])
}

/// The last page that the attacker's disk has read.
fn loot(machine: &Machine) -> Result<Vec<u8>> {
    let disk = fs::read(machine.file("disk.img"))?;
    Ok(disk.get(LOOT..LOOT + PAGE as usize).unwrap_or_default().to_vec())
}

/// What the disk may reach it does reach: otherwise nothing below means anything.
fn control(watch: &Watch<'_>) -> Result<()> {
    let at = |address| watch.structures.translate(watch.attacker.id, address);
    watch.order(&format!("disk-read {GUEST_CODE:#x}"))?;
    ensure!(
        loot(watch.machine)? == watch.machine.memory(at(GUEST_CODE)?, PAGE)?,
        "the disk does not read its guest's memory"
    );
    watch.order(&format!("disk-write {GUEST_FREE:#x}"))?;
    let written = watch.machine.memory(at(GUEST_FREE)?, PAGE)?;
    ensure!(written.iter().all(|byte| *byte == WRITTEN), "the disk does not write its guest's memory");
    Ok(())
}

pub fn run(bed: &mut Bed, offer: Offer) -> Result<()> {
    on(super::machine_on(bed, offer)?)
}

/// The same by a virtual function, whose physical one stays with Baton, against another of the same card.
pub fn virtual_function(bed: &mut Bed) -> Result<()> {
    let machine = bed.start("attack-virtual", &super::virtual_spec())?;
    super::ready(&machine)?;
    let device = super::Owned::of(&machine, "attacker", 0)?;
    ensure!(device.config(&machine)?.bytes.starts_with(&[0xff; 4]), "{} is no virtual function", device.name);
    on(&machine)
}

fn on(machine: &Machine) -> Result<()> {
    let watch = Watch::begin(machine)?;
    control(&watch)?;
    for Target { name, address, memory } in targets(&watch)? {
        ensure!(address >= GUEST_BYTES, "{name} at {address:#x} is an address of the attacker's own memory");
        watch.order(&format!("disk-write {address:#x}"))?;
        let fault = watch.fault(&watch.attacker.name, "write", address)?;
        ensure!(fault.owner == "attacker", "{name}: {fault:?}");
        watch.order(&format!("disk-read {address:#x}"))?;
        watch.fault(&watch.attacker.name, "read", address)?;
        if memory {
            let there = machine.memory(address, PAGE)?;
            ensure!(there.iter().any(|byte| *byte != WRITTEN), "{name} at {address:#x} was written to");
            ensure!(loot(machine)? != there, "{name} at {address:#x} was read");
        }
    }
    let answer = watch.order("disk-check")?;
    ensure!(answer.ends_with("same true"), "the disk does not work any more: {answer}");
    watch.end()
}
