//! A domain: one I/O page table, and the domain id it has on each unit.

use crate::error::Error;
use crate::ids::{Token, UnitIndex};
use alloc::vec::Vec;
use machine::paging::PageTable;

/// The domain id of a domain on one unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DomainId {
    pub(crate) unit: UnitIndex,
    pub(crate) did: u16,
    /// Devices attached through that unit.
    pub(crate) devices: usize,
}

/// One I/O page table. See `Iommu` for what can be done with it.
#[derive(Debug)]
pub struct Domain {
    pub(crate) token: Token,
    pub(crate) table: PageTable,
    /// Leaves force snooping (SNP); every unit has ECAP.SC.
    pub(crate) snoop: bool,
    /// How often it was frozen and not yet unfrozen.
    pub(crate) frozen: u32,
    /// An invalidation failed: hardware may still hold what was unmapped.
    pub(crate) stale: bool,
    pub(crate) ids: Vec<DomainId>,
}

impl Domain {
    /// The name.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// The page table.
    #[must_use]
    pub fn table(&self) -> &PageTable {
        &self.table
    }

    /// How often the domain is frozen; 0 is mutable.
    #[must_use]
    pub fn frozen(&self) -> u32 {
        self.frozen
    }

    /// The domain's id on `unit`, while a device is attached through it.
    #[must_use]
    pub fn id_on(&self, unit: UnitIndex) -> Option<u16> {
        self.ids.iter().find(|id| id.unit == unit).map(|id| id.did)
    }

    /// Refuses an operation while the domain is frozen.
    pub(crate) fn mutable(&self, operation: &'static str) -> Result<(), Error> {
        if self.frozen > 0 { Err(Error::Busy { token: self.token, operation }) } else { Ok(()) }
    }

    /// Refuses more mappings and devices while hardware may hold what was unmapped.
    pub(crate) fn fresh(&self) -> Result<(), Error> {
        if self.stale { Err(Error::Stale { token: self.token }) } else { Ok(()) }
    }
}
