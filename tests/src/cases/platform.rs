//! The guest's own view of its platform, checked by a guest that knows the specifications; its disk, moved and reset by it, keeps
//! working through an upgrade.

use anyhow::{Result, ensure};

use super::{Bed, upgrade};
use crate::config::Guest;
use crate::guest_log::{complaints, samples};
use crate::spec::Spec;

/// What the guest says once each part is as it has to be.
const TOLD: [&str; 5] = [
    "platform: ACPI tables 4",
    "platform: functions 2, the same by ports and by ECAM",
    "platform: capabilities ",
    "platform: reset by FLR",
    "platform: the disk works at 0x4100000000",
];

pub fn run(bed: &mut Bed) -> Result<()> {
    let guest = Guest::bare("disk", "platform", &["1b36:0010"]);
    let machine = bed.start("platform", &Spec { memory_mib: 256, ..Spec::bare(&["platform"], &[guest]) })?;
    for line in TOLD {
        machine.wait_guest(line, 30)?;
    }
    machine.wait_guest("ioload t=", 30)?;
    upgrade::to(&machine, "baton-next1")?;
    let wrong = complaints(&samples(&machine.guest));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
