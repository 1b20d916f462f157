//! Intel extended page tables: SDM 3C 29.3.2.

use super::format::{Format, LARGE};
use super::kinds::{Caching, Permissions};
use crate::addr::HostPhys;

/// Read.
const R: u64 = 1 << 0;
/// Write.
const W: u64 = 1 << 1;
/// Execute (for both modes, as long as mode-based execute control is off).
const X: u64 = 1 << 2;
/// Where the memory type of a leaf stands, bits 5:3.
const TYPE_SHIFT: u32 = 3;
/// All of the memory type.
const TYPE: u64 = 7 << TYPE_SHIFT;
/// Uncacheable.
const UC: u64 = 0 << TYPE_SHIFT;
/// Write combining.
const WC: u64 = 1 << TYPE_SHIFT;
/// Write-back.
const WB: u64 = 6 << TYPE_SHIFT;
/// Ignore the guest's PAT.
const IPAT: u64 = 1 << 6;
/// Accessed and dirty, written by hardware when EPTP bit 6 asks for it, ignored otherwise.
const AD: u64 = 3 << 8;

/// A guest's physical address space under VMX.
///
/// Writable but not readable is a misconfiguration, and execute-only needs a
/// capability: both are refused.
#[derive(Clone, Copy, Debug)]
pub enum Ept {}

impl Format for Ept {
    const NAME: &'static str = "EPT";
    const LEVELS: (u8, u8) = (4, 5);
    const HARDWARE_BITS: u64 = AD;

    fn accepts(permissions: Permissions, _: Caching) -> bool {
        permissions.read
    }

    fn table(to: HostPhys) -> u64 {
        to.0 | R | W | X
    }

    fn leaf(level: u8, to: HostPhys, permissions: Permissions, caching: Caching) -> u64 {
        let mut entry = to.0 | R;
        if permissions.write {
            entry |= W;
        }
        if permissions.execute {
            entry |= X;
        }
        if level > 1 {
            entry |= LARGE;
        }
        entry
            | match caching {
                Caching::WriteBack => WB,
                Caching::Uncached => UC,
                Caching::WriteCombining => WC,
                Caching::Coherent => WB | IPAT,
            }
    }

    fn is_present(entry: u64) -> bool {
        entry & (R | W | X) != 0
    }

    fn permissions(entry: u64) -> Permissions {
        Permissions { read: entry & R != 0, write: entry & W != 0, execute: entry & X != 0 }
    }

    fn caching(entry: u64) -> Caching {
        match (entry & TYPE, entry & IPAT != 0) {
            (WB, true) => Caching::Coherent,
            (WB, false) => Caching::WriteBack,
            (WC, _) => Caching::WriteCombining,
            _ => Caching::Uncached,
        }
    }
}
