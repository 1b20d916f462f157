//! Two disks behind one switch, whose ports can't keep them apart: they go together or not at all.

use anyhow::{Context, Result, ensure};

use super::Bed;
use crate::config::Guest;
use crate::spec::{Device, Kind, Place, Spec};

/// Both disks and their guests.
fn spec(guests: &[Guest]) -> Spec {
    let disk = |place| Device { kind: Kind::Nvme, place };
    let devices = vec![disk(Place::Switch), disk(Place::Beside)];
    Spec { devices, cpus: 3, memory_mib: 256, ..Spec::bare(&["disk"], guests) }
}

/// Where firmware puts them: upstream port on bus 3, downstream ports on bus 4.
const DISKS: [&str; 2] = ["0000:05:00.0", "0000:06:00.0"];

pub fn run(bed: &mut Bed) -> Result<()> {
    let one = Guest::bare("one", "disk", &DISKS[..1]);
    let two = Guest { pcpu: 2, console: "com1".into(), ..Guest::bare("two", "disk", &DISKS[1..]) };
    let machine = bed.start("switch-apart", &spec(&[one, two]))?;
    for (guest, other) in [("one", DISKS[1]), ("two", DISKS[0])] {
        let line = machine.wait_baton(&format!("guest {guest} can't start"), 30)?;
        ensure!(line.contains(other), "the other disk is not named: {line}");
    }
    let guests = machine.wait_api(30)?.guests()?.guests;
    ensure!(guests.iter().all(|guest| guest.state != "running"), "a guest runs all the same: {guests:?}");
    drop(machine);

    let machine = bed.start("switch-together", &spec(&[Guest::bare("both", "disk", &DISKS)]))?;
    machine.wait_guest("ioload t=", 30)?;
    let guests = machine.wait_api(30)?.guests()?.guests;
    let guest = guests.first().context("no guest")?;
    ensure!(guest.devices == DISKS, "{guest:?}");
    Ok(())
}
