//! AMD nested paging: APM2 15.25.

use super::format::Format;
use super::host::Host;
use super::kinds::{Caching, Permissions};
use crate::addr::HostPhys;

/// User. A nested walk is a user access (APM2 15.25.5): without it every access faults.
const US: u64 = 1 << 2;

/// A guest's physical address space under SVM.
///
/// The host's format with U/S set at every level. The memory type is combined with
/// the guest's own (APM2 15.25.8). Nested paging has no way to make memory unreadable.
/// Accessed and dirty are set from the start, so that the walker never writes and a
/// checksum over the tables holds while the guest runs.
#[derive(Clone, Copy, Debug)]
pub enum Npt {}

impl Format for Npt {
    const NAME: &'static str = "NPT";
    const LEVELS: (u8, u8) = (4, 5);
    const HARDWARE_BITS: u64 = Host::HARDWARE_BITS;

    fn accepts(permissions: Permissions, caching: Caching) -> bool {
        Host::accepts(permissions, caching)
    }

    fn table(to: HostPhys) -> u64 {
        Host::table(to) | US
    }

    fn leaf(level: u8, to: HostPhys, permissions: Permissions, caching: Caching) -> u64 {
        Host::leaf(level, to, permissions, caching) | US
    }

    fn is_present(entry: u64) -> bool {
        Host::is_present(entry)
    }

    fn permissions(entry: u64) -> Permissions {
        Host::permissions(entry)
    }

    fn caching(entry: u64) -> Caching {
        Host::caching(entry)
    }
}
