//! Kernels with a multiboot 1 header (Multiboot Specification 0.6.96): 32-bit protected mode, no paging, EAX the magic, EBX the
//! information. They are an ELF, or a file that the header's address fields say how to load.

pub mod header;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use elf::abi::{EM_386, EM_X86_64};
use machine::addr::{GuestPhys, PAGE_SIZE};
use zerocopy::IntoBytes;

use crate::elf_image::{self, Segment, Segments};
use crate::entry::{Entry, put};
use crate::error::{LoadError, Problem};
use crate::image::{Module, Plan, check_fits, command_line};
use crate::layout::{
    COMMAND_LINE, COMMAND_LINE_BYTES, CONVENTIONAL_END, GuestMap, IMAGE_START, LOW_RAM_END, MULTIBOOT_INFO,
};
use crate::memory::GuestMemory;
use header::{Header, Info, MapEntry, ModuleEntry};

/// What the information says of the loader.
const LOADER_NAME: &[u8] = b"Baton\0";

/// A checked multiboot kernel.
#[derive(Clone, Debug)]
pub struct MultibootImage<'a> {
    name: &'a str,
    segments: Segments<'a>,
    entry: GuestPhys,
}

impl<'a> MultibootImage<'a> {
    /// Finds the header, and by it or the ELF's program headers what is to be loaded.
    ///
    /// # Errors
    /// [`LoadError`] with what is wrong.
    pub fn parse(module: Module<'a>) -> Result<Self, LoadError> {
        let refuse = |problem| LoadError::new(module.name, problem);
        let Some((at, header)) = header::find(module.bytes) else {
            return Err(refuse(Problem::NotAKernel { found: "a file without a multiboot header" }));
        };
        let known = header::PAGE_ALIGN | header::MEMORY_INFO;
        let unknown = header.flags.get() & header::REQUIREMENTS & !known;
        if unknown != 0 {
            return Err(refuse(Problem::MultibootFlags { unknown }));
        }
        let (segments, entry) = if header.flags.get() & header::ADDRESS_FIELDS != 0 {
            by_address_fields(module, at as u64, &header)?
        } else {
            by_program_headers(module)?
        };
        if !segments.contains(entry) {
            return Err(refuse(Problem::Malformed {
                field: "the entry point, in nothing that is loaded,",
                value: entry,
            }));
        }
        Ok(Self { name: module.name, segments, entry: GuestPhys(entry) })
    }

    /// Loads the kernel with its modules (the initrd is the first), command line, information and GDT.
    ///
    /// # Errors
    /// [`LoadError`] when something does not fit; the memory is then partly written.
    pub fn load(&self, plan: &Plan<'_>, memory: &mut dyn GuestMemory) -> Result<Entry, LoadError> {
        check_fits(self.name, self.segments.end, plan.map)?;
        self.segments.put(self.name, memory)?;
        let mut texts = Texts { bytes: command_line(plan, COMMAND_LINE_BYTES - 1)? };
        // Behind the kernel, a page each: small kernels map no more than the first few MiB.
        let mut next = self.segments.end;
        let initrd = plan.initrd.map(|module| (module, module.name));
        let mut modules = Vec::new();
        for (module, text) in initrd.iter().chain(plan.modules) {
            let at = next.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
            next = at.saturating_add(module.bytes.len() as u64);
            check_fits(module.name, next, plan.map)?;
            put(memory, module.name, GuestPhys(at), module.bytes)?;
            // Everything below 3 GiB: the low halves are the addresses.
            modules.push(ModuleEntry {
                mod_start: (at as u32).into(),
                mod_end: (next as u32).into(),
                string: texts.add(text).into(),
                reserved: 0.into(),
            });
        }
        let too_many = LoadError::new(self.name, Problem::ModulesTooMany { modules: modules.len() });
        let info = information(plan.map, &modules);
        if texts.bytes.len() as u64 > COMMAND_LINE_BYTES || info.len() as u64 > MULTIBOOT_INFO.bytes {
            return Err(too_many);
        }
        put(memory, self.name, COMMAND_LINE, &texts.bytes)?;
        put(memory, self.name, MULTIBOOT_INFO.start, &info)?;
        let entry = Entry::protected32(self.entry, self.name, memory)?;
        Ok(Entry { rax: header::LOADER_MAGIC.into(), rbx: MULTIBOOT_INFO.start.get(), ..entry })
    }
}

/// The command line, and the modules' texts behind it.
struct Texts {
    bytes: Vec<u8>,
}

impl Texts {
    /// Adds a text; returns where it will lie.
    fn add(&mut self, text: &str) -> u32 {
        let at = COMMAND_LINE.get() + self.bytes.len() as u64;
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        at as u32
    }
}

/// What the header's address fields say (3.1.3): the file from where `load_addr` falls in it.
fn by_address_fields<'a>(module: Module<'a>, at: u64, header: &Header) -> Result<(Segments<'a>, u64), LoadError> {
    let refuse = |problem| LoadError::new(module.name, problem);
    let malformed = |field, value: u64| refuse(Problem::Malformed { field, value });
    let (header_addr, load) = (u64::from(header.header_addr.get()), u64::from(header.load_addr.get()));
    let before = header_addr.checked_sub(load).ok_or_else(|| malformed("load_addr, above header_addr,", load))?;
    let start = at.checked_sub(before).ok_or_else(|| malformed("load_addr, before the file's begin,", load))?;
    let has = module.bytes.len() as u64;
    let bytes = match u64::from(header.load_end_addr.get()) {
        // The whole rest of the file.
        0 => has - start,
        end => end.checked_sub(load).ok_or_else(|| malformed("load_end_addr, below load_addr,", end))?,
    };
    let needs = start.saturating_add(bytes);
    let loaded = usize::try_from(start)
        .ok()
        .zip(usize::try_from(bytes).ok())
        .and_then(|(start, bytes)| module.bytes.get(start..)?.get(..bytes))
        .ok_or_else(|| refuse(Problem::Truncated { needs, has }))?;
    let end = match u64::from(header.bss_end_addr.get()) {
        0 => load + bytes,
        end if end < load + bytes => return Err(malformed("bss_end_addr, in what is loaded,", end)),
        end => end,
    };
    if load < IMAGE_START.get() {
        return Err(refuse(Problem::TooLow { address: load }));
    }
    if end > LOW_RAM_END.get() {
        return Err(refuse(Problem::TooHigh { end }));
    }
    let segment = Segment { at: GuestPhys(load), linked_at: load, bytes: loaded, end };
    Ok((Segments { all: Vec::from([segment]), end }, header.entry_addr.get().into()))
}

/// What the ELF's program headers say. The entry point is where its segment lies, as GRUB takes it: programs that are linked high
/// have a virtual one.
fn by_program_headers(module: Module<'_>) -> Result<(Segments<'_>, u64), LoadError> {
    let machine = match module.bytes.get(..5) {
        Some(b"\x7fELF\x01") => EM_386,
        Some(b"\x7fELF\x02") => EM_X86_64,
        _ => {
            let found = "no ELF, and its multiboot header has no address fields (flags, bit 16)";
            return Err(LoadError::new(module.name, Problem::NotAKernel { found }));
        }
    };
    let elf = elf_image::open(module, machine)?;
    let mut segments = Segments::default();
    for header in elf_image::headers(&elf, module.name)? {
        segments.add(&elf, &header, module)?;
    }
    let entry = elf.ehdr.e_entry;
    let moved = segments.all.iter().find_map(|segment| {
        let offset = entry.checked_sub(segment.linked_at)?;
        let address = segment.at.get().checked_add(offset)?;
        (address < segment.end).then_some(address)
    });
    Ok((segments, moved.unwrap_or(entry)))
}

/// The information, the modules, the map and the loader's name, in this order.
fn information(map: &GuestMap, modules: &[ModuleEntry]) -> Vec<u8> {
    let entries = map.e820();
    let modules_at = MULTIBOOT_INFO.start.get() + size_of::<Info>() as u64;
    let map_at = modules_at + size_of_val(modules) as u64;
    let map_bytes = (entries.len() * size_of::<MapEntry>()) as u64;
    let word = |value: u64| (value as u32).into();
    let info = Info {
        flags: (header::INFO_MEMORY
            | header::INFO_COMMAND_LINE
            | header::INFO_MODULES
            | header::INFO_MEMORY_MAP
            | header::INFO_LOADER_NAME)
            .into(),
        mem_lower: word(CONVENTIONAL_END.get() >> 10),
        mem_upper: word((map.low_ram().end().get() - IMAGE_START.get()) >> 10),
        boot_device: 0.into(),
        cmdline: word(COMMAND_LINE.get()),
        mods_count: word(modules.len() as u64),
        mods_addr: word(modules_at),
        syms: [0.into(); 4],
        mmap_length: word(map_bytes),
        mmap_addr: word(map_at),
        drives_length: 0.into(),
        drives_addr: 0.into(),
        config_table: 0.into(),
        boot_loader_name: word(map_at + map_bytes),
        apm_table: 0.into(),
        vbe: [0.into(); 2],
        vbe_mode: [0.into(); 4],
    };
    let mut bytes = Vec::from(info.as_bytes());
    bytes.extend_from_slice(modules.as_bytes());
    for entry in &entries {
        let entry = MapEntry {
            size: word(size_of::<MapEntry>() as u64 - 4),
            base_addr: entry.range.start.get().into(),
            length: entry.range.bytes.into(),
            kind: entry.kind.0.into(),
        };
        bytes.extend_from_slice(entry.as_bytes());
    }
    bytes.extend_from_slice(LOADER_NAME);
    bytes
}
