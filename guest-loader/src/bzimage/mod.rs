//! Linux bzImages (boot.rst), entered by the 64-bit boot protocol, by the 32-bit one, or in real mode.

pub mod header;
mod real_mode;

#[cfg(test)]
mod tests;

use core::ops::Range;

use machine::addr::{GuestPhys, PAGE_SIZE, PAGE_SIZE_2M};
use zerocopy::{FromZeros, IntoBytes};

use crate::entry::{Entry, Mode, put, write_gdt};
use crate::error::{LoadError, Problem};
use crate::image::{Module, Plan, SEED_BYTES, Start};
use crate::layout::{
    ACPI_TABLES, BOOT_GDT, BOOT_PAGE_TABLES, BOOT_STACK_TOP, COMMAND_LINE, GuestMap, IMAGE_START, LOW_RAM_END,
    SETUP_DATA, ZERO_PAGE,
};
use crate::memory::GuestMemory;
use header::{BootE820Entry, BootParams, SeedData, SetupHeader};

/// A checked bzImage.
#[derive(Clone, Copy, Debug)]
pub struct BzImage<'a> {
    name: &'a str,
    header: SetupHeader,
    /// How much of the header the image has.
    header_bytes: usize,
    setup: &'a [u8],
    protected_mode: &'a [u8],
    load_at: GuestPhys,
}

/// Whether the bytes carry the marks of a bzImage; the rest of it may still be wrong.
#[must_use]
pub fn detect(bytes: &[u8]) -> bool {
    let field = |at: Range<usize>| bytes.get(at);
    field(0x202..0x206) == Some(&header::MAGIC.to_le_bytes())
        && field(0x1FE..0x200) == Some(&header::BOOT_FLAG.to_le_bytes())
}

impl<'a> BzImage<'a> {
    /// Checks the image's header against the image and the protocol.
    ///
    /// # Errors
    /// [`LoadError`] with what is wrong.
    pub fn parse(module: Module<'a>) -> Result<Self, LoadError> {
        let Module { name, bytes } = module;
        let refuse = |problem| LoadError::new(name, problem);
        let cut_off = |needs: u64| refuse(Problem::Truncated { needs, has: bytes.len() as u64 });
        let malformed = |field, value| Err(refuse(Problem::Malformed { field, value }));
        if !detect(bytes) {
            return Err(refuse(Problem::NotAKernel { found: "no bzImage (no HdrS at 0x202)" }));
        }
        // The header ends where its first instruction jumps to; what an older one lacks reads as zero.
        let jump = bytes.get(0x201).copied().unwrap_or(0);
        let end = (header::JUMP_BASE + usize::from(jump)).min(header::HEADER_END);
        let version = bytes.get(0x206..0x208).ok_or_else(|| cut_off(header::HEADER_MIN_END as u64))?;
        let version = version.iter().rev().fold(0, |value: u16, byte| (value << 8) | u16::from(*byte));
        if version < header::MIN_VERSION {
            return Err(refuse(Problem::TooOld { version }));
        }
        if end < header::HEADER_MIN_END {
            return malformed("jump (the header's length)", jump.into());
        }
        let present = bytes.get(header::HEADER_OFFSET..end).ok_or_else(|| cut_off(end as u64))?;
        let mut hdr = SetupHeader::new_zeroed();
        for (to, from) in hdr.as_mut_bytes().iter_mut().zip(present) {
            *to = *from;
        }

        if hdr.loadflags & header::LOADED_HIGH == 0 {
            return malformed("loadflags (a zImage)", hdr.loadflags.into());
        }
        // boot.rst: zero means four, for ancient kernels.
        let setup_sects = if hdr.setup_sects == 0 { 4 } else { u64::from(hdr.setup_sects) };
        let setup_bytes = (setup_sects + 1) * 512;
        let size = u64::from(hdr.syssize.get()) * 16;
        if size <= header::ENTRY_64 {
            return malformed("syssize", hdr.syssize.get().into());
        }
        if (bytes.len() as u64) < setup_bytes + size {
            return Err(cut_off(setup_bytes + size));
        }
        // A signature may follow the kernel: it is no part of what runs.
        let protected_mode = usize::try_from(setup_bytes)
            .ok()
            .zip(usize::try_from(size).ok())
            .and_then(|(start, length)| bytes.get(start..)?.get(..length));
        let setup = usize::try_from(setup_bytes).ok().and_then(|length| bytes.get(..length));
        let (Some(setup), Some(protected_mode)) = (setup, protected_mode) else {
            return Err(cut_off(setup_bytes + size));
        };
        let payload_end = u64::from(hdr.payload_offset.get()) + u64::from(hdr.payload_length.get());
        if payload_end > size {
            return malformed("payload_offset + payload_length", payload_end);
        }
        if u64::from(hdr.init_size.get()) < size {
            return malformed("init_size", hdr.init_size.get().into());
        }
        let load_at = load_address(&hdr).map_err(refuse)?;
        Ok(Self { name, header: hdr, header_bytes: end - header::HEADER_OFFSET, setup, protected_mode, load_at })
    }

    /// What the kernel needs while it unpacks itself: its image, bss and stack.
    fn footprint(&self) -> Range<u64> {
        let start = self.load_at.get();
        start..start.saturating_add(self.header.init_size.get().into())
    }

    /// The longest command line it takes, without the terminating zero.
    fn command_line_limit(&self) -> u64 {
        u64::from(self.header.cmdline_size.get())
    }

    /// The mode it is entered in, by what was asked for and what it has.
    fn start(&self, wanted: Start) -> Result<Start, LoadError> {
        let has_64 = self.header.xloadflags.get() & header::XLF_KERNEL_64 != 0;
        match wanted {
            Start::Auto => Ok(if has_64 { Start::Bits64 } else { Start::Bits32 }),
            Start::Bits64 if !has_64 => Err(LoadError::new(self.name, Problem::No64BitEntry)),
            _ => Ok(wanted),
        }
    }

    /// Loads the kernel with its initrd, command line, and what its entry wants: `boot_params`, page tables and a GDT, or its
    /// real-mode code and BIOS calls.
    ///
    /// # Errors
    /// [`LoadError`] when something does not fit; the memory is then partly written.
    pub fn load(&self, plan: &Plan<'_>, memory: &mut dyn GuestMemory) -> Result<Entry, LoadError> {
        let start = self.start(plan.start)?;
        let footprint = self.footprint();
        crate::image::check_fits(self.name, footprint.end, plan.map)?;
        crate::image::no_modules(plan, "a Linux kernel")?;
        let command_line = crate::image::command_line(plan, self.command_line_limit())?;
        let initrd = match plan.initrd {
            Some(module) => Some((self.place_initrd(module, plan.map)?, module)),
            None => None,
        };

        put(memory, self.name, self.load_at, self.protected_mode)?;
        if let Some((at, module)) = initrd {
            put(memory, module.name, at, module.bytes)?;
        }
        put(memory, self.name, COMMAND_LINE, &command_line)?;
        let mut header = self.filled_in(initrd.map(|(at, module)| (at, module.bytes.len() as u64)));
        if let Some(seed) = plan.seed {
            let (kind, len) = (header::SETUP_RNG_SEED.into(), (SEED_BYTES as u32).into());
            put(memory, self.name, SETUP_DATA, SeedData { next: 0.into(), kind, len, data: seed }.as_bytes())?;
            header.setup_data = SETUP_DATA.get().into();
        }
        if start == Start::Bits16 {
            return self.enter_real_mode(header, plan.map, memory);
        }
        put(memory, self.name, ZERO_PAGE, boot_params(header, plan.map).as_bytes())?;
        if start == Start::Bits32 {
            let entry = Entry::protected32(self.load_at, self.name, memory)?;
            return Ok(Entry { rsi: ZERO_PAGE.get(), ..entry });
        }
        write_page_tables(self.name, memory)?;
        let gdt_limit = write_gdt(Mode::Long64, self.name, memory)?;
        Ok(Entry {
            mode: Mode::Long64,
            rip: GuestPhys(footprint.start + header::ENTRY_64),
            rsp: BOOT_STACK_TOP,
            rax: 0,
            rsi: ZERO_PAGE.get(),
            rbx: 0,
            cr3: BOOT_PAGE_TABLES.get(),
            gdt_base: BOOT_GDT,
            gdt_limit,
        })
    }

    /// As high as the kernel and the guest's low RAM allow.
    fn place_initrd(&self, module: Module<'_>, map: &GuestMap) -> Result<GuestPhys, LoadError> {
        let ceiling = u64::from(self.header.initrd_addr_max.get()) + 1;
        let limit = ceiling.min(map.low_ram().end().get());
        crate::image::place_high(module, self.footprint().end, limit)
    }

    /// The header with the loader's fields.
    fn filled_in(&self, initrd: Option<(GuestPhys, u64)>) -> SetupHeader {
        let mut header = self.header;
        header.type_of_loader = header::LOADER_UNDEFINED;
        // Only real-mode code has a heap.
        header.loadflags &= !header::CAN_USE_HEAP;
        header.vid_mode = header::VIDEO_NORMAL.into();
        header.setup_data = 0.into();
        // Everything placed here lies below 3 GiB: the low halves are the addresses.
        header.code32_start = (self.load_at.get() as u32).into();
        header.cmd_line_ptr = (COMMAND_LINE.get() as u32).into();
        let (image, size) = initrd.map_or((0, 0), |(at, bytes)| (at.get() as u32, bytes as u32));
        header.ramdisk_image = image.into();
        header.ramdisk_size = size.into();
        header
    }
}

/// What the real-mode code would have found out.
fn boot_params(header: SetupHeader, map: &GuestMap) -> BootParams {
    let mut params = BootParams::zeroed();
    params.hdr = header;
    params.acpi_rsdp_addr = ACPI_TABLES.start.get().into();
    let entries = map.e820();
    for (slot, entry) in params.e820_table.iter_mut().zip(&entries) {
        *slot = BootE820Entry {
            address: entry.range.start.get().into(),
            size: entry.range.bytes.into(),
            kind: entry.kind.0.into(),
        };
    }
    params.e820_entries = entries.len().min(header::E820_MAX) as u8;
    params
}

/// Where the kernel runs without moving itself: its preferred address.
fn load_address(hdr: &SetupHeader) -> Result<GuestPhys, Problem> {
    let preferred = hdr.pref_address.get();
    let address = if hdr.relocatable_kernel == 0 {
        preferred
    } else {
        let alignment = u64::from(hdr.kernel_alignment.get());
        if !alignment.is_power_of_two() {
            return Err(Problem::Malformed { field: "kernel_alignment", value: alignment });
        }
        preferred
            .checked_next_multiple_of(alignment)
            .ok_or(Problem::Malformed { field: "pref_address", value: preferred })?
    };
    if address < IMAGE_START.get() {
        return Err(Problem::TooLow { address });
    }
    let end = address.saturating_add(hdr.init_size.get().into());
    if end > LOW_RAM_END.get() {
        return Err(Problem::TooHigh { end });
    }
    Ok(GuestPhys(address))
}

/// Present, writable, accessed, dirty (SDM 3A 4.5): no walk has to write to them.
const TABLE: u64 = 0x23;
const LEAF_2M: u64 = 0xE3;
const ENTRIES: u64 = 512;
const DIRECTORIES: u64 = 4;

/// Identity page tables for the first 4 GiB with 2 MiB leaves, which every x86-64
/// CPU has: PML4, PDPT and four page directories, in this order.
fn write_page_tables(module: &str, memory: &mut dyn GuestMemory) -> Result<(), LoadError> {
    let page = |index: u64| GuestPhys(BOOT_PAGE_TABLES.get() + index * PAGE_SIZE);
    put(memory, module, page(0), &(page(1).get() | TABLE).to_le_bytes())?;
    for directory in 0..DIRECTORIES {
        let at = GuestPhys(page(1).get() + directory * 8);
        put(memory, module, at, &(page(2 + directory).get() | TABLE).to_le_bytes())?;
        let mut entries = [0; PAGE_SIZE as usize];
        for (index, slot) in (0..ENTRIES).zip(entries.chunks_exact_mut(8)) {
            let leaf = ((directory * ENTRIES + index) * PAGE_SIZE_2M) | LEAF_2M;
            slot.copy_from_slice(&leaf.to_le_bytes());
        }
        put(memory, module, page(2 + directory), &entries)?;
    }
    Ok(())
}
