extern crate std;

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use crate::image::{Module, Plan, detect, load};
use crate::layout::GuestMap;
use crate::testing::{Ram, assemble, poke};
use crate::{Entry, Kind, LoadError, Mode, Problem, Start};

const MIB: u64 = 1 << 20;

/// A kernel that the ELF's program headers say how to load: header, one instruction behind it, 64 bytes of .bss.
const BY_ELF: &str = "
    .text
    .long 0x1BADB002, 3, -(0x1BADB002 + 3)
    .global _start
    _start: hlt
    .bss
    .skip 64
";
/// The same with address fields: whoever writes such a header links it as a flat file.
const BY_FIELDS: &str = "
    .text
    begin: .long 0x11111111
    header: .long 0x1BADB002, 0x10003, -(0x1BADB002 + 0x10003)
    .long header, begin, end_of_file, end_of_bss, _start
    .global _start
    _start: hlt
    .ascii \"the last bytes\"
    end_of_file:
    .set end_of_bss, end_of_file + 0x3000
";

fn by_elf() -> Vec<u8> {
    assemble(BY_ELF, &["-N", "-Ttext=0x100000"])
}

fn by_fields() -> Vec<u8> {
    assemble(BY_FIELDS, &["-Ttext=0x200000", "--oformat=binary"])
}

struct Guest<'a> {
    memory: u64,
    initrd: Option<Module<'a>>,
    modules: Vec<(Module<'a>, &'a str)>,
    command_line: String,
    start: Start,
}

impl<'a> Guest<'a> {
    fn new() -> Self {
        let command_line = "console=com1 a=b".to_string();
        Self { memory: 16 * MIB, initrd: None, modules: Vec::new(), command_line, start: Start::Auto }
    }

    fn load(&self, kernel: &[u8]) -> Result<(Entry, Ram), LoadError> {
        let map = GuestMap::new(self.memory).unwrap();
        let mut ram = Ram::new(map);
        let plan = Plan {
            map: &map,
            kernel: Module { name: "kernel.bin", bytes: kernel },
            initrd: self.initrd,
            modules: &self.modules,
            start: self.start,
            command_line: &self.command_line,
            seed: None,
            apic_ids: &[0],
        };
        load(&plan, &mut ram).map(|entry| (entry, ram))
    }
}

fn refusal(kernel: &[u8]) -> Problem {
    Guest::new().load(kernel).map(|(entry, _)| entry).unwrap_err().problem
}

/// The flat kernel, damaged: `field` counts from the header's magic.
fn patched(field: usize, value: u32) -> Vec<u8> {
    let mut kernel = by_fields();
    poke(&mut kernel, 4 + field * 4, &value.to_le_bytes());
    if field == 1 {
        poke(&mut kernel, 12, &0_u32.wrapping_sub(0x1BAD_B002).wrapping_sub(value).to_le_bytes());
    }
    kernel
}

#[test]
fn an_elf_is_loaded_by_its_program_headers() {
    let kernel = by_elf();
    assert_eq!(detect(&kernel), Ok(Kind::Multiboot));
    let (entry, ram) = Guest::new().load(&kernel).unwrap();
    assert_eq!((entry.mode, entry.rip.get(), entry.cr3), (Mode::Protected32, 0x10_000C, 0));
    assert_eq!((entry.rax, ram.u8(0x10_000C)), (0x2BAD_B002, 0xF4));
    assert_eq!(ram.u64(entry.gdt_base.get() + 0x10), 0x00CF_9B00_0000_FFFF);
}

#[test]
fn the_entry_of_a_high_kernel_is_where_its_segment_lies() {
    let mut kernel = assemble(BY_ELF, &["-N", "-Ttext=0xC0100000"]);
    // p_paddr of each of its segments: as a linker script with AT() would say.
    for header in 0..usize::from(kernel[44]) {
        let at = 52 + header * 32 + 12;
        let address = u32::from_le_bytes(kernel[at..at + 4].try_into().unwrap());
        poke(&mut kernel, at, &address.wrapping_sub(0xC000_0000).to_le_bytes());
    }
    let (entry, ram) = Guest { memory: 4 * MIB, ..Guest::new() }.load(&kernel).unwrap();
    assert_eq!((entry.rip.get(), ram.u8(0x10_000C)), (0x10_000C, 0xF4));
}

#[test]
fn a_flat_file_is_loaded_by_its_address_fields() {
    let kernel = by_fields();
    assert_eq!(detect(&kernel), Ok(Kind::Multiboot));
    let (entry, ram) = Guest::new().load(&kernel).unwrap();
    assert_eq!((entry.mode, entry.rip.get()), (Mode::Protected32, 0x20_0024));
    assert_eq!(ram.read(0x20_0000, kernel.len()), kernel);
    // Without load_end_addr it is the whole file, without bss_end_addr no more than that.
    let mut whole = patched(5, 0);
    poke(&mut whole, 4 + 6 * 4, &[0; 4]);
    whole.extend_from_slice(b"more");
    let (_, ram) = Guest::new().load(&whole).unwrap();
    assert_eq!(ram.read(0x20_0000, whole.len()), whole);
}

/// Offsets as in the specification's table (3.3).
#[test]
fn the_information_is_that_of_the_specification() {
    let (first, second) = ([1; 100], [2; 5000]);
    let guest = Guest {
        memory: 5 << 30,
        initrd: Some(Module { name: "initrd", bytes: &first }),
        modules: vec![(Module { name: "second", bytes: &second }, "second with=words")],
        ..Guest::new()
    };
    let (entry, ram) = guest.load(&by_fields()).unwrap();
    let info = entry.rbx;
    assert_eq!(ram.u32(info), 0x24D);
    assert_eq!((ram.u32(info + 4), ram.u32(info + 8)), (640, 3 * 1024 * 1024 - 1024));
    let text = |at: u32, bytes: usize| String::from_utf8(ram.read(at.into(), bytes)).unwrap();
    assert_eq!(text(ram.u32(info + 16), 17), "console=com1 a=b\0");
    assert_eq!(ram.u32(info + 20), 2);
    let modules = u64::from(ram.u32(info + 24));
    // Behind the .bss, a page each.
    let end = (0x20_0000 + by_fields().len() as u32 + 0x3000).next_multiple_of(4096);
    assert_eq!((ram.u32(modules), ram.u32(modules + 4)), (end, end + 100));
    assert_eq!(text(ram.u32(modules + 8), 7), "initrd\0");
    assert_eq!((ram.u32(modules + 16), ram.u32(modules + 20)), (end + 4096, end + 4096 + 5000));
    assert_eq!(text(ram.u32(modules + 24), 18), "second with=words\0");
    assert_eq!(ram.read(u64::from(end) + 4096, 5000), second);
    let (length, map) = (ram.u32(info + 44), u64::from(ram.u32(info + 48)));
    let entry = |at: u64| (ram.u32(at), ram.u64(at + 4), ram.u64(at + 12), ram.u32(at + 20));
    assert_eq!(length, 5 * 24);
    assert_eq!(entry(map), (20, 0, 0xA_0000, 1));
    assert_eq!(entry(map + 24), (20, 0xE_0000, 0x2_0000, 2));
    assert_eq!(entry(map + 4 * 24), (20, 1 << 32, 2 << 30, 1));
    assert_eq!(text(ram.u32(info + 64), 6), "Baton\0");
}

#[test]
fn each_refusal_names_its_cause() {
    assert_eq!(refusal(&patched(1, 0x1_0007)), Problem::MultibootFlags { unknown: 4 });
    assert_eq!(refusal(&patched(1, 0x1_8003)), Problem::MultibootFlags { unknown: 0x8000 });
    // A wrong checksum is no header at all.
    let mut unsummed = by_fields();
    poke(&mut unsummed, 12, &[0; 4]);
    assert!(matches!(refusal(&unsummed), Problem::NotAKernel { .. }));
    // No address fields, no ELF.
    assert!(matches!(refusal(&patched(1, 3)), Problem::NotAKernel { found } if found.contains("bit 16")));
    assert_eq!(
        refusal(&patched(4, 0x20_0010)),
        Problem::Malformed { field: "load_addr, above header_addr,", value: 0x20_0010 }
    );
    assert!(matches!(refusal(&patched(4, 0x1F_0000)), Problem::Malformed { value: 0x1F_0000, .. }));
    assert!(matches!(refusal(&patched(5, 0x1F_0000)), Problem::Malformed { value: 0x1F_0000, .. }));
    assert!(matches!(refusal(&patched(5, 0x28_0000)), Problem::Truncated { needs: 0x8_0000, .. }));
    assert!(matches!(refusal(&patched(6, 0x20_0001)), Problem::Malformed { value: 0x20_0001, .. }));
    assert_eq!(refusal(&patched(6, 0xC000_0001)), Problem::TooHigh { end: 0xC000_0001 });
    assert!(matches!(refusal(&patched(7, 0x1000)), Problem::Malformed { value: 0x1000, .. }));
    let low = assemble(BY_FIELDS, &["-Ttext=0x8000", "--oformat=binary"]);
    assert_eq!(refusal(&low), Problem::TooLow { address: 0x8000 });
    let mut arm = by_elf();
    poke(&mut arm, 18, &[40]);
    assert!(matches!(refusal(&arm), Problem::NotAKernel { found: "an ELF for another architecture" }));
    let long = Guest { start: Start::Bits64, ..Guest::new() }.load(&by_elf()).map(|_| ()).unwrap_err();
    assert!(long.to_string().contains("set entry = \"32-bit\""), "{long}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let big = vec![0; 15 << 20];
    let modules = vec![(Module { name: "big", bytes: &big }, "big")];
    let error = Guest { modules, ..Guest::new() }.load(&by_fields()).map(|_| ()).unwrap_err();
    assert_eq!((error.module.as_str(), matches!(error.problem, Problem::TooLittleMemory { .. })), ("big", true));
    let text = "x".repeat(0x1_0000);
    let modules = vec![(Module { name: "m", bytes: &[1] }, text.as_str())];
    let error = Guest { modules, ..Guest::new() }.load(&by_fields()).map(|_| ()).unwrap_err();
    assert_eq!(error.problem, Problem::ModulesTooMany { modules: 1 });
}

#[test]
fn truncated_anywhere_is_refused() {
    for kernel in [by_fields(), by_elf()] {
        let needed = kernel.len().min(0x200);
        for length in 0..needed {
            let cut = &kernel[..length];
            assert!(Guest::new().load(cut).is_err(), "{length}");
        }
    }
}

proptest! {
    #[test]
    fn damaged_kernels_never_panic(
        elf in any::<bool>(),
        damage in proptest::collection::vec((0..0x200_usize, any::<u8>()), 0..12),
    ) {
        static KERNELS: std::sync::OnceLock<(Vec<u8>, Vec<u8>)> = std::sync::OnceLock::new();
        let (by_elf, by_fields) = KERNELS.get_or_init(|| (by_elf(), by_fields()));
        let mut kernel = if elf { by_elf.clone() } else { by_fields.clone() };
        for (at, byte) in damage {
            if let Some(place) = kernel.get_mut(at) {
                *place = byte;
            }
        }
        if let Err(error) = Guest::new().load(&kernel) {
            prop_assert!(!matches!(error.problem, Problem::Memory(_)), "{}", error);
        }
    }
}
