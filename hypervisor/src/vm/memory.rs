//! A guest's memory: the memory object that backs it and the nested page tables that
//! show it to the virtual CPUs.

use alloc::vec::Vec;
use core::fmt;

use guest_loader::OutOfGuestMemory;
use guest_loader::layout::{GuestMap, GuestRange, MapError};
use handover::state::machine::FrameTag;
use machine::access::TableMemory;
use machine::addr::{GuestPhys, HostPhys, PAGE_SIZE_1G, PAGE_SIZE_2M};
use machine::paging::{Caching, Holes, LeafSizes, PageTable, PagingError, Permissions};

use crate::machine_cpus;
use crate::mem::frames::ArenaFrames;
use crate::mem::regions::{Owner, RegionError, RegionMap};
use crate::mem::window;

/// A piece of a memory object: where it lies for the guest and for the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte as the guest sees it.
    pub guest: GuestPhys,
    /// First byte of the machine's.
    pub host: HostPhys,
    /// Length in bytes, a multiple of 2 MiB.
    pub bytes: u64,
}

/// A guest's RAM: a memory object and its extents, lowest guest address first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestRam {
    /// The memory object's name across images.
    pub token: u64,
    /// Where it lies.
    pub extents: Vec<Extent>,
    /// What is no RAM of the guest's although its devices use it: memory that firmware reserved for them.
    pub reserved: Vec<GuestRange>,
}

/// Why a guest gets no memory.
#[derive(Debug)]
pub enum MemoryError {
    /// The amount is not possible.
    Map(MapError),
    /// The machine has not enough.
    Region(RegionError),
    /// No page tables.
    Paging(PagingError),
    /// The guest has ended, and its tables are gone.
    Gone,
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Region(error) => write!(f, "too little memory: {error}; lower memory_mib"),
            Self::Paging(error) => error.fmt(f),
            Self::Gone => f.write_str("the guest's tables are gone"),
        }
    }
}

impl GuestRam {
    /// Takes memory for a guest and fills it with zeroes.
    ///
    /// # Errors
    /// The amount is impossible or there is not enough; nothing is taken then.
    pub fn allocate(regions: &mut RegionMap, map: &GuestMap, token: u64) -> Result<Self, MemoryError> {
        let owner = Owner::Object(token);
        let mut extents = Vec::new();
        for range in map.ram() {
            // 1 GiB leaves want 1 GiB alignment; without it 2 MiB leaves do.
            let placed = regions
                .allocate(range.bytes, PAGE_SIZE_1G, u64::MAX, owner)
                .or_else(|_| regions.allocate(range.bytes, PAGE_SIZE_2M, u64::MAX, owner));
            match placed {
                Ok(host) => extents.push(Extent { guest: range.start, host, bytes: range.bytes }),
                Err(error) => {
                    regions.release(owner);
                    return Err(MemoryError::Region(error));
                }
            }
        }
        for extent in &extents {
            window::zero(extent.host, extent.bytes);
        }
        Ok(Self { token, extents, reserved: map.reserved().collect() })
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes).sum()
    }

    /// Where `bytes` bytes at `at` lie, `None` when they are not within one extent.
    #[must_use]
    pub fn translate(&self, at: GuestPhys, bytes: u64) -> Option<HostPhys> {
        self.extents.iter().find_map(|extent| {
            let offset = at.get().checked_sub(extent.guest.get())?;
            let end = offset.checked_add(bytes)?;
            (end <= extent.bytes).then(|| HostPhys(extent.host.get() + offset))
        })
    }

    /// Copies guest memory out; `false`, with `buffer` untouched, when it is not RAM.
    #[must_use]
    pub fn read(&self, at: GuestPhys, buffer: &mut [u8]) -> bool {
        let Some(host) = self.translate(at, buffer.len() as u64) else {
            return false;
        };
        window::read(host, buffer);
        true
    }

    /// Copies into guest memory; `false`, with nothing written, when it is not RAM.
    #[must_use]
    pub fn write(&self, at: GuestPhys, bytes: &[u8]) -> bool {
        let Some(host) = self.translate(at, bytes.len() as u64) else {
            return false;
        };
        window::write(host, bytes);
        true
    }
}

impl guest_loader::GuestMemory for &GuestRam {
    fn write(&mut self, at: GuestPhys, bytes: &[u8]) -> Result<(), OutOfGuestMemory> {
        if GuestRam::write(self, at, bytes) { Ok(()) } else { Err(OutOfGuestMemory { at, bytes: bytes.len() as u64 }) }
    }
}

/// The nested page tables of a guest, in the arena: guest physical to host physical.
#[derive(Debug)]
pub struct AddressSpace {
    /// Its name across images.
    pub token: u64,
    /// `None` after [`destroy`](Self::destroy).
    table: Option<PageTable>,
    frames: ArenaFrames,
}

/// Levels of nested tables: 48 bits, whatever the host's own tables have.
const LEVELS: u8 = 4;

impl AddressSpace {
    fn frames(id: u16) -> ArenaFrames {
        ArenaFrames(FrameTag::new(FrameTag::SPACE_TABLE, id))
    }

    /// Empty tables for guest `id`.
    ///
    /// # Errors
    /// The arena is exhausted.
    pub fn new(token: u64, id: u16, leaves: LeafSizes) -> Result<Self, MemoryError> {
        let mut frames = Self::frames(id);
        let table =
            PageTable::new(&mut frames, machine_cpus::nested_format(), LEVELS, leaves).map_err(MemoryError::Paging)?;
        Ok(Self { token, table: Some(table), frames })
    }

    /// Takes over the tables of the image before this one.
    ///
    /// # Errors
    /// The record's root or levels can't be.
    pub fn adopt(token: u64, id: u16, root: HostPhys, levels: u8, leaves: LeafSizes) -> Result<Self, MemoryError> {
        let table =
            PageTable::adopt(machine_cpus::nested_format(), root, levels, leaves).map_err(MemoryError::Paging)?;
        Ok(Self { token, table: Some(table), frames: Self::frames(id) })
    }

    /// The physical address of the root table, for nCR3 or EPTP; zero when the tables are gone.
    #[must_use]
    pub fn root(&self) -> HostPhys {
        self.table.as_ref().map_or(HostPhys(0), PageTable::root)
    }

    /// Levels of the tree.
    #[must_use]
    pub fn levels(&self) -> u8 {
        self.table.as_ref().map_or(0, PageTable::levels)
    }

    /// Leaf sizes used.
    #[must_use]
    pub fn leaf_sizes(&self) -> LeafSizes {
        self.table.as_ref().map_or(LeafSizes { two_mib: false, one_gib: false }, PageTable::leaf_sizes)
    }

    /// The tables, if they are not gone, and the memory they are read in.
    #[must_use]
    pub fn tables(&self) -> Option<(&PageTable, &dyn TableMemory)> {
        Some((self.table.as_ref()?, &self.frames))
    }

    /// Gives the tables' frames back: for a guest that has ended, once each of its virtual CPUs has left it for good. Nothing is
    /// mapped afterwards, and nothing can be.
    pub fn destroy(&mut self) {
        if let Some(table) = self.table.take() {
            table.destroy(&mut self.frames);
        }
    }

    /// Maps all of a guest's RAM.
    ///
    /// # Errors
    /// Overlap, or the arena is exhausted.
    pub fn map_ram(&mut self, ram: &GuestRam) -> Result<(), MemoryError> {
        for extent in &ram.extents {
            self.map(extent.guest, extent.host, extent.bytes, Permissions::ALL, Caching::WriteBack)?;
        }
        Ok(())
    }

    /// Maps registers of a device.
    ///
    /// # Errors
    /// Overlap, or the arena is exhausted.
    pub fn map_device(&mut self, at: GuestPhys, to: HostPhys, bytes: u64) -> Result<(), MemoryError> {
        self.map(at, to, bytes, Permissions::READ_WRITE, Caching::Uncached)
    }

    fn map(
        &mut self,
        at: GuestPhys,
        to: HostPhys,
        bytes: u64,
        rights: Permissions,
        caching: Caching,
    ) -> Result<(), MemoryError> {
        let table = self.table.as_mut().ok_or(MemoryError::Gone)?;
        let flush = table.map(&mut self.frames, at.get(), to, bytes, rights, caching).map_err(MemoryError::Paging)?;
        flush.complete(&mut self.frames);
        Ok(())
    }

    /// Unmaps; `invalidated` makes every virtual CPU of the guest forget its translations before the tables' frames
    /// are used again.
    ///
    /// # Errors
    /// The range is malformed, or the arena is exhausted.
    pub fn unmap(&mut self, at: GuestPhys, bytes: u64, invalidated: impl FnOnce()) -> Result<(), MemoryError> {
        let table = self.table.as_mut().ok_or(MemoryError::Gone)?;
        let flush = table.unmap(&mut self.frames, at.get(), bytes, Holes::Tolerate).map_err(MemoryError::Paging)?;
        if flush.must_invalidate() {
            invalidated();
        }
        flush.complete(&mut self.frames);
        Ok(())
    }
}
