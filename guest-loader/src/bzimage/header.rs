//! The formats of the Linux/x86 boot protocol (Documentation/arch/x86/boot.rst,
//! zero-page.rst): data only.

use core::mem::{offset_of, size_of};

use crate::image::SEED_BYTES;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Offset of the setup header in the file and in `boot_params`.
pub const HEADER_OFFSET: usize = 0x1F1;
/// End of the setup header as far as it is known here (protocol 2.15).
pub const HEADER_END: usize = HEADER_OFFSET + size_of::<SetupHeader>();
/// A header must reach to here: the end of `init_size` (protocol 2.10).
pub const HEADER_MIN_END: usize = 0x264;
/// `jump_offset` counts from here.
pub const JUMP_BASE: usize = 0x202;
/// "HdrS" in the field `header`.
pub const MAGIC: u32 = 0x5372_6448;
/// The field `boot_flag`.
pub const BOOT_FLAG: u16 = 0xAA55;
/// The oldest boot protocol with `xloadflags`.
pub const MIN_VERSION: u16 = 0x020C;
/// `loadflags`: the protected-mode kernel goes to 1 MiB or above.
pub const LOADED_HIGH: u8 = 1 << 0;
/// `loadflags`: `heap_end_ptr` is valid.
pub const CAN_USE_HEAP: u8 = 1 << 7;
/// `xloadflags`: there is a 64-bit entry point at 0x200.
pub const XLF_KERNEL_64: u16 = 1 << 0;
/// `type_of_loader`: a loader without an assigned number.
pub const LOADER_UNDEFINED: u8 = 0xFF;
/// `vid_mode`: normal.
pub const VIDEO_NORMAL: u16 = 0xFFFF;
/// The 64-bit entry point's offset in the protected-mode kernel.
pub const ENTRY_64: u64 = 0x200;
/// Entries of the e820 table in `boot_params`.
pub const E820_MAX: usize = 128;

/// `struct setup_header`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of boot.rst, by their names there")]
pub struct SetupHeader {
    pub setup_sects: u8,
    pub root_flags: U16,
    pub syssize: U32,
    pub ram_size: U16,
    pub vid_mode: U16,
    pub root_dev: U16,
    pub boot_flag: U16,
    pub jump_opcode: u8,
    pub jump_offset: u8,
    pub header: U32,
    pub version: U16,
    pub realmode_swtch: U32,
    pub start_sys_seg: U16,
    pub kernel_version: U16,
    pub type_of_loader: u8,
    pub loadflags: u8,
    pub setup_move_size: U16,
    pub code32_start: U32,
    pub ramdisk_image: U32,
    pub ramdisk_size: U32,
    pub bootsect_kludge: U32,
    pub heap_end_ptr: U16,
    pub ext_loader_ver: u8,
    pub ext_loader_type: u8,
    pub cmd_line_ptr: U32,
    pub initrd_addr_max: U32,
    pub kernel_alignment: U32,
    pub relocatable_kernel: u8,
    pub min_alignment: u8,
    pub xloadflags: U16,
    pub cmdline_size: U32,
    pub hardware_subarch: U32,
    pub hardware_subarch_data: U64,
    pub payload_offset: U32,
    pub payload_length: U32,
    pub setup_data: U64,
    pub pref_address: U64,
    pub init_size: U32,
    pub handover_offset: U32,
    pub kernel_info_offset: U32,
}

/// `struct boot_e820_entry`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct BootE820Entry {
    /// The first byte.
    pub address: U64,
    /// The length in bytes.
    pub size: U64,
    /// The type, as in ACPI.
    pub kind: U32,
}

/// `struct boot_params`, the zero page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of zero-page.rst, by their names there")]
pub struct BootParams {
    unused_0: [u8; 0x70],
    pub acpi_rsdp_addr: U64,
    unused_1: [u8; 0x48],
    pub ext_ramdisk_image: U32,
    pub ext_ramdisk_size: U32,
    pub ext_cmd_line_ptr: U32,
    unused_2: [u8; 0x11C],
    pub e820_entries: u8,
    unused_3: [u8; 8],
    pub hdr: SetupHeader,
    unused_4: [u8; 0x64],
    pub e820_table: [BootE820Entry; E820_MAX],
    unused_5: [u8; 0x330],
}

/// `setup_data` of this type holds a seed for random numbers (asm/setup_data.h).
pub const SETUP_RNG_SEED: u32 = 9;

/// `struct setup_data` with a seed.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are those of boot.rst, by their names there")]
pub struct SeedData {
    pub next: U64,
    pub kind: U32,
    pub len: U32,
    pub data: [u8; SEED_BYTES],
}

impl BootParams {
    /// All zero, as the protocol wants it before it is filled in.
    #[must_use]
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }
}

const _: () = {
    assert!(size_of::<SetupHeader>() == 0x7B);
    assert!(HEADER_END == 0x26C);
    assert!(HEADER_OFFSET + offset_of!(SetupHeader, header) == 0x202);
    assert!(HEADER_OFFSET + offset_of!(SetupHeader, type_of_loader) == 0x210);
    assert!(HEADER_OFFSET + offset_of!(SetupHeader, cmd_line_ptr) == 0x228);
    assert!(HEADER_OFFSET + offset_of!(SetupHeader, xloadflags) == 0x236);
    assert!(HEADER_OFFSET + offset_of!(SetupHeader, payload_offset) == 0x248);
    assert!(HEADER_OFFSET + offset_of!(SetupHeader, pref_address) == 0x258);
    assert!(HEADER_OFFSET + offset_of!(SetupHeader, init_size) == 0x260);
    assert!(size_of::<SeedData>() == 16 + SEED_BYTES);
    assert!(size_of::<BootParams>() == 0x1000);
    assert!(offset_of!(BootParams, acpi_rsdp_addr) == 0x070);
    assert!(offset_of!(BootParams, ext_ramdisk_image) == 0x0C0);
    assert!(offset_of!(BootParams, e820_entries) == 0x1E8);
    assert!(offset_of!(BootParams, hdr) == HEADER_OFFSET);
    assert!(offset_of!(BootParams, e820_table) == 0x2D0);
};
