//! Which capabilities of a physical function the guest sees (PCI 3.0 6.7). Each stays at
//! its offset; the list skips the rest.

use alloc::vec::Vec;

use super::access::PhysicalFunction;
use super::config::{CAPABILITIES, COMMAND, CONVENTIONAL_END, HEADER_END, STATUS_CAPABILITIES};

/// A list that is longer than the space it lives in has a loop.
const LONGEST: usize = 48;

/// A capability that is virtualized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    PowerManagement,
    Msi,
    Express,
    Msix,
}

impl Kind {
    const fn from_id(id: u8) -> Option<Self> {
        match id {
            0x01 => Some(Self::PowerManagement),
            0x05 => Some(Self::Msi),
            0x10 => Some(Self::Express),
            0x11 => Some(Self::Msix),
            _ => None,
        }
    }

    pub(super) const fn id(self) -> u8 {
        match self {
            Self::PowerManagement => 0x01,
            Self::Msi => 0x05,
            Self::Express => 0x10,
            Self::Msix => 0x11,
        }
    }
}

/// One visible capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capability {
    pub kind: Kind,
    pub offset: u16,
    pub bytes: u16,
}

impl Capability {
    pub(super) const fn contains(&self, offset: u16) -> bool {
        offset >= self.offset && offset < self.offset + self.bytes
    }
}

/// What is wrong with a physical capability list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListError {
    Loop,
    Outside(u16),
}

/// Walks the physical list and keeps the first of each kind that is virtualized.
pub(super) fn scan(hardware: &mut dyn PhysicalFunction) -> Result<Vec<Capability>, ListError> {
    let mut kept: Vec<Capability> = Vec::new();
    if hardware.config_read(COMMAND, 4) >> 16 & STATUS_CAPABILITIES == 0 {
        return Ok(kept);
    }
    let mut offset = hardware.config_read(CAPABILITIES, 1) as u16 & 0xFC;
    for _ in 0..LONGEST {
        if offset == 0 {
            return Ok(kept);
        }
        if offset < HEADER_END {
            return Err(ListError::Outside(offset));
        }
        let header = hardware.config_read(offset, 4);
        if let Some(kind) = Kind::from_id(header as u8)
            && !kept.iter().any(|capability| capability.kind == kind)
        {
            let bytes = length(kind, header >> 16).min(CONVENTIONAL_END - offset);
            if bytes < minimum(kind, header >> 16) {
                return Err(ListError::Outside(offset));
            }
            kept.push(Capability { kind, offset, bytes });
        }
        offset = (header >> 8) as u16 & 0xFC;
    }
    Err(ListError::Loop)
}

const fn length(kind: Kind, control: u32) -> u16 {
    match kind {
        Kind::PowerManagement => 8,
        Kind::Msix => 12,
        // Up to and including the slot control 2 registers (PCIe 7.5.3).
        Kind::Express => 0x3C,
        Kind::Msi => match (control >> 7 & 1, control >> 8 & 1) {
            (0, 0) => 12,
            (1, 0) => 16,
            (0, _) => 20,
            _ => 24,
        },
    }
}

const fn minimum(kind: Kind, control: u32) -> u16 {
    match kind {
        // An integrated endpoint of version 1 ends after the device registers.
        Kind::Express => 0x0C,
        _ => length(kind, control),
    }
}
