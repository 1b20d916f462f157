//! VT-d second-stage tables (legacy mode's only kind): VT-d 9.8.

use super::format::{Format, LARGE};
use super::kinds::{Caching, Permissions};
use crate::addr::HostPhys;

/// Read.
const R: u64 = 1 << 0;
/// Write.
const W: u64 = 1 << 1;
/// Snoop: requests with the no-snoop attribute are snooped all the same. Reserved when ECAP.SC = 0.
const SNP: u64 = 1 << 11;

/// What a device sees through a VT-d unit.
///
/// Entries carry read, write, the leaf bit and, for [`Caching::Coherent`], SNP; no
/// other bit, because on one unit or another each is reserved. A device's requests
/// have no memory type here and are not instruction fetches: the other kinds of
/// [`Caching`] and [`Permissions::execute`] are accepted and encode as nothing.
#[derive(Clone, Copy, Debug)]
pub enum VtdSecondStage {}

impl Format for VtdSecondStage {
    const NAME: &'static str = "VT-d second stage";
    const LEVELS: (u8, u8) = (3, 5);
    const HARDWARE_BITS: u64 = 0;

    fn accepts(permissions: Permissions, _: Caching) -> bool {
        permissions.read || permissions.write
    }

    fn table(to: HostPhys) -> u64 {
        to.0 | R | W
    }

    fn leaf(level: u8, to: HostPhys, permissions: Permissions, caching: Caching) -> u64 {
        let mut entry = to.0;
        if permissions.read {
            entry |= R;
        }
        if permissions.write {
            entry |= W;
        }
        if level > 1 {
            entry |= LARGE;
        }
        if caching == Caching::Coherent {
            entry |= SNP;
        }
        entry
    }

    fn is_present(entry: u64) -> bool {
        entry & (R | W) != 0
    }

    fn permissions(entry: u64) -> Permissions {
        Permissions { read: entry & R != 0, write: entry & W != 0, execute: false }
    }

    fn caching(entry: u64) -> Caching {
        if entry & SNP != 0 { Caching::Coherent } else { Caching::WriteBack }
    }
}
