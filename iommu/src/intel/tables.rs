//! The root and context tables of one unit, in either mode: VT-d 3.4, 9.1 to 9.4.
//!
//! A context table is linked when the first device of its bus (in scalable mode: of its half
//! of the bus) is attached and stays: an empty one blocks as well as none.

use super::mode::Mode;
use super::spec::scalable::{CONTEXT_BYTES, CONTEXTS, HalfRootEntry};
use super::spec::tables::{ENTRIES, ENTRY_BYTES, RootEntry, pair, unpair};
use crate::error::Error;
use crate::platform::Platform;
use machine::access::TableMemory;
use machine::addr::{HostPhys, PAGE_SIZE};

/// The root table and what hangs below it.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) root: HostPhys,
    pub(crate) mode: Mode,
    /// The unit snoops.
    pub(crate) coherent: bool,
}

/// A context table that a root table links.
pub(crate) struct Link {
    /// The requester id of its first entry.
    pub(crate) first: u16,
    pub(crate) table: HostPhys,
}

impl Tables {
    /// Requester ids per context table.
    fn span(&self) -> u64 {
        match self.mode {
            Mode::Legacy => ENTRIES,
            Mode::Scalable => CONTEXTS,
        }
    }

    /// Where the root table's part for `source` is: an entry, or half of one.
    fn root_place(&self, source: u16) -> HostPhys {
        let bytes = ENTRY_BYTES * self.span() / ENTRIES;
        HostPhys(self.root.0 + u64::from(source) / self.span() * bytes)
    }

    /// The context table for `source`, and whether the entry that links it has the one legal shape.
    fn read_link(&self, mem: &dyn TableMemory, source: u16) -> Option<(HostPhys, bool)> {
        let at = self.root_place(source);
        let (table, present, sound) = match self.mode {
            Mode::Legacy => {
                let entry = RootEntry::from_bits(read_pair(mem, at));
                (entry.table(), entry.present(), entry == RootEntry::link(entry.table()))
            }
            Mode::Scalable => {
                let entry = HalfRootEntry::from_bits(mem.read(at));
                (entry.table(), entry.present(), entry == HalfRootEntry::link(entry.table()))
            }
        };
        present.then_some((table, sound))
    }

    /// The root table's words for `source`, for errors.
    pub(crate) fn root_words(&self, mem: &dyn TableMemory, source: u16) -> [u64; 2] {
        let at = self.root_place(source);
        match self.mode {
            Mode::Legacy => pair(read_pair(mem, at)),
            Mode::Scalable => [mem.read(at), 0],
        }
    }

    /// Every context table that is linked. An error is the first requester id of a link that
    /// has no legal shape.
    pub(crate) fn links<'a>(&'a self, mem: &'a dyn TableMemory) -> impl Iterator<Item = Result<Link, u16>> + 'a {
        (0..=u16::MAX).step_by(self.span() as usize).filter_map(move |first| {
            let (table, sound) = self.read_link(mem, first)?;
            Some(if sound { Ok(Link { first, table }) } else { Err(first) })
        })
    }

    /// Requester ids whose entries are in the table of `link`.
    pub(crate) fn sources(&self, link: &Link) -> impl Iterator<Item = u16> + use<> {
        link.first..=link.first + (self.span() - 1) as u16
    }

    /// The low 128 bits of the context entry of `source`; zeroes when it has no context table.
    pub(crate) fn context(&self, mem: &dyn TableMemory, source: u16) -> u128 {
        self.place(mem, source).map_or(0, |at| read_pair(mem, at))
    }

    /// The high 128 bits of a scalable-mode context entry: reserved.
    pub(crate) fn context_upper(&self, mem: &dyn TableMemory, source: u16) -> u128 {
        match self.mode {
            Mode::Legacy => 0,
            Mode::Scalable => self.place(mem, source).map_or(0, |at| read_pair(mem, HostPhys(at.0 + ENTRY_BYTES))),
        }
    }

    /// Makes sure that there is a context table for `source`.
    pub(crate) fn prepare(&self, platform: &mut Platform<'_>, source: u16) -> Result<(), Error> {
        if self.read_link(platform.mem, source).is_some() {
            return Ok(());
        }
        let table = frame(platform, self.coherent, "a context table")?;
        let at = self.root_place(source);
        match self.mode {
            Mode::Legacy => platform.mem.write_pair(at, pair(RootEntry::link(table).into_bits())),
            Mode::Scalable => platform.mem.write(at, HalfRootEntry::link(table).into_bits()),
        }
        self.write_back(platform, at);
        Ok(())
    }

    /// Writes the context entry of `source` at once. [`prepare`](Self::prepare) came before. (In
    /// scalable mode all but the reserved upper half, which was zeroed with its frame.)
    pub(crate) fn set_context(&self, platform: &mut Platform<'_>, source: u16, entry: u128) {
        if let Some(at) = self.place(platform.mem, source) {
            platform.mem.write_pair(at, pair(entry));
            self.write_back(platform, at);
        }
    }

    /// Calls `visit` with the root table and every context table.
    pub(crate) fn for_each_frame(&self, mem: &dyn TableMemory, visit: &mut dyn FnMut(HostPhys)) {
        visit(self.root);
        self.links(mem).flatten().for_each(|link| visit(link.table));
    }

    /// Frees all tables. The unit must not walk them any more.
    pub(crate) fn free(self, mem: &mut dyn TableMemory) {
        for first in (0..=u16::MAX).step_by(self.span() as usize) {
            if let Some((table, _)) = self.read_link(mem, first) {
                mem.free(table);
            }
        }
        mem.free(self.root);
    }

    fn place(&self, mem: &dyn TableMemory, source: u16) -> Option<HostPhys> {
        let (table, _) = self.read_link(mem, source)?;
        Some(context_place(self.mode, table, source))
    }

    fn write_back(&self, platform: &mut Platform<'_>, at: HostPhys) {
        if !self.coherent {
            platform.mem.flush(at, ENTRY_BYTES);
        }
    }
}

/// Where the context entry of `source` is in its context table.
fn context_place(mode: Mode, table: HostPhys, source: u16) -> HostPhys {
    let offset = match mode {
        Mode::Legacy => u64::from(source) % ENTRIES * ENTRY_BYTES,
        Mode::Scalable => u64::from(source) % CONTEXTS * CONTEXT_BYTES,
    };
    HostPhys(table.0 + offset)
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
