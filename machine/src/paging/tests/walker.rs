//! Hardware's walk, with every reserved bit, written from the manuals: SDM 3A 4.5
//! (tables 4-14 to 4-20), APM2 15.25, SDM 3C 29.3.2, VT-d 9.8.

use crate::paging::{EPT, Format, HOST, NPT, Permissions, VTD_FIRST_STAGE, VTD_SECOND_STAGE};
use std::collections::BTreeMap;

/// What hardware makes of one entry.
pub enum Step {
    NotPresent,
    /// Link to the next table, and what it allows.
    Table(u64, Permissions),
    /// Address as the entry has it (low bits not yet checked), and what it allows.
    Leaf(u64, Permissions),
}

/// Where an address leads.
pub type Outcome = Option<(u64, Permissions)>;

/// A format as hardware reads it.
pub trait Hardware {
    /// The format under test.
    const FORMAT: &'static Format;
    /// The accessed and the dirty bit.
    const MARKS: (u64, u64);
    /// Levels to test with.
    const TEST_LEVELS: &'static [u8];
    fn step(entry: u64, level: u8) -> Result<Step, &'static str>;
    /// What of `permissions` the format can express.
    fn kept(permissions: Permissions) -> Permissions {
        permissions
    }
}

pub enum Host {}
pub enum Npt {}
pub enum Ept {}
pub enum SecondStage {}
pub enum FirstStage {}

const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

fn long_mode(entry: u64, level: u8) -> Result<Step, &'static str> {
    if entry & 1 == 0 {
        return Ok(Step::NotPresent);
    }
    if entry & 0x7ff0_0000_0000_0000 != 0 {
        return Err("bits 62:52");
    }
    if entry & 0x20 == 0 {
        return Err("accessed is clear: the walker would write");
    }
    if entry & 0x100 != 0 {
        return Err("global: survives a write to CR3");
    }
    let allowed = Permissions { read: true, write: entry & 2 != 0, execute: entry >> 63 == 0 };
    let large = entry & 0x80 != 0;
    match level {
        1 if large => Err("PAT bit of a 4 KiB leaf"),
        1 => Ok(Step::Leaf(entry & ADDRESS, allowed)),
        2 | 3 if large && entry & 0x1000 != 0 => Err("PAT bit of a large leaf"),
        2 | 3 if large => Ok(Step::Leaf(entry & ADDRESS, allowed)),
        _ if large => Err("PS at level 4 or 5"),
        _ => Ok(Step::Table(entry & ADDRESS, allowed)),
    }
}

impl Hardware for Host {
    const FORMAT: &'static Format = &HOST;
    const MARKS: (u64, u64) = (1 << 5, 1 << 6);
    const TEST_LEVELS: &'static [u8] = &[4, 5];
    fn step(entry: u64, level: u8) -> Result<Step, &'static str> {
        if entry & 1 != 0 && entry & 4 != 0 {
            return Err("user pages in the hypervisor's tables");
        }
        long_mode(entry, level)
    }
}

impl Hardware for Npt {
    const FORMAT: &'static Format = &NPT;
    const MARKS: (u64, u64) = (1 << 5, 1 << 6);
    const TEST_LEVELS: &'static [u8] = &[4, 5];
    fn step(entry: u64, level: u8) -> Result<Step, &'static str> {
        if entry & 1 != 0 && entry & 4 == 0 {
            return Err("U/S clear: every nested access faults");
        }
        long_mode(entry, level)
    }
}

impl Hardware for Ept {
    const FORMAT: &'static Format = &EPT;
    const MARKS: (u64, u64) = (1 << 8, 1 << 9);
    const TEST_LEVELS: &'static [u8] = &[4, 5];
    fn step(entry: u64, level: u8) -> Result<Step, &'static str> {
        let allowed = Permissions { read: entry & 1 != 0, write: entry & 2 != 0, execute: entry & 4 != 0 };
        if entry & 7 == 0 {
            return Ok(Step::NotPresent);
        }
        if allowed.write && !allowed.read {
            return Err("EPT misconfiguration: writable, not readable");
        }
        let leaf = level == 1 || (level <= 3 && entry & 0x80 != 0);
        if !leaf {
            if entry & 0xf8 != 0 {
                return Err("EPT misconfiguration: bits 7:3 of a table entry");
            }
            return Ok(Step::Table(entry & ADDRESS, allowed));
        }
        if matches!(entry >> 3 & 7, 2 | 3 | 7) {
            return Err("EPT misconfiguration: memory type");
        }
        Ok(Step::Leaf(entry & ADDRESS, allowed))
    }
}

impl Hardware for SecondStage {
    const FORMAT: &'static Format = &VTD_SECOND_STAGE;
    const MARKS: (u64, u64) = (1 << 8, 1 << 9);
    const TEST_LEVELS: &'static [u8] = &[3, 4, 5];
    fn step(entry: u64, level: u8) -> Result<Step, &'static str> {
        let allowed = Permissions { read: entry & 1 != 0, write: entry & 2 != 0, execute: false };
        if entry & 3 == 0 {
            return Ok(Step::NotPresent);
        }
        let large = entry & 0x80 != 0;
        let leaf = level == 1 || large;
        if large && !matches!(level, 2 | 3) {
            return Err("PS where it is reserved");
        }
        // Of a leaf, SNP (bit 11) too; here only when the test asked for it, and none does.
        // Accessed and dirty (9:8) stand in leaves only once hardware was told to mark them.
        if entry & !(ADDRESS | 3 | if leaf { 0x300 } else { 0 } | if large { 0x80 } else { 0 }) != 0 {
            return Err("reserved bits");
        }
        Ok(if leaf { Step::Leaf(entry & ADDRESS, allowed) } else { Step::Table(entry & ADDRESS, allowed) })
    }
    fn kept(permissions: Permissions) -> Permissions {
        Permissions { execute: false, ..permissions }
    }
}

impl Hardware for FirstStage {
    const FORMAT: &'static Format = &VTD_FIRST_STAGE;
    const MARKS: (u64, u64) = (1 << 5, 1 << 6);
    const TEST_LEVELS: &'static [u8] = &[4, 5];
    fn step(entry: u64, level: u8) -> Result<Step, &'static str> {
        if entry & 1 == 0 {
            return Ok(Step::NotPresent);
        }
        // VT-d tables 41 to 47. A unit without page-walk snoop can't set A and D: a fault, unless they are set.
        if entry & 0x4 == 0 {
            return Err("U/S clear: a user request is a fault");
        }
        if entry & 0x20 == 0 {
            return Err("accessed is clear: the walker would write");
        }
        if entry & 0x7ff0_0000_0000_0000 != 0 || entry >> 63 != 0 {
            return Err("bits 63:52: ignored or execute-disable");
        }
        if entry & 0xf18 != 0 {
            return Err("PWT, PCD, G, EA, or bits that are ignored");
        }
        let allowed = Permissions { read: true, write: entry & 2 != 0, execute: false };
        let large = entry & 0x80 != 0;
        match (level, large) {
            (1, true) => Err("PAT bit of a 4 KiB leaf"),
            (2 | 3, true) if entry & 0x1000 != 0 => Err("PAT bit of a large leaf"),
            (1, false) | (2 | 3, true) => Ok(Step::Leaf(entry & ADDRESS, allowed)),
            (_, true) => Err("PS at level 4 or 5 is reserved"),
            (_, false) => Ok(Step::Table(entry & ADDRESS, allowed)),
        }
    }
    fn kept(permissions: Permissions) -> Permissions {
        Permissions { execute: false, ..permissions }
    }
}

/// Walks as hardware does; panics on anything that hardware would call malformed.
pub fn walk<F: Hardware>(frames: &BTreeMap<u64, std::vec::Vec<u64>>, root: u64, levels: u8, at: u64) -> Outcome {
    let mut table = root;
    let mut permissions = F::kept(Permissions::ALL);
    for level in (1..=levels).rev() {
        let shift = 12 + 9 * (u32::from(level) - 1);
        let frame = frames.get(&table).unwrap_or_else(|| panic!("{at:#x}: level {level} leads to freed {table:#x}"));
        let entry = frame[(at >> shift) as usize & 511];
        match F::step(entry, level).unwrap_or_else(|why| panic!("{at:#x}: level {level} entry {entry:#x}: {why}")) {
            Step::NotPresent => return None,
            Step::Table(to, allowed) => {
                table = to;
                permissions = permissions.and(allowed);
            }
            Step::Leaf(to, allowed) => {
                let size = 1u64 << shift;
                assert_eq!(to % size, 0, "{at:#x}: level {level} leaf {entry:#x} is not aligned to its size");
                return Some((to + at % size, permissions.and(allowed)));
            }
        }
    }
    panic!("{at:#x}: no leaf at level 1");
}
