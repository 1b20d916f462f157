//! Bus mastering off and on, again and again, while the hypervisor is replaced.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Watch, ready};
use crate::cases::{Bed, upgrade};
use crate::log::wait_for;
use crate::spec::Offer;

pub fn run(bed: &mut Bed, offer: Offer) -> Result<()> {
    let machine = bed.start("attack-toggle", &super::spec_on(offer))?;
    ready(&machine)?;
    machine.type_line("toggle")?;
    // The neighbour is watched as in every upgrade.
    upgrade::to(&machine, "baton-next1")?;
    machine.type_line("stop")?;
    let done = || machine.guest.find("attacker: toggle: ");
    let told = wait_for("end of the toggling", Duration::from_secs(30), || machine.healthy(), done)?;
    ensure!(!told.ends_with(": 0 times"), "{told}");
    let answer = Watch::begin(&machine)?.order("disk-check")?;
    ensure!(answer.ends_with("same true"), "the disk does not work any more: {answer}");
    Ok(())
}
