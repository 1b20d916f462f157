//! Frames that a record says hardware walks: each belongs to the IOMMU, and none
//! serves twice. Asked before the frame is read.

use crate::error::Error;
use alloc::collections::BTreeSet;
use machine::access::TableMemory;
use machine::addr::{HostPhys, PAGE_SIZE};
use machine::paging::Format;

/// Entries in a page table.
const ENTRIES: u64 = 512;

/// What was claimed so far.
pub(crate) struct Ledger<'a> {
    owned: &'a dyn Fn(HostPhys) -> bool,
    claimed: BTreeSet<HostPhys>,
}

impl<'a> Ledger<'a> {
    pub(crate) fn new(owned: &'a dyn Fn(HostPhys) -> bool) -> Self {
        Self { owned, claimed: BTreeSet::new() }
    }

    /// Claims `frame` for one purpose.
    pub(crate) fn claim(&mut self, what: &'static str, frame: HostPhys) -> Result<(), Error> {
        let sound = frame.is_aligned(PAGE_SIZE) && (self.owned)(frame) && self.claimed.insert(frame);
        if sound { Ok(()) } else { Err(Error::ForeignFrame { what, frame }) }
    }

    /// Claims every table of a page table. Ends, whatever memory holds: no table is
    /// entered twice.
    pub(crate) fn claim_tree(
        &mut self,
        mem: &dyn TableMemory,
        format: &Format,
        table: HostPhys,
        level: u8,
    ) -> Result<(), Error> {
        self.claim("a page table", table)?;
        if level <= 1 {
            return Ok(());
        }
        for index in 0..ENTRIES {
            let entry = mem.read(HostPhys(table.0 + index * 8));
            if format.is_present(entry) && !format.is_leaf(entry, level) {
                self.claim_tree(mem, format, format.table_address(entry), level - 1)?;
            }
        }
        Ok(())
    }
}
