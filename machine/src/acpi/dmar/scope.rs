//! Device scopes: VT-d 8.3.1.

use super::error::{DmarError, ScopeError};
use crate::pci::{Bdf, ConfigSpace, HeaderKind};
use alloc::vec::Vec;

/// What a scope names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScopeKind(pub u8);

impl ScopeKind {
    /// One PCI function.
    pub const ENDPOINT: Self = Self(1);
    /// A bridge and all that is behind it.
    pub const SUB_HIERARCHY: Self = Self(2);
    /// An I/O APIC; the path gives the source id of its interrupts.
    pub const IO_APIC: Self = Self(3);
    /// An HPET, likewise.
    pub const HPET: Self = Self(4);
    /// A device that AML names.
    pub const NAMED: Self = Self(5);
}

/// One scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceScope {
    /// What it names.
    pub kind: ScopeKind,
    /// Where it stands in the table.
    pub offset: usize,
    /// Flags, of use in SATC and SIDP only.
    pub flags: u8,
    /// The id of the I/O APIC, HPET or named device.
    pub enumeration_id: u8,
    /// The bus the path begins on.
    pub start_bus: u8,
    /// Device and function, hop by hop; never empty.
    pub path: Vec<(u8, u8)>,
}

/// Parses the scopes that fill `bytes`, which begin at `offset` of the table.
pub(super) fn parse(bytes: &[u8], offset: usize) -> Result<Vec<DeviceScope>, DmarError> {
    let mut scopes = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let error = |bytes| DmarError::Scope { offset: offset + at, bytes };
        let [kind, length, flags, _, enumeration_id, start_bus, ..] = *rest else {
            return Err(error(u8::try_from(rest.len()).unwrap_or(u8::MAX)));
        };
        // At least one hop, and whole ones: zero would never end.
        let hops = rest.get(6..usize::from(length)).filter(|hops| !hops.is_empty() && hops.len() % 2 == 0);
        let path: Vec<(u8, u8)> = hops.ok_or(error(length))?.chunks_exact(2).map(|hop| (hop[0], hop[1])).collect();
        if path.iter().any(|&(device, function)| device > 31 || function > 7) {
            return Err(error(length));
        }
        scopes.push(DeviceScope { kind: ScopeKind(kind), offset: offset + at, flags, enumeration_id, start_bus, path });
        at += usize::from(length);
    }
    Ok(scopes)
}

/// The function that a scope names, through every bridge on its path. The function
/// itself need not answer: an I/O APIC often has a name, but no configuration space.
///
/// # Errors
/// A hop is no bridge, or one that leads back up.
pub fn resolve_scope(
    scope: &DeviceScope,
    segment: u16,
    config: &(impl ConfigSpace + ?Sized),
) -> Result<Bdf, ScopeError> {
    let offset = scope.offset;
    let at = |bus: u8, (device, function): (u8, u8)| {
        let id = u16::from(bus) << 8 | u16::from(device & 31) << 3 | u16::from(function & 7);
        Bdf::from_requester_id(segment, id)
    };
    let mut hops = scope.path.iter();
    let mut here = at(scope.start_bus, hops.next().copied().unwrap_or_default());
    for &hop in hops {
        match HeaderKind::read(config, here) {
            HeaderKind::Bridge { secondary, .. } if secondary > here.bus() => here = at(secondary, hop),
            HeaderKind::Bridge { secondary, .. } => {
                return Err(ScopeError::BusNumber { offset, bridge: here, secondary });
            }
            _ => return Err(ScopeError::NotABridge { offset, hop: here }),
        }
    }
    Ok(here)
}
