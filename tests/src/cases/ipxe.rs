//! The way a server boots. This loader's memory map has none of the firmware's tables, which the next image reads as well.

use anyhow::{Result, ensure};

use super::{Bed, upgrade};
use crate::spec::{Boot, Spec};

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.start("ipxe", &Spec { boot: Boot::Ipxe, ..Spec::default() })?;
    machine.wait_guest("ioload t=", 180)?;
    let status = machine.wait_api(30)?.status()?;
    ensure!(status.boot.via == "ipxe", "{:?}", status.boot);
    upgrade::to(&machine, "baton-next1")
}
