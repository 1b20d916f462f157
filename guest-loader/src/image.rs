//! From a plan of a guest to its loaded memory, whatever the kernel's format is.

use alloc::vec::Vec;

use machine::addr::{GuestPhys, PAGE_SIZE};

use crate::bzimage::{self, BzImage};
use crate::entry::{Entry, put};
use crate::error::{LoadError, Problem};
use crate::layout::{COMMAND_LINE_BYTES, GuestMap, LOW_RAM_END};
use crate::memory::GuestMemory;
use crate::multiboot::{self, MultibootImage};
use crate::pvh::{self, PvhImage};
use crate::{acpi, boot_sector};

/// A file that came with the boot.
#[derive(Clone, Copy, Debug)]
pub struct Module<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// Bytes of a seed: as many as Linux's generator takes.
pub const SEED_BYTES: usize = 32;

/// What a guest starts with.
#[derive(Clone, Copy, Debug)]
pub struct Plan<'a> {
    /// Where its RAM lies.
    pub map: &'a GuestMap,
    /// The kernel.
    pub kernel: Module<'a>,
    /// The initial RAM disk.
    pub initrd: Option<Module<'a>>,
    /// What else a multiboot kernel is given, each with its text: its name and what follows it.
    pub modules: &'a [(Module<'a>, &'a str)],
    /// In which mode the kernel is entered.
    pub start: Start,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// What Linux's random numbers begin with, if the machine has a good one.
    pub seed: Option<[u8; SEED_BYTES]>,
    /// The APIC id of each virtual CPU; the first one starts the kernel.
    pub apic_ids: &'a [u32],
}

/// In which mode a kernel is to be entered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// As its format says; a bzImage in 64-bit mode, or in 32-bit mode where it has no other entry.
    #[default]
    Auto,
    /// 64-bit mode.
    Bits64,
    /// 32-bit protected mode without paging.
    Bits32,
    /// Real mode.
    Bits16,
}

impl Start {
    /// The mode's name, as `entry` of `baton.toml` has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bits64 => "64-bit",
            Self::Bits32 => "32-bit",
            Self::Bits16 => "16-bit",
        }
    }
}

/// The formats of kernels that can be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A Linux bzImage.
    BzImage,
    /// A 64-bit ELF, entered by its PVH note.
    PvhElf,
    /// Anything with a multiboot header: an ELF, or a file that its header says how to load.
    Multiboot,
    /// A flat image for real mode.
    BootSector,
}

impl Kind {
    /// Refuses a mode that kernels of this format can't be entered in.
    fn check(self, plan: &Plan<'_>) -> Result<(), LoadError> {
        let (kind, only) = match self {
            Self::BzImage => return Ok(()),
            Self::PvhElf => ("a PVH kernel", Start::Bits32),
            Self::Multiboot => ("a multiboot kernel", Start::Bits32),
            Self::BootSector => ("a boot sector", Start::Bits16),
        };
        if [Start::Auto, only].contains(&plan.start) {
            return Ok(());
        }
        let problem = Problem::WrongEntry { kind, wanted: plan.start.name(), only: only.name() };
        Err(LoadError::new(plan.kernel.name, problem))
    }
}

/// Tells what `bytes` are by their marks.
///
/// # Errors
/// What was found instead of a kernel, as words for a sentence ("it is ...").
pub fn detect(bytes: &[u8]) -> Result<Kind, &'static str> {
    // "MZ" comes last: a bzImage with an EFI stub starts with it, too.
    const OTHERS: &[(&[u8], &str)] = &[
        (b"\x7fELF\x01", "a 32-bit ELF without a multiboot header"),
        (b"\x7fELF", "an ELF of an unknown class"),
        (b"\x1f\x8b", "gzip-compressed data"),
        (b"\xfd7zXZ\x00", "xz-compressed data"),
        (b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
        (b"BZh", "bzip2-compressed data"),
        (b"\x02\x21\x4c\x18", "lz4-compressed data"),
        (b"07070", "a cpio archive (an initrd?)"),
        (b"#!", "a script"),
        (b"MZ", "an EFI program"),
    ];
    if bzimage::detect(bytes) {
        return Ok(Kind::BzImage);
    }
    let multiboot = multiboot::header::find(bytes).is_some();
    if bytes.starts_with(b"\x7fELF\x02") {
        // Who has both is entered the younger way, which tells more.
        return Ok(if multiboot && !pvh::has_entry(bytes) { Kind::Multiboot } else { Kind::PvhElf });
    }
    if multiboot {
        return Ok(Kind::Multiboot);
    }
    if bytes.is_empty() {
        return Err("empty");
    }
    if let Some((_, found)) = OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(found);
    }
    if boot_sector::detect(bytes) {
        return Ok(Kind::BootSector);
    }
    if bytes.iter().take(512).all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        return Err("text");
    }
    Err("of an unknown format")
}

/// Loads a guest: kernel, initrd, command line, ACPI tables and boot structures.
/// `memory` must be all zero and as large as `plan.map` says.
///
/// # Errors
/// [`LoadError`] with the module to blame; the memory is then partly written and
/// must be zeroed before it is used again.
pub fn load(plan: &Plan<'_>, memory: &mut dyn GuestMemory) -> Result<Entry, LoadError> {
    let name = plan.kernel.name;
    let kind = detect(plan.kernel.bytes).map_err(|found| LoadError::new(name, Problem::NotAKernel { found }))?;
    kind.check(plan)?;
    let entry = match kind {
        Kind::BzImage => BzImage::parse(plan.kernel)?.load(plan, memory)?,
        Kind::PvhElf => PvhImage::parse(plan.kernel)?.load(plan, memory)?,
        Kind::Multiboot => MultibootImage::parse(plan.kernel)?.load(plan, memory)?,
        Kind::BootSector => boot_sector::load(plan, memory)?,
    };
    let tables = acpi::tables(plan.apic_ids)
        .map_err(|acpi::TooManyCpus { cpus }| LoadError::new(name, Problem::TooManyCpus { cpus }))?;
    for table in &tables {
        put(memory, name, table.at, &table.bytes)?;
    }
    Ok(entry)
}

/// Refuses modules for a kernel that can't be told of them.
pub(crate) fn no_modules(plan: &Plan<'_>, kind: &'static str) -> Result<(), LoadError> {
    if plan.modules.is_empty() {
        return Ok(());
    }
    Err(LoadError::new(plan.kernel.name, Problem::NotTaken { kind, key: "modules" }))
}

/// Checks that what ends at `end` lies in the guest's low RAM.
pub(crate) fn check_fits(module: &str, end: u64, map: &GuestMap) -> Result<(), LoadError> {
    if end > LOW_RAM_END.get() {
        return Err(LoadError::new(module, Problem::TooHigh { end }));
    }
    let has = map.low_ram().end().get();
    if end > has {
        return Err(LoadError::new(module, Problem::TooLittleMemory { needs: end, has }));
    }
    Ok(())
}

/// The highest page-aligned place for `module` in `floor..limit`.
pub(crate) fn place_high(module: Module<'_>, floor: u64, limit: u64) -> Result<GuestPhys, LoadError> {
    let bytes = module.bytes.len() as u64;
    match limit.checked_sub(bytes).map(|start| GuestPhys(start).align_down(PAGE_SIZE)) {
        Some(start) if start.get() >= floor => Ok(start),
        _ => {
            let room = limit.saturating_sub(floor);
            Err(LoadError::new(module.name, Problem::InitrdTooLarge { bytes, room }))
        }
    }
}

/// The command line with its terminating zero, checked against the kernel's
/// `limit` (in bytes, without the zero) and the room there is.
pub(crate) fn command_line(plan: &Plan<'_>, limit: u64) -> Result<Vec<u8>, LoadError> {
    let refuse = |problem| LoadError::new(plan.kernel.name, problem);
    let bytes = plan.command_line.len() as u64;
    let limit = limit.min(COMMAND_LINE_BYTES - 1);
    if bytes > limit {
        return Err(refuse(Problem::CommandLineTooLong { bytes, limit }));
    }
    if plan.command_line.contains('\0') {
        return Err(refuse(Problem::CommandLineHasZero));
    }
    let mut line = Vec::with_capacity(plan.command_line.len() + 1);
    line.extend_from_slice(plan.command_line.as_bytes());
    line.push(0);
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_kernel_is_named() {
        assert_eq!(detect(b""), Err("empty"));
        assert_eq!(detect(b"\x1f\x8b\x08\x00"), Err("gzip-compressed data"));
        assert_eq!(detect(b"070701000"), Err("a cpio archive (an initrd?)"));
        assert_eq!(detect(b"<html>\n<body>404 Not Found"), Err("text"));
        assert_eq!(detect(&[0x80; 600]), Err("of an unknown format"));
        assert_eq!(detect(b"\x7fELF\x01"), Err("a 32-bit ELF without a multiboot header"));
        assert_eq!(detect(b"\x7fELF\x02\x01"), Ok(Kind::PvhElf));
    }
}
