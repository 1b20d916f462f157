//! The guest's own view of its platform, checked by a guest that knows the specifications; its disk, moved and reset by it, keeps
//! working through an upgrade.

use anyhow::{Result, ensure};

use super::{Bed, upgrade};
use crate::config::Guest;
use crate::guest_log::{complaints, samples};
use crate::spec::{Device, Kind, Place, Spec};

/// What the guest says once each part is as it has to be.
const TOLD: [&str; 6] = [
    "platform: ACPI tables 4",
    "platform: functions 3, the same by ports and by ECAM",
    "platform: capabilities ",
    "platform: reset by FLR",
    "platform: messages 3 by MSI",
    "platform: the disk works at 0x4100000000",
];

pub fn run(bed: &mut Bed) -> Result<()> {
    let guest = Guest::bare("disk", "platform", &["1b36:0010", "1234:11e8"]);
    let devices = vec![Device::DISK, Device { kind: Kind::Edu, place: Place::RootPort }];
    let spec = Spec { memory_mib: 256, devices, ..Spec::bare(&["platform"], &[guest]) };
    let machine = bed.start("platform", &spec)?;
    for line in TOLD {
        machine.wait_guest(line, 30)?;
    }
    machine.wait_guest("ioload t=", 30)?;
    upgrade::to(&machine, "baton-next1")?;
    let wrong = complaints(&samples(&machine.guest));
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
