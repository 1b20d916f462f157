//! Isolation groups: which functions can reach each other, or pose as each other, without the IOMMU noticing.
//!
//! The IOMMU tells devices apart by the requester id of their requests, and sees only what reaches the root
//! complex. Two things undo that: a route between peers below it, and an id that is not the sender's own. Functions
//! that one of them joins are a group, and a group has one owner.
//!
//! - `control`: switches the access control services on, once, at power-on
//! - `names`: the requester ids a function's requests can carry
//! - `compute`: the groups, from what is switched on
//! - `error`: why a function can't be given away

mod compute;
mod control;
mod error;
mod names;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

pub use control::enable_acs;
pub use error::GroupError;

use super::bdf::Bdf;
use super::extended::Acs;
use alloc::vec::Vec;
use core::fmt;

/// What keeps a port from routing requests to peers past the IOMMU, and functions from posing as others (PCIe 6.12.1.1).
pub(super) const NEEDED: Acs =
    Acs::SOURCE_VALIDATION.union(Acs::REQUEST_REDIRECT).union(Acs::COMPLETION_REDIRECT).union(Acs::UPSTREAM_FORWARDING);

/// Why functions are in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A port does not keep what is behind it apart.
    NoAcs {
        /// The port.
        port: Bdf,
        /// The access control services that are not on.
        lacks: Acs,
    },
    /// Behind a bridge to conventional PCI everything shares the bridge's requester ids.
    Conventional {
        /// The bridge.
        bridge: Bdf,
    },
    /// A function of a device with several, without access control services.
    Siblings {
        /// The function.
        function: Bdf,
    },
    /// A function's requests can carry another's requester id.
    Alias {
        /// The function.
        function: Bdf,
        /// Whose id they can carry.
        of: Bdf,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAcs { port, lacks } => {
                write!(f, "port {port} does not keep the devices behind it apart (no ACS {lacks:?})")
            }
            Self::Conventional { bridge } => {
                write!(f, "devices behind the PCI bridge {bridge} share its requester ids")
            }
            Self::Siblings { function } => write!(f, "{function} can reach the other functions of its device (no ACS)"),
            Self::Alias { function, of } => write!(f, "requests of {function} can carry the id of {of}"),
        }
    }
}

/// Functions that have to have one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name: the lowest of its functions. The same after an upgrade, and after functions were added elsewhere.
    pub id: Bdf,
    /// Its functions but for bridges, in order.
    pub members: Vec<Bdf>,
    /// Its bridges, in order. They make no requests of their own and are never given away.
    pub bridges: Vec<Bdf>,
    /// What joins them; empty for a function alone.
    pub why: Vec<Why>,
    /// A root port above that does not check whose ids requests carry: what is behind it can pose as any function of the
    /// segment, so the group can't be given away at all.
    pub unvalidated: Option<Bdf>,
}

/// All groups of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    groups: Vec<Group>,
    functions: Vec<Named>,
}

/// A function as the IOMMU sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    bdf: Bdf,
    bridge: bool,
    /// Index of its group.
    group: usize,
    names: names::Names,
}

impl Groups {
    /// The groups, in the order in which their first functions were found.
    pub fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    /// The group of `device`.
    #[must_use]
    pub fn of(&self, device: Bdf) -> Option<&Group> {
        self.groups.get(self.named(device)?.group)
    }

    /// The requester ids that requests of `device` can carry: its own first, then its aliases. Empty for an unknown one.
    #[must_use]
    pub fn requester_ids(&self, device: Bdf) -> &[u16] {
        self.named(device).map_or(&[], |named| &named.names.ids)
    }

    /// The first and last requester id that the interrupts of `device` can carry, where a bridge to conventional PCI takes
    /// them over, and everybody's behind it; none where they carry the device's own.
    #[must_use]
    pub fn bridged_interrupts(&self, device: Bdf) -> Option<(u16, u16)> {
        self.named(device)?.names.interrupts
    }

    /// For devices of one owner: each with the ids, besides its own, under which it is to be attached. An id that several of
    /// them share is given to the first, so that each id occurs once.
    #[must_use]
    pub fn sources(&self, devices: &[Bdf]) -> Vec<(Bdf, Vec<u16>)> {
        let mut taken: Vec<Bdf> = devices.to_vec();
        let mut sources = Vec::new();
        for device in devices {
            let mut aliases = Vec::new();
            for id in self.requester_ids(*device) {
                let name = Bdf::from_requester_id(device.segment(), *id);
                if !taken.contains(&name) {
                    taken.push(name);
                    aliases.push(*id);
                }
            }
            sources.push((*device, aliases));
        }
        sources
    }

    /// Whether `device` may go to somebody of whom `holds` says which functions are (or will be) theirs.
    ///
    /// # Errors
    /// It is a bridge or absent, part of its group is another's or nobody's, or it could pose as anything.
    pub fn check(&self, device: Bdf, holds: impl Fn(Bdf) -> bool) -> Result<(), GroupError> {
        let named = self.named(device).ok_or(GroupError::Absent { device })?;
        let group = self.groups.get(named.group).ok_or(GroupError::Absent { device })?;
        if named.bridge {
            return Err(GroupError::Bridge { device });
        }
        if let Some(port) = group.unvalidated {
            return Err(GroupError::Unvalidated { device, port });
        }
        let missing: Vec<Bdf> =
            group.members.iter().copied().filter(|member| *member != device && !holds(*member)).collect();
        if missing.is_empty() { Ok(()) } else { Err(GroupError::Partial { device, missing, why: group.why.clone() }) }
    }

    fn named(&self, device: Bdf) -> Option<&Named> {
        self.functions.iter().find(|named| named.bdf == device)
    }
}
