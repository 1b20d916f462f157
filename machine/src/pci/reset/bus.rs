//! A reset of the bus behind a bridge: PCIe 7.5.1.3.13, 6.6.1.

use super::{READY_MS, ResetError};
use crate::access::Clock;
use crate::pci::{Bdf, ConfigSpace, Express};

/// Bridge control, in the header of a bridge.
const BRIDGE_CONTROL: u16 = 0x3e;
/// Bridge control: reset of the secondary bus.
const SECONDARY_RESET: u16 = 1 << 6;
/// Milliseconds the reset is held: twice what the bus needs (PCI 4.3.2, Trst).
const HOLD_MS: u64 = 2;

/// Resets the bus and waits until the link behind a port that tells is up again, if it was. The functions are not to be
/// spoken to for 100 ms more.
pub(super) fn reset(
    config: &(impl ConfigSpace + ?Sized),
    clock: &(impl Clock + ?Sized),
    bridge: Bdf,
) -> Result<(), ResetError> {
    let express = Express::find(config, bridge);
    let up = || express.and_then(|express| express.link_is_up(config));
    let was_up = up() == Some(true);
    let control = config.read16(bridge, BRIDGE_CONTROL) & !SECONDARY_RESET;
    config.write16(bridge, BRIDGE_CONTROL, control | SECONDARY_RESET);
    // The time itself is what is waited for.
    let _elapsed = clock.wait_for(HOLD_MS, &mut || false);
    config.write16(bridge, BRIDGE_CONTROL, control);
    if was_up && !clock.wait_for(READY_MS, &mut || up() == Some(true)) {
        return Err(ResetError::Link { bridge });
    }
    Ok(())
}
