//! What a format is: which bits of an entry mean what. No logic lives here.

use super::kinds::{Caching, Permissions};
use crate::addr::HostPhys;

/// Entries in a table.
pub(super) const ENTRIES: u64 = 512;
/// Bits 51:12 of an entry: the widest physical address any of these formats holds.
pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 7 at levels 2 and 3: the entry is a leaf. All formats here agree on it.
pub(super) const LARGE: u64 = 1 << 7;

/// Log2 of the bytes that one entry at `level` (1 to 5) covers.
pub(super) const fn shift(level: u8) -> u32 {
    12 + 9 * (level as u32 - 1)
}

/// Bytes that one entry at `level` (1 to 5) covers.
pub(super) const fn span(level: u8) -> u64 {
    1 << shift(level)
}

/// A page-table format. Implementors are names, never values.
///
/// Levels count from 1 (4 KiB entries) upwards. A leaf may stand at levels 1 to 3.
pub trait Format {
    /// The name, for errors.
    const NAME: &'static str;
    /// How many levels a tree may have, from and to, inclusive.
    const LEVELS: (u8, u8);
    /// Bits that hardware may set in an entry by itself (accessed, dirty).
    const HARDWARE_BITS: u64;

    /// How many low address bits a tree of `levels` translates.
    #[must_use]
    fn input_bits(levels: u8) -> u32 {
        12 + 9 * u32::from(levels)
    }

    /// Whether a leaf can say this.
    fn accepts(permissions: Permissions, caching: Caching) -> bool;
    /// An entry that links the next lower table; restricts nothing.
    fn table(to: HostPhys) -> u64;
    /// A leaf at `level`, for something that [`accepts`](Self::accepts) allows.
    fn leaf(level: u8, to: HostPhys, permissions: Permissions, caching: Caching) -> u64;
    /// Whether hardware looks at the entry at all.
    fn is_present(entry: u64) -> bool;
    /// What the entry allows.
    fn permissions(entry: u64) -> Permissions;
    /// The memory type that a leaf asks for.
    fn caching(entry: u64) -> Caching;

    /// Whether a present entry at `level` is a leaf.
    #[must_use]
    fn is_leaf(entry: u64, level: u8) -> bool {
        level == 1 || (level <= 3 && entry & LARGE != 0)
    }

    /// The table that a present entry links.
    #[must_use]
    fn table_address(entry: u64) -> HostPhys {
        HostPhys(entry & ADDRESS)
    }

    /// The memory that a leaf at `level` maps. (Bit 12 of a large leaf is PAT, not address.)
    #[must_use]
    fn leaf_address(entry: u64, level: u8) -> HostPhys {
        HostPhys(entry & ADDRESS & !(span(level) - 1))
    }
}
