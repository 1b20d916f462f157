//! Power-on to the guest's user space.

use anyhow::{Result, ensure};

use super::Bed;

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.linux()?;
    let up = machine.wait_guest("guest: up ", 1)?;
    ensure!(up.contains(" linux 6.1."), "not the Debian kernel: {up}");
    let disk = machine.wait_guest("guest: disk ", 1)?;
    ensure!(disk.contains("driver nvme"), "not the stock driver: {disk}");
    let status = machine.wait_api(30)?.status()?;
    ensure!(status.generation == 0 && status.build_name == "baton", "{status:?}");
    ensure!(status.boot.ticks_to_guest > 0 && status.pcpus == 2, "{status:?}");
    Ok(())
}
