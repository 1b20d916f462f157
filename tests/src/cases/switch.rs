//! A disk behind a switch whose ports can't keep peers apart.

use anyhow::{Result, ensure};

use super::Bed;
use super::variants::Variant;

/// QEMU's downstream ports have no ACS: what is behind them could reach its peers past the IOMMU.
pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.start("switch", &Variant::Switch.spec())?;
    let line = machine.wait_baton("guest disk can't start", 30)?;
    ensure!(line.contains("0000:05:00.0") && line.contains("ACS"), "the device and the reason are not named: {line}");
    let guests = machine.wait_api(30)?.guests()?.guests;
    ensure!(guests.iter().all(|guest| guest.state != "running"), "the guest runs all the same: {guests:?}");
    Ok(())
}
