//! For kernels that are entered in real mode: interrupt vectors and the few BIOS calls by which such kernels learn of
//! memory and print messages. Everything else answers that it is not there.

use alloc::vec::Vec;

use machine::addr::GuestPhys;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{Immutable, Unaligned};

use crate::entry::put;
use crate::error::LoadError;
use crate::layout::{BIOS_SERVICES, E820Entry, GuestMap, IMAGE_START};
use crate::memory::GuestMemory;

/// Made of `services.S` by GNU as and ld.
static SERVICES: &[u8] = include_bytes!("services.bin");
/// The numbers that the services read lie in the last bytes of [`SERVICES`], the memory map right behind.
const NUMBERS_BYTES: usize = 16;
/// The segment that the services lie in.
const SEGMENT: u16 = (BIOS_SERVICES.start.get() >> 4) as u16;
/// Interrupt vectors of real mode.
const VECTORS: usize = 256;
/// Size of conventional memory in the BIOS data area, in KiB.
const CONVENTIONAL_KIB_AT: GuestPhys = GuestPhys(0x413);
/// KiB below 640 KiB, all of them RAM.
const CONVENTIONAL_KIB: u16 = 640;
/// KiB between 1 and 16 MiB.
const BELOW_16M_KIB: u64 = 15 << 10;

/// An entry of INT 15h, AX=E820h (ACPI 6.5, 15.1).
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct MapEntry {
    base: U64,
    bytes: U64,
    kind: U32,
}

/// What the services read.
#[derive(IntoBytes, Immutable, Unaligned)]
#[repr(C)]
struct Numbers {
    entries: U16,
    below_16m_kib: U16,
    above_16m_64k: U16,
    reserved: [u8; 10],
}

const _: () = assert!(size_of::<MapEntry>() == 20 && size_of::<Numbers>() == NUMBERS_BYTES);

/// A word of the services.
fn word(at: usize) -> u16 {
    let byte = |at: usize| SERVICES.get(at).copied().unwrap_or(0);
    u16::from_le_bytes([byte(at), byte(at + 1)])
}

/// Writes services, vectors and the data area, for the kernel in `module`.
pub(crate) fn install(module: &str, map: &GuestMap, memory: &mut dyn GuestMemory) -> Result<(), LoadError> {
    let (listed, ignore) = (word(0), word(2));
    let mut vectors = [[ignore, SEGMENT]; VECTORS];
    for place in 0..usize::from(listed) {
        let (vector, offset) = (word(4 + place * 4), word(6 + place * 4));
        if let Some(entry) = vectors.get_mut(usize::from(vector)) {
            *entry = [offset, SEGMENT];
        }
    }
    put(memory, module, GuestPhys(0), vectors.as_bytes())?;
    put(memory, module, CONVENTIONAL_KIB_AT, &CONVENTIONAL_KIB.to_le_bytes())?;
    put(memory, module, BIOS_SERVICES.start, SERVICES)?;
    let numbers_at = BIOS_SERVICES.start.get() + SERVICES.len().saturating_sub(NUMBERS_BYTES) as u64;
    put(memory, module, GuestPhys(numbers_at), &numbers(map))
}

/// Sizes, and the map behind them.
fn numbers(map: &GuestMap) -> Vec<u8> {
    let entries = map.e820();
    let extended_kib = (map.low_ram().end().get() - IMAGE_START.get()) >> 10;
    let above = extended_kib.saturating_sub(BELOW_16M_KIB) / 64;
    let numbers = Numbers {
        // 16 bits hold them all: RAM that is counted here ends at 3 GiB.
        entries: (entries.len() as u16).into(),
        below_16m_kib: (extended_kib.min(BELOW_16M_KIB) as u16).into(),
        above_16m_64k: (above as u16).into(),
        reserved: [0; 10],
    };
    let mut bytes = Vec::from(numbers.as_bytes());
    for E820Entry { range, kind } in entries {
        let entry = MapEntry { base: range.start.get().into(), bytes: range.bytes.into(), kind: kind.0.into() };
        bytes.extend_from_slice(entry.as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Ram, assemble};

    #[test]
    fn the_services_are_what_gnu_makes_of_their_source() {
        let made = assemble(include_str!("services.S"), &["--oformat=binary", "-Ttext=0", "-e", "0"]);
        assert!(made == SERVICES, "make services.bin again, by the commands in services.S");
    }

    #[test]
    fn every_vector_leads_into_the_services() {
        let map = GuestMap::new(64 << 20).unwrap();
        let mut ram = Ram::new(map);
        install("kernel", &map, &mut ram).unwrap();
        for vector in 0..256 {
            let (offset, segment) = (ram.u16(vector * 4), ram.u16(vector * 4 + 2));
            assert!(segment == 0xF000 && usize::from(offset) < SERVICES.len(), "{vector:#x}");
        }
        // What is not offered is IRET.
        let ignore = 0xF_0000 + u64::from(ram.u16(0x21 * 4));
        assert_eq!(ram.u8(ignore), 0xCF);
        assert_ne!(ram.u16(0x15 * 4), ram.u16(0x21 * 4));
        assert_eq!(ram.u16(0x413), 640);
    }

    #[test]
    fn the_map_lies_behind_the_services() {
        let map = GuestMap::new(64 << 20).unwrap();
        let mut ram = Ram::new(map);
        install("kernel", &map, &mut ram).unwrap();
        let table = 0xF_0000 + SERVICES.len() as u64;
        assert_eq!((ram.u16(table - 16), ram.u16(table - 14), ram.u16(table - 12)), (4, 15 * 1024, 48 * 16));
        let entry = |index: u64| {
            (ram.u64(table + index * 20), ram.u64(table + index * 20 + 8), ram.u32(table + index * 20 + 16))
        };
        assert_eq!(entry(0), (0, 0xA_0000, 1));
        assert_eq!(entry(1), (0xE_0000, 0x2_0000, 2));
        assert_eq!(entry(2), (0x10_0000, 63 << 20, 1));
    }
}
