//! BARs in places that are taken, and writes to every byte of configuration space.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use super::{Owned, Watch};
use crate::cases::Bed;
use crate::machine::Machine;
use crate::spec::Offer;
use crate::tables::Piece;

/// What a guest may change in its function: bus mastering, the enable and mask bits of MSI-X, sticky error bits.
const COMMAND: usize = 0x04;
const BUS_MASTER: u8 = 1 << 2;
const STATUS: [usize; 2] = [0x06, 0x07];
const POINTER: usize = 0x34;
const MSIX: u8 = 0x11;
const EXPRESS: u8 = 0x10;

/// Registers of all functions that matter: the two devices and the ports above them.
fn functions(watch: &Watch<'_>) -> Result<Vec<(Owned, Piece)>> {
    let port = |function: u16| Owned { name: format!("0000:00:02.{function}"), id: 2 << 3 | function };
    let all = [watch.attacker.clone(), watch.neighbour.clone()].into_iter().chain((0..5).map(port));
    all.map(|device| Ok((device.clone(), device.config(watch.machine)?))).collect()
}

/// Puts zero where a guest may write, or hardware does.
fn masked(piece: &Piece) -> Vec<u8> {
    let mut bytes = piece.bytes.clone();
    let mut volatile = vec![STATUS[0], STATUS[1]];
    let mut at = usize::from(bytes[POINTER]);
    // A list that is not a list ends it.
    for _ in 0..48 {
        let (Some(id), Some(next)) = (bytes.get(at).copied(), bytes.get(at + 1).copied()) else { break };
        match id {
            MSIX => volatile.extend([at + 2, at + 3]),
            // Device status, link status, slot status.
            EXPRESS => volatile.extend([at + 0x0a, at + 0x0b, at + 0x12, at + 0x13, at + 0x1a, at + 0x1b]),
            _ => {}
        }
        at = usize::from(next);
        if at == 0 {
            break;
        }
    }
    bytes[COMMAND] &= !BUS_MASTER;
    volatile.into_iter().filter(|at| *at < piece.bytes.len()).for_each(|at| bytes[at] = 0);
    bytes
}

fn unchanged(machine: &Machine, before: &[(Owned, Piece)]) -> Result<()> {
    for (device, piece) in before {
        let (old, new) = (masked(piece), masked(&device.config(machine)?));
        let changed: Vec<_> = (0..old.len()).filter(|at| old[*at] != new[*at]).collect();
        ensure!(changed.is_empty(), "bytes {changed:x?} of {}'s configuration space have changed", device.name);
    }
    Ok(())
}

/// A guest's BARs are Baton's to place: one over RAM, an APIC or configuration space is nowhere.
pub fn bars(bed: &mut Bed, offer: Offer) -> Result<()> {
    let machine = super::machine_on(bed, offer)?;
    let watch = Watch::begin(machine)?;
    let before = functions(&watch)?;
    let neighbours = watch.neighbour.bar(machine)?;
    let mut others = BTreeSet::new();
    // The other disk's BAR, RAM, the pages of IOAPIC and local APIC, configuration space; where the neighbour's BAR is in the machine there is
    // nothing in the guest: there the attacker finds its own.
    let places = [(0, false), (0x10_0000, false), (0xfec0_0000, false), (0xfee0_0000, false), (0xe000_0000, false)];
    for (address, own) in places.into_iter().chain([(neighbours, true)]) {
        let answer = watch.order(&format!("bar {address:#x}"))?;
        let words: Vec<_> = answer.split_whitespace().collect();
        let ["at", _, "found", found, "home", home, "then", again, "other", other] = words[..] else {
            anyhow::bail!("the attacker says {answer:?}");
        };
        others.insert(other.to_owned());
        if address == 0 {
            ensure!(found == other, "a BAR over another BAR has moved it: {answer}");
        }
        ensure!(home == again && home != "0xffffffff", "the BAR does not come back: {answer}");
        ensure!((found == home) == own, "a BAR at {address:#x} shows what it must not, or nothing: {answer}");
        unchanged(machine, &before)?;
    }
    ensure!(others.len() == 1, "the attacker's other disk was not always what it is: {others:?}");
    watch.end()
}

/// Whatever is written to the function's configuration space stays in the guest.
pub fn every_byte(bed: &mut Bed, offer: Offer) -> Result<()> {
    let machine = super::machine_on(bed, offer)?;
    let watch = Watch::begin(machine)?;
    let before = functions(&watch)?;
    let answer = watch.order("config")?;
    ensure!(answer == "identity 0x101b36 functions 3", "not two disks and a host bridge: {answer}");
    unchanged(machine, &before)?;
    let answer = watch.order("disk-check")?;
    ensure!(answer.ends_with("same true"), "the disk does not work any more: {answer}");
    watch.end()
}
