//! The root and context tables of one unit: VT-d 3.4, 9.1, 9.3.
//!
//! A context table is linked when the first device of its bus is attached and stays:
//! an empty one blocks as well as none.

use super::spec::tables::{ContextEntry, ENTRIES, ENTRY_BYTES, RootEntry, pair, unpair};
use crate::error::Error;
use crate::platform::Platform;
use machine::access::TableMemory;
use machine::addr::{HostPhys, PAGE_SIZE};

/// The root table and what hangs below it.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) root: HostPhys,
    /// The unit snoops.
    pub(crate) coherent: bool,
}

impl Tables {
    /// The root entry of `bus`.
    pub(crate) fn root_entry(&self, mem: &dyn TableMemory, bus: u8) -> RootEntry {
        RootEntry::from_bits(read_pair(mem, self.root_place(bus)))
    }

    /// The context entry of `source`; zeroes when its bus has no context table.
    pub(crate) fn context(&self, mem: &dyn TableMemory, source: u16) -> ContextEntry {
        let root = self.root_entry(mem, (source >> 8) as u8);
        if !root.present() {
            return ContextEntry::new();
        }
        ContextEntry::from_bits(read_pair(mem, context_place(root.table(), source)))
    }

    /// Makes sure that the bus of `source` has a context table.
    pub(crate) fn prepare(&self, platform: &mut Platform<'_>, source: u16) -> Result<(), Error> {
        let bus = (source >> 8) as u8;
        if self.root_entry(platform.mem, bus).present() {
            return Ok(());
        }
        let table = frame(platform, self.coherent, "a context table")?;
        self.store(platform, self.root_place(bus), RootEntry::link(table).into_bits());
        Ok(())
    }

    /// Writes the context entry of `source` at once. [`prepare`](Self::prepare) came before.
    pub(crate) fn set_context(&self, platform: &mut Platform<'_>, source: u16, entry: ContextEntry) {
        let root = self.root_entry(platform.mem, (source >> 8) as u8);
        if root.present() {
            self.store(platform, context_place(root.table(), source), entry.into_bits());
        }
    }

    /// Calls `visit` with the root table and every context table.
    pub(crate) fn for_each_frame(&self, mem: &dyn TableMemory, visit: &mut dyn FnMut(HostPhys)) {
        visit(self.root);
        for bus in 0..=u8::MAX {
            let entry = self.root_entry(mem, bus);
            if entry.present() {
                visit(entry.table());
            }
        }
    }

    /// Frees all tables. The unit must not walk them any more.
    pub(crate) fn free(self, mem: &mut dyn TableMemory) {
        for bus in 0..=u8::MAX {
            let entry = self.root_entry(mem, bus);
            if entry.present() {
                mem.free(entry.table());
            }
        }
        mem.free(self.root);
    }

    fn root_place(&self, bus: u8) -> HostPhys {
        HostPhys(self.root.0 + u64::from(bus) * ENTRY_BYTES)
    }

    fn store(&self, platform: &mut Platform<'_>, at: HostPhys, entry: u128) {
        platform.mem.write_pair(at, pair(entry));
        if !self.coherent {
            platform.mem.flush(at, ENTRY_BYTES);
        }
    }
}

/// Where the context entry of `source` is in the context table of its bus.
pub(crate) fn context_place(table: HostPhys, source: u16) -> HostPhys {
    HostPhys(table.0 + u64::from(source) % ENTRIES * ENTRY_BYTES)
}

/// The 16-byte entry at `at`.
pub(crate) fn read_pair(mem: &dyn TableMemory, at: HostPhys) -> u128 {
    unpair([mem.read(at), mem.read(HostPhys(at.0 + 8))])
}

/// A zeroed frame that the unit sees as zeroes.
pub(crate) fn frame(platform: &mut Platform<'_>, coherent: bool, what: &'static str) -> Result<HostPhys, Error> {
    let frame = platform.mem.allocate().ok_or(Error::OutOfMemory { what })?;
    if !coherent {
        platform.mem.flush(frame, PAGE_SIZE);
    }
    Ok(frame)
}
