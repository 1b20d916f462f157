//! x86-64 long mode: SDM 3A 4.5, APM2 5.3.

use super::format::{Format, LARGE};
use super::kinds::{Caching, Permissions};
use crate::addr::HostPhys;

/// Present.
pub(super) const P: u64 = 1 << 0;
/// Writable.
pub(super) const RW: u64 = 1 << 1;
/// Page-level write-through: bit 0 of the PAT index.
const PWT: u64 = 1 << 3;
/// Page-level cache disable: bit 1 of the PAT index.
const PCD: u64 = 1 << 4;
/// Accessed.
const A: u64 = 1 << 5;
/// Dirty.
const D: u64 = 1 << 6;
/// No execution.
const NX: u64 = 1 << 63;

/// The hypervisor's own address space.
///
/// - Supervisor only (U/S clear); EFER.NXE must be on.
/// - Uncached is PCD and PWT, entry 3 of the PAT as it is after reset (UC). Nothing
///   else of the PAT is used, so its other entries don't matter.
/// - Accessed and dirty are set from the start: the walker then never writes into
///   tables, which may be mapped read-only.
/// - The global bit is never set: a jump to another image is a write to CR3, and it
///   must not leave translations of the old image behind.
/// - Only the lower half of the address space (the identity map) is reachable.
#[derive(Clone, Copy, Debug)]
pub enum Host {}

impl Format for Host {
    const NAME: &'static str = "host";
    const LEVELS: (u8, u8) = (4, 5);
    const HARDWARE_BITS: u64 = A | D;

    fn input_bits(levels: u8) -> u32 {
        11 + 9 * u32::from(levels)
    }

    fn accepts(permissions: Permissions, caching: Caching) -> bool {
        permissions.read && matches!(caching, Caching::WriteBack | Caching::Uncached)
    }

    fn table(to: HostPhys) -> u64 {
        to.0 | P | RW | A
    }

    fn leaf(level: u8, to: HostPhys, permissions: Permissions, caching: Caching) -> u64 {
        let mut entry = to.0 | P | A;
        if level > 1 {
            entry |= LARGE;
        }
        if permissions.write {
            // Dirty without writable would be a shadow stack page (SDM 1 17.2.3).
            entry |= RW | D;
        }
        if !permissions.execute {
            entry |= NX;
        }
        if caching == Caching::Uncached {
            entry |= PCD | PWT;
        }
        entry
    }

    fn is_present(entry: u64) -> bool {
        entry & P != 0
    }

    fn permissions(entry: u64) -> Permissions {
        Permissions { read: true, write: entry & RW != 0, execute: entry & NX == 0 }
    }

    fn caching(entry: u64) -> Caching {
        if entry & PCD != 0 { Caching::Uncached } else { Caching::WriteBack }
    }
}
