use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::image::load;
use crate::testing::{Ram, poke};
use crate::{Mode, Start};

const MIB: u64 = 1 << 20;
const HEADERS: usize = 64 + 2 * 56;
const NOTE: usize = HEADERS;
const CODE: usize = 0x100;

/// An ELF64 by hand (gABI, Xen public/elfnote.h): one PT_LOAD at 1 MiB with 16
/// bytes of file and 4 KiB of memory, one PT_NOTE with the entry point 1 MiB + 4.
fn kernel() -> Vec<u8> {
    let mut elf = vec![0; CODE + 16];
    poke(&mut elf, 0, b"\x7fELF\x02\x01\x01"); // 64 bits, little-endian, version 1
    poke(&mut elf, 16, &[2, 0, 62, 0, 1]); // ET_EXEC, EM_X86_64, version
    poke(&mut elf, 32, &[64]); // e_phoff
    poke(&mut elf, 52, &[64, 0, 56, 0, 2, 0]); // e_ehsize, e_phentsize, e_phnum
    let load = 64;
    poke(&mut elf, load, &[1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD, R+X
    poke(&mut elf, load + 8, &(CODE as u64).to_le_bytes());
    poke(&mut elf, load + 16, &0xFFFF_8000_0010_0000_u64.to_le_bytes()); // p_vaddr is not used
    poke(&mut elf, load + 24, &0x10_0000_u64.to_le_bytes());
    poke(&mut elf, load + 32, &16_u64.to_le_bytes());
    poke(&mut elf, load + 40, &4096_u64.to_le_bytes());
    let note = 64 + 56;
    poke(&mut elf, note, &[4]); // PT_NOTE
    poke(&mut elf, note + 8, &(NOTE as u64).to_le_bytes());
    poke(&mut elf, note + 32, &20_u64.to_le_bytes());
    poke(&mut elf, note + 40, &20_u64.to_le_bytes());
    poke(&mut elf, note + 48, &[4]);
    poke(&mut elf, NOTE, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]); // namesz, descsz, type
    poke(&mut elf, NOTE + 12, b"Xen\0\x04\x00\x10\x00");
    poke(&mut elf, CODE, b"\xF4sixteen bytes!!");
    elf
}

fn run(kernel: &[u8], memory: u64, initrd: Option<&[u8]>) -> Result<(Entry, Ram), LoadError> {
    let map = GuestMap::new(memory).unwrap();
    let mut ram = Ram::new(map);
    let plan = Plan {
        map: &map,
        kernel: Module { name: "guest.elf", bytes: kernel },
        initrd: initrd.map(|bytes| Module { name: "initrd", bytes }),
        command_line: "test=1",
        seed: None,
        apic_ids: &[0],
        start: Start::Auto,
        modules: &[],
    };
    load(&plan, &mut ram).map(|entry| (entry, ram))
}

fn refusal(kernel: &[u8]) -> Problem {
    run(kernel, 16 * MIB, None).map(|_| ()).unwrap_err().problem
}

fn patched(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut elf = kernel();
    poke(&mut elf, offset, bytes);
    elf
}

#[test]
fn start_info_is_that_of_pvh() {
    let (entry, ram) = run(&kernel(), 5 << 30, Some(&[9; 100])).unwrap();
    assert_eq!((entry.mode, entry.rip.get(), entry.cr3), (Mode::Protected32, 0x10_0004, 0));
    assert_eq!(ram.read(0x10_0000, 17), b"\xF4sixteen bytes!!\0");
    assert_eq!(ram.u64(entry.gdt_base.get() + 0x10), 0x00CF_9B00_0000_FFFF);
    let info = entry.rbx;
    assert_eq!((ram.u32(info), ram.u32(info + 4)), (0x336E_C578, 1));
    assert_eq!(ram.u32(info + 12), 1); // nr_modules
    let module = ram.u64(info + 16);
    assert_eq!((ram.u64(module), ram.u64(module + 8)), (0xBFFF_F000, 100));
    assert_eq!(ram.read(0xBFFF_F000, 100), [9; 100]);
    assert_eq!(ram.read(ram.u64(info + 24), 7), b"test=1\0");
    assert_eq!(ram.read(ram.u64(info + 32), 8), b"RSD PTR ");
    let (map, entries) = (ram.u64(info + 40), ram.u32(info + 48));
    assert_eq!(entries, 5);
    let entry = |index: u64| {
        let at = map + index * 24;
        (ram.u64(at), ram.u64(at + 8), ram.u32(at + 16))
    };
    assert_eq!(entry(0), (0, 0xA_0000, 1));
    assert_eq!(entry(4), (0x1_0000_0000, 0x8000_0000, 1));
}

#[test]
fn eight_byte_note_and_odd_alignment() {
    // As Linux writes it: descsz 8.
    let mut elf = kernel();
    poke(&mut elf, 64 + 56 + 32, &24_u64.to_le_bytes());
    poke(&mut elf, 64 + 56 + 48, &[1]);
    poke(&mut elf, NOTE + 4, &[8]);
    poke(&mut elf, NOTE + 16, &0x10_0008_u64.to_le_bytes());
    let (entry, ram) = run(&elf, 16 * MIB, None).unwrap();
    assert_eq!(entry.rip.get(), 0x10_0008);
    assert_eq!((ram.u32(entry.rbx + 12), ram.u64(entry.rbx + 16)), (0, 0));
}

#[test]
fn each_refusal_names_its_cause() {
    assert!(matches!(
        refusal(&patched(4, &[1])),
        Problem::NotAKernel { found: "a 32-bit ELF without a multiboot header" }
    ));
    assert!(matches!(refusal(&patched(18, &[183])), Problem::NotAKernel { .. }));
    assert_eq!(refusal(&patched(NOTE + 8, &[17])), Problem::NoPvhNote);
    assert_eq!(refusal(&patched(NOTE + 12, b"Xem")), Problem::NoPvhNote);
    assert!(matches!(refusal(&patched(NOTE + 16, &[0, 0, 0x20])), Problem::Malformed { value: 0x20_0000, .. }));
    assert_eq!(refusal(&patched(64 + 24, &[0, 0xF0, 0x0F])), Problem::TooLow { address: 0xF_F000 });
    assert_eq!(refusal(&patched(64 + 24, &[0, 0, 0, 0xC0])), Problem::TooHigh { end: 0xC000_1000 });
    assert_eq!(refusal(&patched(64 + 24, &[0xFF; 8])), Problem::TooHigh { end: u64::MAX });
    assert!(matches!(refusal(&patched(64 + 32, &[1, 0x10])), Problem::Malformed { field: "p_filesz", .. }));
    assert_eq!(refusal(&patched(64 + 8, &[0, 0x10])), Problem::Truncated { needs: 0x1010, has: 0x110 });
    assert_eq!(refusal(&patched(64 + 40, &[0, 0, 0, 1])), Problem::TooLittleMemory { needs: 17 * MIB, has: 16 * MIB });
    assert!(matches!(refusal(&patched(56, &[0xF0, 0])), Problem::Malformed { .. }));
}

#[test]
fn truncated_anywhere_is_refused() {
    let elf = kernel();
    for length in 0..elf.len() {
        assert!(run(&elf[..length], 16 * MIB, None).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn damaged_elf_never_panics(
        damage in proptest::collection::vec((4..CODE, any::<u8>()), 0..12),
        big in proptest::collection::vec((0..2_usize, 0..6_usize, any::<u64>()), 0..3),
    ) {
        let mut elf = kernel();
        for (at, byte) in damage {
            elf[at] = byte;
        }
        // Whole 8-byte fields of the program headers, to reach the ends of the number range.
        for (header, field, value) in big {
            poke(&mut elf, 64 + header * 56 + 8 + field * 8, &value.to_le_bytes());
        }
        if let Err(error) = run(&elf, 16 * MIB, None) {
            prop_assert!(!matches!(error.problem, Problem::Memory(_)), "{}", error);
        }
    }

    #[test]
    fn random_elf_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let mut elf = Vec::from(*b"\x7fELF\x02\x01\x01");
        elf.extend_from_slice(&bytes);
        let _ = run(&elf, 16 * MIB, None);
    }
}
