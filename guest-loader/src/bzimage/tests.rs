extern crate std;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use crate::image::{Module, Plan, load};
use crate::layout::GuestMap;
use crate::testing::{Ram, poke};
use crate::{Entry, LoadError, Mode, Problem, Start};

const MIB: u64 = 1 << 20;
/// Bytes of the hand-made kernel's protected-mode part.
const BODY: usize = 0x1000;
/// Its two setup sectors and the boot sector.
const SETUP: usize = 3 * 512;

/// A bzImage by hand, offsets as in boot.rst: protocol 2.15, relocatable, preferred
/// address 16 MiB, needs 8 MiB to unpack, takes 2047 bytes of command line.
fn kernel() -> Vec<u8> {
    let mut image = vec![0; SETUP + BODY];
    poke(&mut image, 0, b"MZ");
    poke(&mut image, 0x1F1, &[2]); // setup_sects
    poke(&mut image, 0x1F4, &(BODY as u32 / 16).to_le_bytes()); // syssize
    poke(&mut image, 0x1FE, &[0x55, 0xAA, 0xEB, 0x6A]); // boot_flag, jump to 0x26c
    poke(&mut image, 0x202, b"HdrS");
    poke(&mut image, 0x206, &[0x0F, 0x02]); // version
    poke(&mut image, 0x211, &[0x81]); // loadflags: LOADED_HIGH, CAN_USE_HEAP
    poke(&mut image, 0x22C, &0x7FFF_FFFF_u32.to_le_bytes()); // initrd_addr_max
    poke(&mut image, 0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    poke(&mut image, 0x234, &[1]); // relocatable_kernel
    poke(&mut image, 0x236, &[0x3F, 0]); // xloadflags
    poke(&mut image, 0x238, &2047_u32.to_le_bytes()); // cmdline_size
    poke(&mut image, 0x248, &0x300_u32.to_le_bytes()); // payload_offset
    poke(&mut image, 0x24C, &0x400_u32.to_le_bytes()); // payload_length
    poke(&mut image, 0x258, &0x100_0000_u64.to_le_bytes()); // pref_address
    poke(&mut image, 0x260, &0x80_0000_u32.to_le_bytes()); // init_size
    poke(&mut image, 0x268, &0xABC_u32.to_le_bytes()); // kernel_info_offset
    poke(&mut image, SETUP + 0x200, b"64-bit entry");
    poke(&mut image, SETUP + BODY - 4, b"last");
    image
}

struct Guest {
    memory: u64,
    initrd: Vec<u8>,
    command_line: String,
    start: Start,
    seed: Option<[u8; 32]>,
}

impl Guest {
    fn new() -> Self {
        Self {
            memory: 512 * MIB,
            initrd: Vec::new(),
            command_line: "console=ttyS0".to_string(),
            start: Start::Auto,
            seed: None,
        }
    }

    fn load(&self, kernel: &[u8]) -> Result<(Entry, Ram), LoadError> {
        let map = GuestMap::new(self.memory).unwrap();
        let mut ram = Ram::new(map);
        let initrd = Module { name: "initrd.cpio", bytes: &self.initrd };
        let plan = Plan {
            map: &map,
            kernel: Module { name: "vmlinuz", bytes: kernel },
            initrd: (!self.initrd.is_empty()).then_some(initrd),
            command_line: &self.command_line,
            seed: self.seed,
            apic_ids: &[0],
            modules: &[],
            start: self.start,
        };
        load(&plan, &mut ram).map(|entry| (entry, ram))
    }

    fn refusal(&self, kernel: &[u8]) -> Problem {
        self.load(kernel).map(|(entry, _)| entry).unwrap_err().problem
    }
}

fn refusal(kernel: &[u8]) -> Problem {
    Guest::new().refusal(kernel)
}

fn patched(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = kernel();
    poke(&mut image, offset, bytes);
    image
}

#[test]
fn entry_state_and_kernel() {
    let (entry, ram) = Guest::new().load(&kernel()).unwrap();
    assert_eq!(entry.mode, Mode::Long64);
    assert_eq!(entry.rip.get(), 0x100_0200);
    assert_eq!(ram.read(entry.rip.get(), 12), b"64-bit entry");
    assert_eq!(ram.read(0x100_0000 + BODY as u64 - 4, 8), b"last\0\0\0\0");
    assert_eq!(entry.rbx, 0);
    // GDT: 64-bit code at 0x10, data at 0x18, as boot.rst wants __BOOT_CS and __BOOT_DS.
    assert_eq!(entry.gdt_limit, 31);
    assert_eq!(ram.u64(entry.gdt_base.get() + 0x10), 0x00AF_9B00_0000_FFFF);
    assert_eq!(ram.u64(entry.gdt_base.get() + 0x18), 0x00CF_9300_0000_FFFF);
}

#[test]
fn boot_params_are_those_of_the_protocol() {
    let mut guest = Guest::new();
    guest.initrd = vec![0x5A; 5000];
    let (entry, ram) = guest.load(&kernel()).unwrap();
    let zero_page = entry.rsi;
    assert_eq!(ram.u64(zero_page + 0x70), 0xE_0000); // acpi_rsdp_addr
    assert_eq!(ram.read(0xE_0000, 8), b"RSD PTR ");
    assert_eq!(ram.u8(zero_page + 0x1EF), 0); // sentinel
    assert_eq!(ram.read(zero_page + 0x202, 4), b"HdrS");
    assert_eq!(ram.u8(zero_page + 0x210), 0xFF); // type_of_loader
    assert_eq!(ram.u8(zero_page + 0x211), 0x01); // loadflags
    assert_eq!(ram.u32(zero_page + 0x268), 0xABC); // kernel_info_offset is copied
    assert_eq!(ram.u16(zero_page + 0x1FA), 0xFFFF); // vid_mode
    let command_line = u64::from(ram.u32(zero_page + 0x228));
    assert_eq!(ram.read(command_line, 14), b"console=ttyS0\0");
    // The initrd ends at the end of RAM, less the rest of its last page.
    assert_eq!(ram.u32(zero_page + 0x218), 0x1FFF_E000);
    assert_eq!(ram.u32(zero_page + 0x21C), 5000);
    assert_eq!(ram.read(0x1FFF_E000, 5001), [&[0x5A; 5000][..], &[0]].concat());
    // e820: RAM, reserved below 1 MiB, RAM, ECAM.
    assert_eq!(ram.u8(zero_page + 0x1E8), 4);
    let entry = |index: u64| {
        let at = zero_page + 0x2D0 + index * 20;
        (ram.u64(at), ram.u64(at + 8), ram.u32(at + 16))
    };
    assert_eq!(entry(0), (0, 0xA_0000, 1));
    assert_eq!(entry(1), (0xE_0000, 0x2_0000, 2));
    assert_eq!(entry(2), (0x10_0000, 0x1FF0_0000, 1));
    assert_eq!(entry(3), (0xE000_0000, 0x10_0000, 2));
}

#[test]
fn page_tables_map_4_gib_to_itself() {
    let (entry, ram) = Guest::new().load(&kernel()).unwrap();
    for address in [0, 0x7000, 0x100_0200, 0x3FFF_FFFF, 0x4000_0000, 0xBFFF_FFFF, 0xFFFF_FFFF_u64] {
        // SDM 3A 4.5: a walk by hand.
        let mut table = entry.cr3;
        for shift in [39, 30] {
            let next = ram.u64(table + (address >> shift & 0x1FF) * 8);
            assert_eq!(next & 0xFFF & !0x60, 3, "present, writable");
            table = next & !0xFFF;
        }
        let leaf = ram.u64(table + (address >> 21 & 0x1FF) * 8);
        assert_eq!(leaf & 0x83, 0x83, "present, writable, 2 MiB");
        assert_eq!(leaf & !0xFFF, address & !0x1F_FFFF);
    }
    assert_eq!(ram.u64(entry.cr3 + 8), 0);
}

#[test]
fn initrd_stays_below_what_the_kernel_allows() {
    let mut guest = Guest::new();
    guest.initrd = vec![1; 0x1800];
    let (entry, ram) = guest.load(&patched(0x22C, &0x0FFF_FFFF_u32.to_le_bytes())).unwrap();
    assert_eq!(ram.u32(entry.rsi + 0x218), 0x0FFF_E000);
    // Nor does it lie above 3 GiB when there is more memory.
    guest.memory = 5 << 30;
    let (entry, ram) = guest.load(&patched(0x22C, &[0xFF; 4])).unwrap();
    assert_eq!(ram.u32(entry.rsi + 0x218), 0xBFFF_E000);
    assert_eq!(ram.u8(entry.rsi + 0x1E8), 5);
}

#[test]
fn load_address_follows_preference_and_alignment() {
    let rip = |kernel: &[u8]| Guest::new().load(kernel).unwrap().0.rip.get();
    assert_eq!(rip(&patched(0x258, &0x110_0000_u64.to_le_bytes())), 0x120_0200);
    let mut fixed = patched(0x258, &0x110_0000_u64.to_le_bytes());
    poke(&mut fixed, 0x234, &[0]);
    assert_eq!(rip(&fixed), 0x110_0200);
}

#[test]
fn old_header_ends_early_and_a_signature_is_left_out() {
    // Protocol 2.12: the header ends with handover_offset, at 0x268.
    let mut image = patched(0x201, &[0x66]);
    poke(&mut image, 0x206, &[0x0C, 0x02]);
    image.extend_from_slice(b"signature");
    let (entry, ram) = Guest::new().load(&image).unwrap();
    assert_eq!(ram.u32(entry.rsi + 0x268), 0);
    assert_eq!(ram.read(0x100_0000 + BODY as u64, 9), [0; 9]);
}

/// boot.rst, "32-bit Boot Protocol": the first byte of the protected-mode part, flat segments, ESI = `boot_params`.
#[test]
fn the_32_bit_entry_is_taken_when_asked_for_or_the_only_one() {
    let asked = Guest { start: Start::Bits32, ..Guest::new() }.load(&kernel()).unwrap();
    let only = Guest::new().load(&patched(0x236, &[0x3E])).unwrap();
    for (entry, ram) in [asked, only] {
        assert_eq!((entry.mode, entry.rip.get(), entry.cr3), (Mode::Protected32, 0x100_0000, 0));
        assert_eq!((entry.rax, entry.rbx), (0, 0));
        assert_eq!(ram.u64(entry.gdt_base.get() + 0x10), 0x00CF_9B00_0000_FFFF);
        assert_eq!(ram.u64(entry.gdt_base.get() + 0x18), 0x00CF_9300_0000_FFFF);
        assert_eq!(ram.read(entry.rsi + 0x202, 4), b"HdrS");
        assert_eq!(ram.u32(entry.rsi + 0x214), 0x100_0000); // code32_start
        assert_eq!(ram.u8(entry.rsi + 0x1E8), 4); // e820_entries
    }
}

/// boot.rst, "Running the Kernel": CS is DS + 20h, heap and stack in the segment, the loader's fields in the code's own header.
#[test]
fn real_mode_code_lies_in_a_segment_with_its_stack() {
    let mut guest = Guest { start: Start::Bits16, ..Guest::new() };
    guest.initrd = vec![7; 5000];
    let mut image = kernel();
    poke(&mut image, 0x26C, b"code behind the header");
    let (entry, ram) = guest.load(&image).unwrap();
    assert_eq!(entry.mode, Mode::Real16 { code: 0x1020, data: 0x1000 });
    assert_eq!((entry.rip.get(), entry.rsp.get(), entry.cr3), (0, 0xE000, 0));
    let at = 0x1_0000;
    assert_eq!(ram.read(at + 0x26C, 22), b"code behind the header");
    assert_eq!((ram.u8(at + 0x210), ram.u8(at + 0x211)), (0xFF, 0x81)); // type_of_loader, loadflags
    assert_eq!((ram.u32(at + 0x214), ram.u16(at + 0x224)), (0x100_0000, 0xDE00)); // code32_start, heap_end_ptr
    assert_eq!(ram.read(u64::from(ram.u32(at + 0x228)), 14), b"console=ttyS0\0");
    assert_eq!((ram.u32(at + 0x218), ram.u32(at + 0x21C)), (0x1FFF_E000, 5000));
    assert_eq!(ram.read(0x100_0200, 12), b"64-bit entry");
    assert_eq!(ram.u16(0x15 * 4 + 2), 0xF000);
    // Setup code that leaves no room for a stack.
    let mut long = kernel();
    long.resize(0x40 * 1024, 0);
    poke(&mut long, 0x1F1, &[0x60]);
    assert!(matches!(guest.refusal(&long), Problem::Malformed { field: "setup_sects", value: 0x60 }));
}

/// boot.rst, `setup_data`: next, type, length, data; type 9 is a seed.
#[test]
fn a_seed_is_setup_data() {
    for (start, header) in [(Start::Bits64, 0x7000), (Start::Bits32, 0x7000), (Start::Bits16, 0x1_0000)] {
        let (_, ram) = Guest { start, seed: Some([0xA5; 32]), ..Guest::new() }.load(&kernel()).unwrap();
        let data = ram.u64(header + 0x250);
        assert_eq!((ram.u64(data), ram.u32(data + 8), ram.u32(data + 12)), (0, 9, 32));
        assert_eq!(ram.read(data + 16, 33), [&[0xA5; 32][..], &[0]].concat());
        let (_, ram) = Guest { start, ..Guest::new() }.load(&kernel()).unwrap();
        assert_eq!(ram.u64(header + 0x250), 0);
    }
}

#[test]
fn each_refusal_names_its_cause() {
    assert_eq!(refusal(&patched(0x206, &[0x0B, 0x02])), Problem::TooOld { version: 0x20B });
    let long = Guest { start: Start::Bits64, ..Guest::new() };
    assert_eq!(long.refusal(&patched(0x236, &[0x3E])), Problem::No64BitEntry);
    assert!(matches!(refusal(&patched(0x211, &[0])), Problem::Malformed { value: 0, .. }));
    assert!(matches!(refusal(&patched(0x201, &[0x61])), Problem::Malformed { value: 0x61, .. }));
    assert!(matches!(refusal(&patched(0x1F4, &[0x20, 0])), Problem::Malformed { field: "syssize", value: 0x20 }));
    assert!(matches!(refusal(&patched(0x24C, &[1, 0x0D])), Problem::Malformed { value: 0x1000.., .. }));
    assert!(matches!(refusal(&patched(0x260, &[0xFF, 0x0F, 0])), Problem::Malformed { field: "init_size", .. }));
    assert!(matches!(refusal(&patched(0x230, &[1])), Problem::Malformed { field: "kernel_alignment", .. }));
    assert!(matches!(refusal(&patched(0x258, &[0xFF; 8])), Problem::Malformed { field: "pref_address", .. }));
    assert_eq!(refusal(&patched(0x258, &[0; 8])), Problem::TooLow { address: 0 });
    assert_eq!(refusal(&patched(0x25B, &[0xC0])), Problem::TooHigh { end: 0xC080_0000 });
    assert_eq!(refusal(&patched(0x1F1, &[3])), Problem::Truncated { needs: 0x1800, has: 0x1600 });
    assert!(matches!(refusal(&patched(0x202, b"Hdrs")), Problem::NotAKernel { found: "an EFI program" }));
}

#[test]
fn too_little_memory() {
    let mut guest = Guest::new();
    guest.memory = 16 * MIB;
    assert_eq!(guest.refusal(&kernel()), Problem::TooLittleMemory { needs: 24 * MIB, has: 16 * MIB });
    guest.memory = 24 * MIB;
    assert!(guest.load(&kernel()).is_ok());
    guest.initrd = vec![0; 4096];
    assert_eq!(guest.refusal(&kernel()), Problem::InitrdTooLarge { bytes: 4096, room: 0 });
    let error = guest.load(&kernel()).map(|_| ()).unwrap_err();
    assert_eq!(error.module, "initrd.cpio");
    guest.memory += 4096;
    assert!(guest.load(&kernel()).is_ok());
}

#[test]
fn command_line_limits() {
    let mut guest = Guest::new();
    guest.command_line = "x".repeat(2047);
    assert!(guest.load(&kernel()).is_ok());
    guest.command_line.push('x');
    assert_eq!(guest.refusal(&kernel()), Problem::CommandLineTooLong { bytes: 2048, limit: 2047 });
    // However much the kernel takes, there is room for 64 KiB with the zero.
    guest.command_line = "x".repeat(0x1_0000);
    assert_eq!(
        guest.refusal(&patched(0x238, &[0xFF; 4])),
        Problem::CommandLineTooLong { bytes: 0x1_0000, limit: 0xFFFF }
    );
    guest.command_line = "a\0b".to_string();
    assert_eq!(guest.refusal(&kernel()), Problem::CommandLineHasZero);
}

#[test]
fn truncated_anywhere_is_refused() {
    let image = kernel();
    let guest = Guest::new();
    for length in (0..SETUP).chain((SETUP..image.len()).step_by(97)) {
        let problem = guest.refusal(&image[..length]);
        let expected = if length < 0x206 {
            matches!(problem, Problem::NotAKernel { .. })
        } else {
            matches!(problem, Problem::Truncated { has, needs } if has == length as u64 && needs > has)
        };
        assert!(expected, "{length}: {problem:?}");
    }
}

#[test]
fn messages_are_one_line_with_a_remedy() {
    let error = Guest::new().load(b"#!/bin/sh\n").map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "module 'vmlinuz' is no kernel: it is a script; name a bzImage (vmlinuz), a PVH or multiboot kernel or a boot sector as the guest's kernel"
    );
    let mut guest = Guest::new();
    guest.memory = 16 * MIB;
    assert_eq!(
        guest.load(&kernel()).map(|_| ()).unwrap_err().to_string(),
        "module 'vmlinuz' does not fit: it takes 24 MiB below 3 GiB and the guest has 16 MiB there; raise memory_mib to at least 24"
    );
}

/// A real kernel, where the environment names one (BATON_TEST_KERNEL=/boot/vmlinuz-...).
#[test]
fn real_kernel_if_there_is_one() {
    let Some(path) = std::env::var_os("BATON_TEST_KERNEL") else {
        return;
    };
    let image = std::fs::read(path).unwrap();
    let (entry, ram) = Guest::new().load(&image).unwrap();
    let setup = (usize::from(image[0x1F1]) + 1) * 512;
    assert_eq!(ram.read(entry.rip.get(), 4096), image[setup + 0x200..setup + 0x1200]);
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = Guest::new().load(&bytes);
    }

    #[test]
    fn random_headers_never_panic(
        header in proptest::collection::vec(any::<u8>(), 0x7B),
        keep in proptest::collection::vec(any::<bool>(), 0x7B),
        memory in 512..0x10_0000_u64,
        initrd in 0..100_000_usize,
    ) {
        let mut image = kernel();
        for ((at, byte), keep) in (0x1F1..).zip(header).zip(keep) {
            if !keep && !(0x1FE..0x200).contains(&at) && !(0x202..0x208).contains(&at) {
                image[at] = byte;
            }
        }
        let guest = Guest { memory: memory * 4096, initrd: vec![7; initrd], command_line: String::new(), start: Start::Auto, seed: None };
        if let Err(error) = guest.load(&image) {
            prop_assert!(!matches!(error.problem, Problem::Memory(_)), "{}", error);
        }
    }
}
