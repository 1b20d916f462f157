//! The PASID directory of one device, and the PASID tables that it links: VT-d 3.4.3, 9.5, 9.6.
//!
//! The directory is one frame: 512 tables of 64 PASIDs, of which only those are there that
//! were needed. All requester ids of a device share it.

use super::spec::scalable::{
    DIRECTORY_ENTRY_BYTES, DirectoryEntry, PASID_BYTES, PASIDS, PasidEntry, PasidFirst, PasidLow,
};
use super::spec::tables::pair;
use super::tables::{frame, read_pair};
use crate::error::Error;
use crate::platform::Platform;
use machine::access::TableMemory;
use machine::addr::{HostPhys, PAGE_SIZE};

/// The PASID whose entry requests without PASID use.
pub(crate) const OWN_PASID: u32 = 0;
/// Entries in the directory.
pub(crate) const TABLES: u64 = PAGE_SIZE / DIRECTORY_ENTRY_BYTES;
/// PASIDs below this have a place.
pub(crate) const LIMIT: u32 = (TABLES * PASIDS) as u32;

/// The directory of one device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PasidDirectory {
    pub(crate) frame: HostPhys,
    /// The unit snoops.
    pub(crate) coherent: bool,
}

impl PasidDirectory {
    /// An empty directory.
    pub(crate) fn new(platform: &mut Platform<'_>, coherent: bool) -> Result<Self, Error> {
        frame(platform, coherent, "a PASID directory").map(|frame| Self { frame, coherent })
    }

    /// Directory entry `index`, below [`TABLES`].
    pub(crate) fn link(&self, mem: &dyn TableMemory, index: u64) -> DirectoryEntry {
        DirectoryEntry::from_bits(mem.read(HostPhys(self.frame.0 + index * DIRECTORY_ENTRY_BYTES)))
    }

    /// The entry of `pasid`; one that is not present when it has no table.
    pub(crate) fn entry(&self, mem: &dyn TableMemory, pasid: u32) -> PasidEntry {
        match self.place(mem, pasid) {
            Some(at) => PasidEntry {
                low: PasidLow::from_bits(read_pair(mem, at)),
                first: PasidFirst::from_bits(read_pair(mem, HostPhys(at.0 + 16))),
            },
            None => PasidEntry::default(),
        }
    }

    /// Whether the reserved upper half of the entry of `pasid` is zero.
    pub(crate) fn upper_is_clear(&self, mem: &dyn TableMemory, pasid: u32) -> bool {
        let at = self.place(mem, pasid);
        at.is_none_or(|at| (32..PASID_BYTES).step_by(8).all(|offset| mem.read(HostPhys(at.0 + offset)) == 0))
    }

    /// Makes sure that there is a table for `pasid`.
    pub(crate) fn prepare(&self, platform: &mut Platform<'_>, pasid: u32) -> Result<(), Error> {
        let index = u64::from(pasid) / PASIDS;
        if index >= TABLES || self.link(platform.mem, index).present() {
            return Ok(());
        }
        let table = frame(platform, self.coherent, "a PASID table")?;
        let at = HostPhys(self.frame.0 + index * DIRECTORY_ENTRY_BYTES);
        platform.mem.write(at, DirectoryEntry::link(table).into_bits());
        self.write_back(platform, at, DIRECTORY_ENTRY_BYTES);
        Ok(())
    }

    /// Makes the entry of `pasid` present: all else first, P in the last store.
    /// [`prepare`](Self::prepare) came before, and the entry is not present.
    pub(crate) fn set(&self, platform: &mut Platform<'_>, pasid: u32, entry: PasidEntry) {
        let Some(at) = self.place(platform.mem, pasid) else { return };
        for offset in [48, 32] {
            platform.mem.write_pair(HostPhys(at.0 + offset), [0; 2]);
        }
        platform.mem.write_pair(HostPhys(at.0 + 16), pair(entry.first.into_bits()));
        // A unit that does not snoop must not see P before the rest, whatever leaves the cache first.
        self.write_back(platform, at, PASID_BYTES);
        platform.mem.write_pair(at, pair(entry.low.into_bits()));
        self.write_back(platform, at, PASID_BYTES);
    }

    /// Takes P from the entry of `pasid`. The rest stays until [`wipe`](Self::wipe): a unit
    /// that has read P = 1 may still be reading it.
    pub(crate) fn clear(&self, platform: &mut Platform<'_>, pasid: u32) {
        let Some(at) = self.place(platform.mem, pasid) else { return };
        let low = PasidLow::from_bits(read_pair(platform.mem, at));
        platform.mem.write_pair(at, pair(low.with_present(false).into_bits()));
        self.write_back(platform, at, PASID_BYTES);
    }

    /// Zeroes the entry of `pasid`, which the unit has forgotten.
    pub(crate) fn wipe(&self, platform: &mut Platform<'_>, pasid: u32) {
        let Some(at) = self.place(platform.mem, pasid) else { return };
        for offset in (0..PASID_BYTES).step_by(16) {
            platform.mem.write_pair(HostPhys(at.0 + offset), [0; 2]);
        }
        self.write_back(platform, at, PASID_BYTES);
    }

    /// Calls `visit` with the directory and every table.
    pub(crate) fn for_each_frame(&self, mem: &dyn TableMemory, visit: &mut dyn FnMut(HostPhys)) {
        visit(self.frame);
        for index in 0..TABLES {
            let entry = self.link(mem, index);
            if entry.present() {
                visit(entry.table());
            }
        }
    }

    /// Frees directory and tables, which the unit has forgotten.
    pub(crate) fn free(self, mem: &mut dyn TableMemory) {
        for index in 0..TABLES {
            let entry = self.link(mem, index);
            if entry.present() {
                mem.free(entry.table());
            }
        }
        mem.free(self.frame);
    }

    fn place(&self, mem: &dyn TableMemory, pasid: u32) -> Option<HostPhys> {
        let (index, slot) = (u64::from(pasid) / PASIDS, u64::from(pasid) % PASIDS);
        let entry = if index < TABLES { self.link(mem, index) } else { return None };
        entry.present().then(|| HostPhys(entry.table().0 + slot * PASID_BYTES))
    }

    fn write_back(&self, platform: &mut Platform<'_>, at: HostPhys, bytes: u64) {
        if !self.coherent {
            platform.mem.flush(at, bytes);
        }
    }
}
