//! A guest that powers itself off while its disk is at work: nothing of it is left in the device or in the tables.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Watch, ready};
use crate::cases::Bed;
use crate::log::wait_for;
use crate::outside::Trace;
use crate::tables::Structures;

/// Command register, bus mastering (PCI 3.0 6.2.2).
const COMMAND: usize = 0x04;
const BUS_MASTER: u8 = 1 << 2;

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.start("attack-leave", &super::spec())?;
    ready(&machine)?;
    let mut watch = Watch::begin(&machine)?;
    let resets = Trace::read(&machine.trace).disk_resets;
    machine.type_line("leave")?;
    let device = watch.attacker.clone();
    let gone = || Structures::read(&machine).ok().filter(|structures| structures.root_of(device.id).is_err());
    wait_for("end of the attacker's domain", Duration::from_secs(30), || machine.healthy(), gone)?;
    watch.returned(&device)?;
    let stopped = || {
        let guests = machine.api().guests().ok()?.guests;
        guests.into_iter().find(|guest| guest.name == "attacker" && guest.state == "stopped")
    };
    wait_for("end of the attacker", Duration::from_secs(10), || machine.healthy(), stopped)?;
    let config = device.config(&machine)?;
    ensure!(config.bytes[COMMAND] & BUS_MASTER == 0, "{} may still do DMA", device.name);
    ensure!(Trace::read(&machine.trace).disk_resets > resets, "{} was not reset", device.name);
    let trace = Trace::read(&machine.trace);
    let foreign = trace.faults.iter().find(|line| !line.contains(&format!("sid {:#x}", device.id)));
    ensure!(foreign.is_none(), "{foreign:?}");
    // Its entries are gone, and its interrupts; everything else stays.
    for word in ["context table", "interrupt", &format!("device {:#06x}", device.id)] {
        watch.except(word);
    }
    watch.end()
}
