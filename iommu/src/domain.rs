//! A domain: one I/O address space, and the domain id it has on each unit.

use crate::error::Error;
use crate::geometry::Geometry;
use crate::ids::{Token, UnitIndex};
use crate::table::{Stage, Table};
use alloc::vec::Vec;
use machine::addr::HostPhys;
use machine::paging::LeafSizes;

/// The domain id of a domain on one unit.
#[derive(Clone, Debug)]
pub(crate) struct DomainId {
    pub(crate) unit: UnitIndex,
    pub(crate) did: u16,
    /// Devices and PASIDs attached through that unit.
    pub(crate) users: usize,
    /// The PASIDs that these use, ascending, each once; 0 is requests without PASID.
    pub(crate) pasids: Vec<u32>,
}

/// One I/O address space: a page table in most cases. See `Iommu` for what can be done with it.
#[derive(Debug)]
pub struct Domain {
    pub(crate) token: Token,
    pub(crate) table: Table,
    /// Requests are snooped, whatever they ask for; every unit of the domain has ECAP.SC.
    pub(crate) snoop: bool,
    /// Every unit of the domain snoops when it walks the table.
    pub(crate) coherent: bool,
    /// Address bits that every unit of the domain accepts.
    pub(crate) address_bits: u8,
    /// How often it was frozen and not yet unfrozen.
    pub(crate) frozen: u32,
    /// An invalidation failed: hardware may still hold what was unmapped.
    pub(crate) stale: bool,
    pub(crate) ids: Vec<DomainId>,
}

impl Domain {
    /// A domain with the abilities of some units, to which nothing is attached yet.
    pub(crate) fn new(token: Token, table: Table, geometry: Geometry) -> Self {
        Self {
            token,
            table,
            snoop: geometry.snoop,
            coherent: geometry.coherent,
            address_bits: geometry.address_bits,
            frozen: 0,
            stale: false,
            ids: Vec::new(),
        }
    }

    /// The name.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// Which kind of tables it has.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.table.stage()
    }

    /// The domain whose second stage a nested one stands on.
    #[must_use]
    pub fn parent(&self) -> Option<Token> {
        self.table.parent()
    }

    /// Physical address of the page table's root; 0 for a domain without one of ours.
    #[must_use]
    pub fn root(&self) -> HostPhys {
        self.table.root()
    }

    /// Levels of the page table, 3 to 5; 0 for a domain without.
    #[must_use]
    pub fn levels(&self) -> u8 {
        self.table.levels()
    }

    /// Leaf sizes that new leaves may have.
    #[must_use]
    pub fn leaf_sizes(&self) -> LeafSizes {
        self.table.leaf_sizes()
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

    /// Counts one more user of `pasid` on `unit`, where the domain has the id `did`.
    pub(crate) fn enter(&mut self, unit: UnitIndex, did: u16, pasid: u32) {
        let id = match self.ids.iter_mut().position(|id| id.unit == unit) {
            Some(index) => self.ids.get_mut(index),
            None => {
                self.ids.push(DomainId { unit, did, users: 0, pasids: Vec::new() });
                self.ids.last_mut()
            }
        };
        if let Some(id) = id {
            id.users += 1;
            if let Err(place) = id.pasids.binary_search(&pasid) {
                id.pasids.insert(place, pasid);
            }
        }
    }
}
