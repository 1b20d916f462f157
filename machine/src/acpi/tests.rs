//! Tables in buffers, good and hostile.

use super::*;
use crate::pci::EcamRegion;
use proptest::prelude::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

/// Firmware's memory, a piece at a time.
#[derive(Clone, Default)]
struct Memory(Vec<(u64, Vec<u8>)>);

impl Mapper for Memory {
    fn read(&self, address: HostPhys, buffer: &mut [u8]) -> bool {
        for (start, bytes) in &self.0 {
            if let Some(offset) = address.0.checked_sub(*start)
                && let Some(found) = bytes.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()))
            {
                buffer.copy_from_slice(found);
                return true;
            }
        }
        false
    }
}

const RSDP: HostPhys = HostPhys(0xf_5ad0);

fn table(name: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = name.to_vec();
    table.extend([0, 0, 0, 0, revision, 0]);
    table.extend(b"BOCHS BXPC    \x01\0\0\0BXPC\x01\0\0\0");
    table.extend(body);
    let length = table.len() as u32;
    table[4..8].copy_from_slice(&length.to_le_bytes());
    seal(&mut table);
    table
}

fn seal(table: &mut [u8]) {
    table[9] = 0;
    table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

/// The MADT's body as QEMU writes it for two CPUs, with an x2APIC entry added.
const MADT: [u8; 82] = [
    0, 0, 0xe0, 0xfe, 1, 0, 0, 0, // LAPIC 0xfee00000 (low byte patched below), PCAT_COMPAT
    0, 8, 0, 0, 1, 0, 0, 0, // CPU 0
    0, 8, 1, 1, 1, 0, 0, 0, // CPU 1
    0, 8, 2, 0xff, 0, 0, 0, 0, // no CPU
    9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, // x2APIC id 256, uid 3
    1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0, // I/O APIC 0 at 0xfec00000
    2, 10, 0, 0, 2, 0, 0, 0, 0, 0, // IRQ 0 is interrupt 2
    2, 10, 0, 9, 9, 0, 0, 0, 0x0d, 0, // IRQ 9: level, active high
    77, 2, // unknown
];

fn fadt() -> Vec<u8> {
    // ACPI 1.0: PM_TMR_BLK at 76, PM_TMR_LEN at 91; 116 bytes in all.
    let mut body = vec![0; 116 - 36];
    body[76 - 36..78 - 36].copy_from_slice(&[0x08, 0x06]);
    body[91 - 36] = 4;
    // Flags at 112: TMR_VAL_EXT.
    body[113 - 36] = 1;
    table(b"FACP", 1, &body)
}

fn tables() -> Vec<Vec<u8>> {
    let mcfg = [
        0, 0, 0, 0, 0, 0, 0, 0, //
        0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, // segment 0, buses 0 to 255 at 0xb0000000
        0, 0, 0, 0xb0, 0, 0, 0, 0, 1, 0, 9, 8, 0, 0, 0, 0, // buses 9 to 8
        0, 0, 0, 0xb0, 0, 0, 0, 0, 2, 0, 0, 0xff, 0, 0, 0, 0, // segment 2 where segment 0 is
    ];
    let hpet = [1, 0xa2, 0x86, 0x80, 0, 0, 0, 0, 0, 0, 0xd0, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0];
    let dmar = [
        0x26, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, //
        0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0,
    ];
    let mut madt = MADT;
    madt[2..4].copy_from_slice(&[0xe0, 0xfe]);
    vec![
        table(b"APIC", 3, &madt),
        table(b"MCFG", 1, &mcfg),
        table(b"HPET", 1, &hpet),
        fadt(),
        table(b"DMAR", 1, &dmar),
        table(b"WAET", 1, &[0; 4]),
    ]
}

/// Lays tables out and points an XSDT (or RSDT) and the root pointer at them.
fn firmware(tables: &[Vec<u8>], wide: bool) -> Memory {
    let mut memory = Memory::default();
    let mut pointers = vec![];
    for (table, at) in tables.iter().zip((0x7fe_0000u64..).step_by(0x1000)) {
        memory.0.push((at, table.clone()));
        pointers.extend_from_slice(&at.to_le_bytes()[..if wide { 8 } else { 4 }]);
    }
    memory.0.push((0x7ff_0000, self::table(if wide { b"XSDT" } else { b"RSDT" }, 1, &pointers)));
    let mut rsdp = b"RSD PTR \0BOCHS ".to_vec();
    rsdp.push(if wide { 2 } else { 0 });
    rsdp.extend(if wide { [0; 4] } else { 0x7ff_0000u32.to_le_bytes() });
    rsdp[8] = rsdp.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    rsdp.extend(36u32.to_le_bytes());
    rsdp.extend(0x7ff_0000u64.to_le_bytes());
    rsdp.extend([0; 4]);
    rsdp[32] = rsdp.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    let mut area = vec![0; 0x2_0000];
    area[0x1_5ad0..0x1_5ad0 + 36].copy_from_slice(&rsdp);
    memory.0.push((0xe_0000, area));
    memory
}

#[test]
fn all_of_it() {
    for wide in [true, false] {
        let memory = firmware(&tables(), wide);
        assert_eq!(find_rsdp(&memory), Some(RSDP));
        let platform = read(&memory, RSDP).unwrap();
        let ids: Vec<_> = platform.processors.iter().map(|cpu| (cpu.apic_id, cpu.uid, cpu.enabled)).collect();
        assert_eq!(ids, [(0, 0, true), (1, 1, true), (256, 3, true)]);
        assert_eq!(platform.local_apic, HostPhys(0xfee0_0000));
        assert!(platform.has_8259);
        assert_eq!(platform.io_apics, [IoApic { id: 0, address: HostPhys(0xfec0_0000), first_interrupt: 0 }]);
        let pit = InterruptOverride { irq: 0, interrupt: 2, active_low: false, level: false };
        let sci = InterruptOverride { irq: 9, interrupt: 9, active_low: false, level: true };
        assert_eq!(platform.overrides, [pit, sci]);
        let ecam = EcamRegion { base: HostPhys(0xb000_0000), segment: 0, start_bus: 0, end_bus: 255 };
        assert_eq!(platform.ecam, [ecam]);
        assert_eq!(platform.hpet, Some(Hpet { address: HostPhys(0xfed0_0000), number: 0 }));
        assert_eq!(platform.pm_timer, Some(PmTimer::Port { port: 0x608, wide: true }));
        assert_eq!(platform.dmar.unwrap().unwrap().units[0].base, HostPhys(0xfed9_0000));
        let warning = |offset| AcpiWarning::Value { table: Signature(*b"MCFG"), offset };
        assert_eq!(platform.warnings, [warning(60), warning(76)]);
    }
}

#[test]
fn root_pointers() {
    let good = firmware(&tables(), true);
    assert_eq!(read(&good, HostPhys(0xf_5ac0)).unwrap_err(), AcpiError::RootPointer { at: HostPhys(0xf_5ac0) });
    assert!(read(&Memory::default(), RSDP).is_err());
    assert_eq!(find_rsdp(&Memory::default()), None);
    // One byte of either half wrong: no root, or none but the RSDT, which is not there.
    for at in 0..36 {
        let mut bad = good.clone();
        bad.0.last_mut().unwrap().1[0x1_5ad0 + at] ^= 0x40;
        assert!(read(&bad, RSDP).is_err(), "{at}");
    }
    // In the EBDA.
    let mut moved = good.clone();
    let area = moved.0.pop().unwrap().1;
    moved.0.push((0x40e, vec![0xc0, 0x9f]));
    moved.0.push((0x9_fc00, [vec![0; 0x200], area[0x1_5ad0..][..0x200].to_vec()].concat()));
    assert_eq!(find_rsdp(&moved), Some(HostPhys(0x9_fe00)));
    assert_eq!(read(&moved, HostPhys(0x9_fe00)).unwrap().processors.len(), 3);
}

/// One table at a time in hostile hands: it is left out and named, the others stay.
#[test]
fn hostile_tables() {
    let with = |index: usize, change: &dyn Fn(&mut Vec<u8>)| {
        let mut tables = tables();
        change(&mut tables[index]);
        read(&firmware(&tables, true), RSDP).unwrap()
    };
    let madt = |change: &dyn Fn(&mut Vec<u8>)| {
        let platform = with(0, &|table| {
            change(table);
            seal(table);
        });
        assert!(platform.processors.is_empty() && platform.hpet.is_some());
        platform.warnings[0]
    };
    let structure = |offset, bytes| AcpiWarning::Structure { table: Signature(*b"APIC"), offset, bytes };
    // A structure without length would be walked for ever.
    assert_eq!(madt(&|table| table[45] = 0), structure(44, 0));
    assert_eq!(madt(&|table| table[45] = 1), structure(44, 1));
    assert_eq!(madt(&|table| table[45] = 7), structure(44, 7));
    assert_eq!(madt(&|table| table[117] = 3), structure(116, 3));
    assert!(madt(&|table| table[117] = 0).to_string().contains("APIC has a structure of impossible length 0"));
    let length = |bytes| AcpiWarning::Length { table: Signature(*b"APIC"), at: HostPhys(0x7fe_0000), bytes };
    for bytes in [0u32, 4, 35, 0xffff_ffff] {
        assert_eq!(madt(&|table| table[4..8].copy_from_slice(&bytes.to_le_bytes())), length(bytes));
    }
    let cut = |table: &mut Vec<u8>| {
        table.truncate(40);
        table[4..8].copy_from_slice(&40u32.to_le_bytes());
    };
    assert_eq!(madt(&cut), length(40));
    // Beyond what can be read.
    let long = madt(&|table| table[5] = 1);
    assert_eq!(long, AcpiWarning::Unreadable { at: HostPhys(0x7fe_0000) });
    let checksum = with(0, &|table| table[50] ^= 1);
    assert_eq!(checksum.warnings[0], AcpiWarning::Checksum { table: Signature(*b"APIC"), at: HostPhys(0x7fe_0000) });
    // An HPET that is not in memory (the crate would panic).
    let hpet = with(2, &|table| {
        table[40] = 1;
        seal(table);
    });
    assert!(hpet.hpet.is_none() && hpet.processors.len() == 3);
    // A FADT that claims to be of a revision whose fields it does not have.
    let fadt = with(3, &|table| {
        table[8] = 6;
        seal(table);
    });
    assert_eq!(fadt.pm_timer, Some(PmTimer::Port { port: 0x608, wide: true }));
    // A DMAR that is broken inside is an error of its own.
    let dmar = with(4, &|table| {
        table[50] = 0;
        seal(table);
    });
    assert!(dmar.dmar.unwrap().unwrap_err().to_string().contains("offset 0x30"));
    // The same table twice, and pointers to nowhere.
    let mut doubled = tables();
    doubled.push(doubled[0].clone());
    assert_eq!(read(&firmware(&doubled, true), RSDP).unwrap().processors.len(), 3);
    let mut memory = firmware(&tables(), true);
    memory.0.retain(|(at, _)| *at != 0x7fe_1000);
    let platform = read(&memory, RSDP).unwrap();
    assert!(platform.ecam.is_empty());
    assert_eq!(platform.warnings, [AcpiWarning::Unreadable { at: HostPhys(0x7fe_1000) }]);
}

#[test]
fn each_bit_flipped() {
    for (index, table) in tables().iter().enumerate() {
        for bit in 0..table.len() * 8 {
            let mut tables = tables();
            tables[index][bit / 8] ^= 1 << (bit % 8);
            // Once as it is, once with a checksum that fits.
            assert!(read(&firmware(&tables, true), RSDP).is_ok());
            seal(&mut tables[index]);
            assert!(read(&firmware(&tables, true), RSDP).is_ok());
        }
    }
}

proptest! {
    #[test]
    fn garbage(
        index in 0..6usize,
        body in prop::collection::vec(any::<u8>(), 0..300),
        revision in any::<u8>(),
        root in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut tables = tables();
        let name = tables[index].first_chunk::<4>().copied().unwrap();
        tables[index] = table(&name, revision, &body);
        let mut memory = firmware(&tables, true);
        prop_assert!(read(&memory, RSDP).is_ok());
        // A root table of noise.
        for (at, bytes) in &mut memory.0 {
            if *at == 0x7ff_0000 {
                *bytes = table(b"XSDT", revision, &root);
            }
        }
        prop_assert!(read(&memory, RSDP).is_ok());
    }
}
