//! The host bridge at 00:00.0: the one thing Linux's sanity check of a PCI bus looks for.

use super::config::{CLASS, ID};

/// Red Hat's generic PCIe host bridge: no chipset's quirks apply to it.
const IDENTITY: u32 = 0x0008_1B36;
/// Base class 6 (bridge), subclass 0 (host), revision 0.
const CLASS_VALUE: u32 = 0x0600_0000;

/// The dword at `offset`; everything is read-only.
pub(super) const fn read_dword(offset: u16) -> u32 {
    match offset {
        ID => IDENTITY,
        CLASS => CLASS_VALUE,
        _ => 0,
    }
}
