//! Formats of multiboot 1 (Multiboot Specification 0.6.96; GRUB's multiboot.h): data only.

use core::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The header lies in so many first bytes of the file, at a multiple of four (3.1).
pub const SEARCH_BYTES: usize = 8192;
/// `magic` of the header.
pub const HEADER_MAGIC: u32 = 0x1BAD_B002;
/// What EAX holds at the entry (3.2).
pub const LOADER_MAGIC: u32 = 0x2BAD_B002;
/// `flags`: modules begin at a page.
pub const PAGE_ALIGN: u32 = 1 << 0;
/// `flags`: sizes of memory are wanted.
pub const MEMORY_INFO: u32 = 1 << 1;
/// `flags`: bits that a loader must refuse unless it can do what they say.
pub const REQUIREMENTS: u32 = 0xFFFF;
/// `flags`: the address fields say how to load the file, whatever its format.
pub const ADDRESS_FIELDS: u32 = 1 << 16;

/// Information: `mem_lower` and `mem_upper` are valid.
pub const INFO_MEMORY: u32 = 1 << 0;
/// Information: `cmdline` is valid.
pub const INFO_COMMAND_LINE: u32 = 1 << 2;
/// Information: the modules are valid.
pub const INFO_MODULES: u32 = 1 << 3;
/// Information: the memory map is valid.
pub const INFO_MEMORY_MAP: u32 = 1 << 6;
/// Information: `boot_loader_name` is valid.
pub const INFO_LOADER_NAME: u32 = 1 << 9;

/// The header with its address fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of the specification, 3.1, by their names there")]
pub struct Header {
    pub magic: U32,
    pub flags: U32,
    pub checksum: U32,
    pub header_addr: U32,
    pub load_addr: U32,
    pub load_end_addr: U32,
    pub bss_end_addr: U32,
    pub entry_addr: U32,
}

/// The information as far as it is filled in: the rest is zero, and `flags` says so (3.3).
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of the specification, 3.3, by their names there")]
pub struct Info {
    pub flags: U32,
    pub mem_lower: U32,
    pub mem_upper: U32,
    pub boot_device: U32,
    pub cmdline: U32,
    pub mods_count: U32,
    pub mods_addr: U32,
    pub syms: [U32; 4],
    pub mmap_length: U32,
    pub mmap_addr: U32,
    pub drives_length: U32,
    pub drives_addr: U32,
    pub config_table: U32,
    pub boot_loader_name: U32,
    pub apm_table: U32,
    pub vbe: [U32; 2],
    pub vbe_mode: [U16; 4],
}

/// A module.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of the specification, 3.3, by their names there")]
pub struct ModuleEntry {
    pub mod_start: U32,
    pub mod_end: U32,
    pub string: U32,
    pub reserved: U32,
}

/// An entry of the memory map. `size` does not count itself.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of the specification, 3.3, by their names there")]
pub struct MapEntry {
    pub size: U32,
    pub base_addr: U64,
    pub length: U64,
    pub kind: U32,
}

const _: () = {
    assert!(size_of::<Header>() == 32);
    assert!(offset_of!(Info, cmdline) == 16);
    assert!(offset_of!(Info, mmap_length) == 44);
    assert!(offset_of!(Info, boot_loader_name) == 64);
    assert!(size_of::<Info>() == 88);
    assert!(size_of::<ModuleEntry>() == 16);
    assert!(size_of::<MapEntry>() == 24);
};

/// The header and its offset in the file, if there is one. A file that ends within the address fields has them as zero.
#[must_use]
pub fn find(bytes: &[u8]) -> Option<(usize, Header)> {
    /// Up to and including the checksum.
    const LEAST: usize = 12;
    let searched = bytes.get(..SEARCH_BYTES.min(bytes.len()))?;
    (0..searched.len()).step_by(4).find_map(|at| {
        let found = searched.get(at..)?;
        if found.len() < LEAST || !found.starts_with(&HEADER_MAGIC.to_le_bytes()) {
            return None;
        }
        let mut whole = [0; size_of::<Header>()];
        whole.iter_mut().zip(found).for_each(|(to, from)| *to = *from);
        let header = Header::read_from_bytes(&whole).ok()?;
        let sum = header.magic.get().wrapping_add(header.flags.get()).wrapping_add(header.checksum.get());
        (sum == 0).then_some((at, header))
    })
}
