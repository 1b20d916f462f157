//! What a format is: which bits of an entry mean what, as data. The formats
//! themselves stand in a file each, with the chapter of the manual they are from.

use super::kinds::{Caching, Permissions};
use crate::addr::HostPhys;

/// Entries in a table.
pub(super) const ENTRIES: u64 = 512;
/// Bits 51:12 of an entry: the widest physical address any of these formats holds.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 7 at levels 2 and 3: the entry is a leaf. All formats here agree on it.
const LARGE: u64 = 1 << 7;

/// Log2 of the bytes that one entry at `level` (1 to 5) covers.
pub(super) const fn shift(level: u8) -> u32 {
    12 + 9 * (level as u32 - 1)
}

/// Bytes that one entry at `level` (1 to 5) covers.
pub(super) const fn span(level: u8) -> u64 {
    1 << shift(level)
}

/// Everything of a leaf but where it leads and its size: what neighbouring leaves of
/// one mapping, and the leaves that a large one is split into, have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attributes(u64);

/// A page-table format.
///
/// Levels count from 1 (4 KiB entries) upwards. A leaf may stand at levels 1 to 3.
#[derive(Debug)]
pub struct Format {
    /// The name, for errors.
    pub name: &'static str,
    /// How many levels a tree may have, from and to, inclusive.
    pub(super) levels: (u8, u8),
    /// Addresses are sign-extended; only their lower half is used here.
    pub(super) canonical: bool,
    /// An entry with any of these is looked at by hardware.
    pub(super) present: u64,
    /// Bits of an entry that links a lower table; it restricts nothing.
    pub(super) table: u64,
    /// Bits of every leaf.
    pub(super) leaf: u64,
    /// The bit that allows reads, 0 if every leaf does.
    pub(super) read: u64,
    /// The bit that allows writes.
    pub(super) write: u64,
    /// What a leaf carries besides when writes are allowed.
    pub(super) with_write: u64,
    /// The bit that allows instruction fetches, 0 if there is none.
    pub(super) execute: u64,
    /// The bit that forbids instruction fetches, 0 if there is none.
    pub(super) no_execute: u64,
    /// Bits that a change of permissions takes away where it does not set them.
    pub(super) permissions: u64,
    /// What each kind of [`Caching`] encodes as, `None` if it cannot be said.
    pub(super) caching: [(Caching, Option<u64>); 4],
    /// All bits of the memory type.
    pub(super) caching_mask: u64,
    /// The accessed bit, that hardware may set by itself.
    pub(super) accessed: u64,
    /// The dirty bit, that hardware may set by itself.
    pub(super) dirty: u64,
    /// Leaves that cannot be read do not exist.
    pub(super) always_readable: bool,
}

impl Format {
    /// How many low address bits a tree of `levels` translates.
    #[must_use]
    pub fn input_bits(&self, levels: u8) -> u32 {
        12 + 9 * u32::from(levels) - u32::from(self.canonical)
    }

    /// Whether a tree may have `levels`.
    #[must_use]
    pub fn has_levels(&self, levels: u8) -> bool {
        (self.levels.0..=self.levels.1).contains(&levels)
    }

    /// Whether a leaf can say this.
    #[must_use]
    pub fn accepts(&self, permissions: Permissions, caching: Caching) -> bool {
        let reachable = permissions.read || (permissions.write && !self.always_readable);
        reachable && self.encode(caching).is_some()
    }

    /// An entry that links the next lower table; restricts nothing.
    #[must_use]
    pub fn table(&self, to: HostPhys) -> u64 {
        to.0 | self.table
    }

    /// A leaf at `level`, for something that [`accepts`](Self::accepts) allows.
    #[must_use]
    pub fn leaf(&self, level: u8, to: HostPhys, permissions: Permissions, caching: Caching) -> u64 {
        self.entry(level, to, self.attributes(permissions, caching))
    }

    /// Whether hardware looks at the entry at all.
    #[must_use]
    pub fn is_present(&self, entry: u64) -> bool {
        entry & self.present != 0
    }

    /// Whether a present entry at `level` is a leaf.
    #[must_use]
    pub fn is_leaf(&self, entry: u64, level: u8) -> bool {
        level == 1 || (level <= 3 && entry & LARGE != 0)
    }

    /// The table that a present entry links.
    #[must_use]
    pub fn table_address(&self, entry: u64) -> HostPhys {
        HostPhys(entry & ADDRESS)
    }

    /// The memory that a leaf at `level` maps. (Bit 12 of a large leaf may be PAT, not address.)
    #[must_use]
    pub fn leaf_address(&self, entry: u64, level: u8) -> HostPhys {
        HostPhys(entry & ADDRESS & !(span(level) - 1))
    }

    /// What the entry allows.
    #[must_use]
    pub fn permissions(&self, entry: u64) -> Permissions {
        Permissions {
            read: self.read == 0 || entry & self.read != 0,
            write: entry & self.write != 0,
            execute: entry & self.execute != 0 || (self.no_execute != 0 && entry & self.no_execute == 0),
        }
    }

    /// The memory type that a leaf asks for; uncached if it is none that this code writes.
    #[must_use]
    pub fn caching(&self, entry: u64) -> Caching {
        let kinds = self.caching.iter();
        let found = kinds.filter(|(_, bits)| *bits == Some(entry & self.caching_mask)).map(|(kind, _)| *kind).next();
        found.unwrap_or(Caching::Uncached)
    }

    fn encode(&self, caching: Caching) -> Option<u64> {
        self.caching.iter().find(|(kind, _)| *kind == caching).and_then(|(_, bits)| *bits)
    }

    /// Bits that hardware may set in an entry by itself.
    pub(super) fn hardware_bits(&self) -> u64 {
        self.accessed | self.dirty
    }

    /// The bits of a leaf that say these permissions.
    pub(super) fn permission_bits(&self, permissions: Permissions) -> u64 {
        let bit = |set: bool, bits: u64| if set { bits } else { 0 };
        bit(permissions.read, self.read)
            | bit(permissions.write, self.write | self.with_write)
            | bit(permissions.execute, self.execute)
            | bit(!permissions.execute, self.no_execute)
    }

    pub(super) fn attributes(&self, permissions: Permissions, caching: Caching) -> Attributes {
        Attributes(self.leaf | self.permission_bits(permissions) | self.encode(caching).unwrap_or(0))
    }

    /// The attributes of a leaf as found.
    pub(super) fn attributes_of(&self, entry: u64, level: u8) -> Attributes {
        let place = self.leaf_address(entry, level).0 | if level > 1 { LARGE } else { 0 };
        Attributes(entry & !place)
    }

    /// The same with other permissions.
    pub(super) fn with_permissions(&self, attributes: Attributes, permissions: Permissions) -> Attributes {
        Attributes(attributes.0 & !self.permissions | self.permission_bits(permissions))
    }

    /// Whether two leaves differ in nothing but what hardware notes by itself.
    pub(super) fn alike(&self, one: Attributes, other: Attributes) -> bool {
        (one.0 ^ other.0) & !self.hardware_bits() == 0
    }

    /// Whether there is no bit whose meaning this code does not know.
    pub(super) fn knows(&self, attributes: Attributes) -> bool {
        // What is left of an address is none: PAT of a large leaf.
        attributes.0 & (self.unknown_bits() | ADDRESS) == 0
    }

    /// Bits of a 4 KiB leaf whose meaning this code does not know.
    pub(super) fn unknown_bits(&self) -> u64 {
        let known = self.leaf
            | self.read
            | self.write
            | self.with_write
            | self.execute
            | self.no_execute
            | self.caching_mask
            | self.hardware_bits();
        !(known | ADDRESS)
    }

    /// The leaf at `level` that leads to `to`.
    pub(super) fn entry(&self, level: u8, to: HostPhys, attributes: Attributes) -> u64 {
        to.0 | attributes.0 | if level > 1 { LARGE } else { 0 }
    }
}
