//! Two guests on virtual functions of one NVMe controller, whose physical function stays with Baton: verified I/O of both,
//! through two upgrades.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::attack::Owned;
use super::{Bed, upgrade};
use crate::config::Guest;
use crate::guest_log::{complaints, samples, samples_in_log};
use crate::log::wait_for;
use crate::machine::Machine;
use crate::outside::Trace;
use crate::spec::{NAMESPACE_DRIVES, Spec};

/// Command register: bus mastering (PCI 3.0 6.2.2).
const BUS_MASTER: u32 = 1 << 2;

fn spec() -> Spec {
    let first = Guest::bare("first", "disk", &["1b36:0010/vf0"]);
    let second = Guest { pcpu: 2, console: "com1".into(), ..Guest::bare("second", "disk", &["1b36:0010/vf1"]) };
    Spec { cpus: 3, ..Spec::virtual_disks(&["disk"], &[first, second]) }
}

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.start("virtual-disks", &spec())?;
    machine.wait_guest("ioload t=", 60)?;
    machine.wait_baton(" second: ioload t=", 60)?;
    physical_is_silent(&machine)?;
    for name in ["baton-next1", "baton-next2"] {
        // The first guest is watched as in every upgrade, by QEMU's trace as well: no controller is enabled or disabled.
        upgrade::to(&machine, name)?;
        physical_is_silent(&machine)?;
        let before = samples_in_log(&machine.baton).len();
        let more = || Some(samples_in_log(&machine.baton).len()).filter(|now| *now >= before + 2);
        let patience = std::time::Duration::from_secs(30);
        wait_for("further lines of the second guest", patience, || machine.healthy(), more)?;
    }
    let wrong = [complaints(&samples(&machine.guest)), complaints(&samples_in_log(&machine.baton))].concat();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let trace = Trace::read(&machine.trace);
    ensure!(trace.faults.is_empty(), "{:?}", trace.faults);
    namespaces_are_apart(&machine)
}

/// Baton has done with the physical function: it makes no requests, and is in no domain.
fn physical_is_silent(machine: &Machine) -> Result<()> {
    let function = Owned::of(machine, "first", 0)?;
    let listed = machine.api().devices()?.devices;
    let listed = listed.into_iter().find(|listed| listed.bdf == function.name).context("the function is not listed")?;
    let physical = listed.physical.context("it is no virtual function")?;
    let command = Owned::named(physical.clone())?.config(machine)?.long(4);
    ensure!(command & BUS_MASTER == 0, "bus mastering of {physical} is on: {command:#x}");
    let attached = machine.api().iommu()?.devices;
    ensure!(attached.iter().all(|device| device.bdf != physical), "{physical} is in a domain: {attached:?}");
    Ok(())
}

/// Each guest has written to its own namespace, and the third is as it was.
fn namespaces_are_apart(machine: &Machine) -> Result<()> {
    let disk = |number: usize| {
        let name = if number == 0 { "disk.img".into() } else { format!("disk{}.img", number * NAMESPACE_DRIVES) };
        fs::read(machine.file(&name)).with_context(|| name)
    };
    let (first, second, third) = (disk(0)?, disk(1)?, disk(2)?);
    let written = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    ensure!(written(&first) && written(&second), "a guest has written nothing to its namespace");
    ensure!(!written(&third), "somebody has written to the namespace that nobody has");
    ensure!(first != second, "both guests have written to one namespace");
    Ok(())
}
