//! ELF64 kernels that are entered by PVH (Xen, docs/misc/pvh.pandoc): 32-bit
//! protected mode, no paging, EBX points to `hvm_start_info`.

use alloc::vec::Vec;

use elf::abi::{EM_X86_64, PT_NOTE};
use elf::note::Note;
use machine::addr::GuestPhys;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes, Unaligned};

use crate::elf_image::{self, Segments};
use crate::entry::{Entry, put};
use crate::error::{LoadError, Problem};
use crate::image::{Module, Plan, check_fits, command_line, no_modules, place_high};
use crate::layout::{ACPI_TABLES, COMMAND_LINE, COMMAND_LINE_BYTES, GuestMap, PVH_START_INFO};
use crate::memory::GuestMemory;

/// Owner of the Xen notes.
const NOTE_OWNER: &[u8] = b"Xen\0";
/// `XEN_ELFNOTE_PHYS32_ENTRY`: the 32-bit physical entry point.
const PHYS32_ENTRY: u64 = 18;
/// `XEN_HVM_START_MAGIC_VALUE`.
const START_MAGIC: u32 = 0x336E_C578;
/// Version 1 of the start info has the memory map.
const START_VERSION: u32 = 1;

/// `struct hvm_start_info`.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct StartInfo {
    magic: U32,
    version: U32,
    flags: U32,
    nr_modules: U32,
    modlist_paddr: U64,
    cmdline_paddr: U64,
    rsdp_paddr: U64,
    memmap_paddr: U64,
    memmap_entries: U32,
    reserved: U32,
}

/// `struct hvm_modlist_entry`.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct ModuleEntry {
    paddr: U64,
    size: U64,
    cmdline_paddr: U64,
    reserved: U64,
}

/// `struct hvm_memmap_table_entry`; the types are those of e820.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct MemoryMapEntry {
    addr: U64,
    size: U64,
    kind: U32,
    reserved: U32,
}

const _: () = {
    assert!(size_of::<StartInfo>() == 56);
    assert!(size_of::<ModuleEntry>() == 32);
    assert!(size_of::<MemoryMapEntry>() == 24);
};

/// A checked PVH kernel.
#[derive(Clone, Debug)]
pub struct PvhImage<'a> {
    name: &'a str,
    segments: Segments<'a>,
    entry: GuestPhys,
}

impl<'a> PvhImage<'a> {
    /// Checks the ELF's headers against the file and finds its PVH entry point.
    ///
    /// # Errors
    /// [`LoadError`] with what is wrong.
    pub fn parse(module: Module<'a>) -> Result<Self, LoadError> {
        let refuse = |problem| LoadError::new(module.name, problem);
        let malformed = |field, value| refuse(Problem::Malformed { field, value });
        let elf = elf_image::open(module, EM_X86_64)?;
        let mut segments = Segments::default();
        let mut entry = None;
        for mut header in elf_image::headers(&elf, module.name)? {
            if header.p_type == PT_NOTE && entry.is_none() {
                // Linkers write 0 or 1 for "does not matter"; notes are aligned to 4 then (gABI).
                header.p_align = header.p_align.max(4);
                let notes = elf
                    .segment_data_as_notes(&header)
                    .map_err(|_| malformed("p_align or the extent of PT_NOTE", header.p_align))?;
                entry = notes.into_iter().find_map(pvh_entry);
            } else {
                segments.add(&elf, &header, module)?;
            }
        }
        let entry = entry.ok_or_else(|| refuse(Problem::NoPvhNote))?;
        if !segments.contains(entry) {
            return Err(malformed("the PVH entry point, in no loaded segment,", entry));
        }
        Ok(Self { name: module.name, segments, entry: GuestPhys(entry) })
    }

    /// Loads the kernel with its initrd, command line, start info and GDT.
    ///
    /// # Errors
    /// [`LoadError`] when something does not fit; the memory is then partly written.
    pub fn load(&self, plan: &Plan<'_>, memory: &mut dyn GuestMemory) -> Result<Entry, LoadError> {
        check_fits(self.name, self.segments.end, plan.map)?;
        no_modules(plan, "a PVH kernel")?;
        let command_line = command_line(plan, COMMAND_LINE_BYTES - 1)?;
        let limit = plan.map.low_ram().end().get();
        let initrd = match plan.initrd {
            Some(module) => Some((place_high(module, self.segments.end, limit)?, module)),
            None => None,
        };

        self.segments.put(self.name, memory)?;
        if let Some((at, module)) = initrd {
            put(memory, module.name, at, module.bytes)?;
        }
        put(memory, self.name, COMMAND_LINE, &command_line)?;
        let start_info = start_info(plan.map, initrd.map(|(at, module)| (at, module.bytes.len() as u64)));
        put(memory, self.name, PVH_START_INFO, &start_info)?;
        Ok(Entry { rbx: PVH_START_INFO.get(), ..Entry::protected32(self.entry, self.name, memory)? })
    }
}

/// Whether an ELF has a PVH entry point; the rest of it may still be wrong.
#[must_use]
pub fn has_entry(bytes: &[u8]) -> bool {
    !matches!(PvhImage::parse(Module { name: "", bytes }), Err(LoadError { problem: Problem::NoPvhNote, .. }))
}

/// The entry point, if this is the note that gives it. Its size is that of an
/// address of the kernel's class, four or eight bytes.
fn pvh_entry(note: Note<'_>) -> Option<u64> {
    let Note::Unknown(note) = note else {
        return None;
    };
    if note.n_type != PHYS32_ENTRY || note.name != NOTE_OWNER {
        return None;
    }
    match *note.desc {
        [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_le_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}

/// The start info with the module list and the memory map behind it.
fn start_info(map: &GuestMap, initrd: Option<(GuestPhys, u64)>) -> Vec<u8> {
    let modules_at = PVH_START_INFO.get() + size_of::<StartInfo>() as u64;
    let modules = initrd.map(|(at, bytes)| ModuleEntry {
        paddr: at.get().into(),
        size: bytes.into(),
        cmdline_paddr: 0.into(),
        reserved: 0.into(),
    });
    let map_at = modules_at + modules.as_ref().map_or(0, |_| size_of::<ModuleEntry>() as u64);
    let entries = map.e820();
    let info = StartInfo {
        magic: START_MAGIC.into(),
        version: START_VERSION.into(),
        flags: 0.into(),
        nr_modules: u32::from(modules.is_some()).into(),
        modlist_paddr: if modules.is_some() { modules_at } else { 0 }.into(),
        cmdline_paddr: COMMAND_LINE.get().into(),
        rsdp_paddr: ACPI_TABLES.start.get().into(),
        memmap_paddr: map_at.into(),
        memmap_entries: (entries.len() as u32).into(),
        reserved: 0.into(),
    };
    let mut bytes = Vec::from(info.as_bytes());
    if let Some(module) = &modules {
        bytes.extend_from_slice(module.as_bytes());
    }
    for entry in &entries {
        let entry = MemoryMapEntry {
            addr: entry.range.start.get().into(),
            size: entry.range.bytes.into(),
            kind: entry.kind.0.into(),
            reserved: 0.into(),
        };
        bytes.extend_from_slice(entry.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests;
