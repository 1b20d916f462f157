//! What of an ELF goes into a guest's memory: its loadable segments, checked against the file and the guest's map.

use alloc::vec::Vec;

use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;
use elf::segment::ProgramHeader;
use machine::addr::GuestPhys;

use crate::entry::put;
use crate::error::{LoadError, Problem};
use crate::image::Module;
use crate::layout::{IMAGE_START, LOW_RAM_END};
use crate::memory::GuestMemory;

/// A kernel with more segments than this is not taken for a kernel.
const MAX_SEGMENTS: usize = 64;

/// Bytes of a segment and where they go. The rest of the segment in memory is zero already.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// The first byte's place.
    pub at: GuestPhys,
    /// Where the program thinks it is (`p_vaddr`).
    pub linked_at: u64,
    /// What comes from the file.
    pub bytes: &'a [u8],
    /// The first place behind.
    pub end: u64,
}

/// The loadable part of a kernel.
#[derive(Clone, Debug, Default)]
pub struct Segments<'a> {
    /// In the order of the file.
    pub all: Vec<Segment<'a>>,
    /// The first place behind all of them.
    pub end: u64,
}

/// Checks the ELF's header against the file and its machine against `machine`.
///
/// # Errors
/// [`LoadError`] with what is wrong.
pub fn open<'a>(module: Module<'a>, machine: u16) -> Result<ElfBytes<'a, LittleEndian>, LoadError> {
    let Module { name, bytes } = module;
    let elf = ElfBytes::<LittleEndian>::minimal_parse(bytes).map_err(|_| {
        let field = "the ELF header or a table it points to (file length)";
        LoadError::new(name, Problem::Malformed { field, value: bytes.len() as u64 })
    })?;
    if elf.ehdr.e_machine != machine {
        return Err(LoadError::new(name, Problem::NotAKernel { found: "an ELF for another architecture" }));
    }
    Ok(elf)
}

/// The program headers, a bounded number of them.
///
/// # Errors
/// There are none or too many.
pub fn headers(elf: &ElfBytes<'_, LittleEndian>, name: &str) -> Result<Vec<ProgramHeader>, LoadError> {
    let malformed = |value| LoadError::new(name, Problem::Malformed { field: "e_phnum", value });
    let headers = elf.segments().ok_or_else(|| malformed(0))?;
    if headers.len() > MAX_SEGMENTS {
        return Err(malformed(headers.len() as u64));
    }
    Ok(headers.iter().collect())
}

impl<'a> Segments<'a> {
    /// Adds what `header` says, if it is to be loaded.
    ///
    /// # Errors
    /// It is not in the file, or lies where no kernel can.
    pub fn add(
        &mut self,
        elf: &ElfBytes<'a, LittleEndian>,
        header: &ProgramHeader,
        module: Module<'a>,
    ) -> Result<(), LoadError> {
        let refuse = |problem| Err(LoadError::new(module.name, problem));
        if header.p_type != PT_LOAD || header.p_memsz == 0 {
            return Ok(());
        }
        if header.p_filesz > header.p_memsz {
            return refuse(Problem::Malformed { field: "p_filesz", value: header.p_filesz });
        }
        let Ok(bytes) = elf.segment_data(header) else {
            let needs = header.p_offset.saturating_add(header.p_filesz);
            return refuse(Problem::Truncated { needs, has: module.bytes.len() as u64 });
        };
        let end = header.p_paddr.saturating_add(header.p_memsz);
        if header.p_paddr < IMAGE_START.get() {
            return refuse(Problem::TooLow { address: header.p_paddr });
        }
        if end > LOW_RAM_END.get() {
            return refuse(Problem::TooHigh { end });
        }
        self.all.push(Segment { at: GuestPhys(header.p_paddr), linked_at: header.p_vaddr, bytes, end });
        self.end = self.end.max(end);
        Ok(())
    }

    /// Whether `address` is in one of them.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        self.all.iter().any(|segment| (segment.at.get()..segment.end).contains(&address))
    }

    /// Writes them on behalf of `module`.
    pub(crate) fn put(&self, module: &str, memory: &mut dyn GuestMemory) -> Result<(), LoadError> {
        self.all.iter().try_for_each(|segment| put(memory, module, segment.at, segment.bytes))
    }
}
