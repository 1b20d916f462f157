//! What a mapping allows, how it is cached, and how large its leaves may be.

use crate::addr::{PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use core::fmt;

/// What may be done through a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permissions {
    /// Loads (or a device's reads).
    pub read: bool,
    /// Stores (or a device's writes).
    pub write: bool,
    /// Instruction fetches. Meaningless to devices.
    pub execute: bool,
}

impl Permissions {
    /// Read only.
    pub const READ: Self = Self { read: true, write: false, execute: false };
    /// Read and write, no execution.
    pub const READ_WRITE: Self = Self { read: true, write: true, execute: false };
    /// Read and execute, no writes.
    pub const READ_EXECUTE: Self = Self { read: true, write: false, execute: true };
    /// Everything.
    pub const ALL: Self = Self { read: true, write: true, execute: true };

    /// What both allow.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { read: self.read && other.read, write: self.write && other.write, execute: self.execute && other.execute }
    }
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flag = |set: bool, letter: char| if set { letter } else { '-' };
        write!(f, "{}{}{}", flag(self.read, 'r'), flag(self.write, 'w'), flag(self.execute, 'x'))
    }
}

/// The memory type of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Caching {
    /// Ordinary memory. Where there is another side with a say (the guest's PAT
    /// under EPT, a device's no-snoop attribute under VT-d), it is heard.
    WriteBack,
    /// Registers: no caching, no reordering.
    Uncached,
    /// Frame buffers. Only formats with a memory type in the entry have it (EPT).
    WriteCombining,
    /// Write-back whatever the other side asks for: EPT ignores the guest's PAT
    /// (IPAT), VT-d snoops even no-snoop requests (SNP; the unit needs ECAP.SC,
    /// otherwise the bit is reserved and faults).
    Coherent,
}

/// What to do about parts of a range that are not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holes {
    /// Refuse the whole operation with `NotMapped`; nothing changes.
    Refuse,
    /// Pass over them.
    Tolerate,
}

/// Which leaf sizes the walker understands, besides 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeafSizes {
    /// 2 MiB leaves at level 2.
    pub two_mib: bool,
    /// 1 GiB leaves at level 3.
    pub one_gib: bool,
}

impl LeafSizes {
    /// 4 KiB only.
    pub const ONLY_4K: Self = Self { two_mib: false, one_gib: false };
    /// 4 KiB and 2 MiB.
    pub const UP_TO_2M: Self = Self { two_mib: true, one_gib: false };
    /// 4 KiB, 2 MiB and 1 GiB.
    pub const UP_TO_1G: Self = Self { two_mib: true, one_gib: true };

    /// Bytes of the largest.
    #[must_use]
    pub const fn largest(self) -> u64 {
        match self {
            Self { one_gib: true, .. } => PAGE_SIZE_1G,
            Self { two_mib: true, .. } => PAGE_SIZE_2M,
            _ => PAGE_SIZE,
        }
    }

    /// Those that both have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self { two_mib: self.two_mib && other.two_mib, one_gib: self.one_gib && other.one_gib }
    }

    /// Whether a leaf may stand at `level` (1 is the lowest).
    #[must_use]
    pub const fn allow(self, level: u8) -> bool {
        match level {
            1 => true,
            2 => self.two_mib,
            3 => self.one_gib,
            _ => false,
        }
    }
}
