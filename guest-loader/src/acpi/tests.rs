use alloc::vec::Vec;

use super::*;

/// What ACPICA's iasl (20200925) makes of the ASL that says the same as the DSDT.
#[rustfmt::skip]
const DSDT_BY_IASL: [u8; 271] = [
    0x08, 0x5F, 0x53, 0x35, 0x5F, 0x12, 0x07, 0x04, 0x0A, 0x05, 0x00, 0x00, 0x00, 0x10, 0x41, 0x10,
    0x5F, 0x53, 0x42, 0x5F, 0x5B, 0x82, 0x48, 0x09, 0x50, 0x43, 0x49, 0x30, 0x08, 0x5F, 0x48, 0x49,
    0x44, 0x0C, 0x41, 0xD0, 0x0A, 0x08, 0x08, 0x5F, 0x43, 0x49, 0x44, 0x0C, 0x41, 0xD0, 0x0A, 0x03,
    0x08, 0x5F, 0x53, 0x45, 0x47, 0x00, 0x08, 0x5F, 0x42, 0x42, 0x4E, 0x00, 0x08, 0x5F, 0x55, 0x49,
    0x44, 0x00, 0x08, 0x5F, 0x43, 0x52, 0x53, 0x11, 0x46, 0x06, 0x0A, 0x62, 0x88, 0x0D, 0x00, 0x02,
    0x0C, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x47, 0x01, 0xF8, 0x0C,
    0xF8, 0x0C, 0x01, 0x08, 0x87, 0x17, 0x00, 0x00, 0x0C, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0xC0, 0xFF, 0xFF, 0xFF, 0xDF, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x20, 0x8A, 0x2B,
    0x00, 0x00, 0x0C, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x40, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xFF, 0xFF, 0x4F, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x79, 0x00, 0x5B, 0x82,
    0x2C, 0x4D, 0x42, 0x52, 0x44, 0x08, 0x5F, 0x48, 0x49, 0x44, 0x0C, 0x41, 0xD0, 0x0C, 0x02, 0x08,
    0x5F, 0x55, 0x49, 0x44, 0x00, 0x08, 0x5F, 0x43, 0x52, 0x53, 0x11, 0x11, 0x0A, 0x0E, 0x86, 0x09,
    0x00, 0x01, 0x00, 0x00, 0x00, 0xE0, 0x00, 0x00, 0x10, 0x00, 0x79, 0x00, 0x5B, 0x82, 0x31, 0x43,
    0x4F, 0x4D, 0x31, 0x08, 0x5F, 0x48, 0x49, 0x44, 0x0C, 0x41, 0xD0, 0x05, 0x01, 0x08, 0x5F, 0x55,
    0x49, 0x44, 0x00, 0x08, 0x5F, 0x43, 0x52, 0x53, 0x11, 0x16, 0x0A, 0x13, 0x47, 0x01, 0xF8, 0x03,
    0xF8, 0x03, 0x01, 0x08, 0x89, 0x06, 0x00, 0x03, 0x01, 0x04, 0x00, 0x00, 0x00, 0x79, 0x00,
];

fn table(signature: &[u8], apic_ids: &[u32]) -> Table {
    tables(apic_ids)
        .unwrap()
        .into_iter()
        .find(|table| table.bytes.starts_with(signature))
        .unwrap()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
fn dsdt_is_what_iasl_makes_of_it() {
    let dsdt = table(b"DSDT", &[0]);
    assert_eq!(dsdt.bytes[36..], DSDT_BY_IASL);
    assert_eq!(dsdt.bytes[8], 2);
}

#[test]
fn checksums_and_lengths() {
    let tables = tables(&[0, 1, 2, 3, 254, 255, 1000]).unwrap();
    assert_eq!(tables.len(), 6);
    for table in &tables[1..] {
        assert_eq!(u32_at(&table.bytes, 4) as usize, table.bytes.len());
        assert_eq!(sum(&table.bytes), 0);
    }
    let rsdp = &tables[0];
    assert_eq!(&rsdp.bytes[..8], b"RSD PTR ");
    assert_eq!(
        (sum(&rsdp.bytes[..20]), sum(&rsdp.bytes), rsdp.bytes.len()),
        (0, 0, 36)
    );
}

#[test]
fn the_chain_of_pointers_holds() {
    let tables = tables(&[0]).unwrap();
    let at = |address: u64| {
        tables
            .iter()
            .find(|table| table.at.get() == address)
            .unwrap()
    };
    let rsdp = at(0xE_0000);
    assert_eq!(rsdp.bytes[15], 2);
    let xsdt = at(u64_at(&rsdp.bytes, 24));
    assert_eq!(&xsdt.bytes[..4], b"XSDT");
    let listed: Vec<_> = [36, 44, 52]
        .map(|entry| at(u64_at(&xsdt.bytes, entry)).bytes[..4].to_vec())
        .into();
    assert_eq!(listed, [b"FACP", b"APIC", b"MCFG"]);
    let fadt = table(b"FACP", &[0]);
    assert_eq!(&at(u64_at(&fadt.bytes, 140)).bytes[..4], b"DSDT");
}

#[test]
fn tables_do_not_overlap() {
    let mut tables = tables(&(0..4000).collect::<Vec<_>>()).unwrap();
    tables.sort_by_key(|table| table.at);
    for pair in tables.windows(2) {
        assert!(pair[0].at.get() + pair[0].bytes.len() as u64 <= pair[1].at.get());
    }
    let last = tables.last().unwrap();
    assert!(last.at.get() + last.bytes.len() as u64 <= 0x10_0000);
    assert!(tables.iter().all(|table| table.at.get() % 16 == 0));
}

#[test]
fn fadt_is_hardware_reduced() {
    let fadt = table(b"FACP", &[0]).bytes;
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    // IAPC_BOOT_ARCH: no VGA, no ASPM, no RTC.
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0x34);
    // HW_REDUCED_ACPI | HEADLESS | RESET_REG_SUP | SLP_BUTTON | PWR_BUTTON | WBINVD.
    assert_eq!(u32_at(&fadt, 112), 0x0010_1431);
    // RESET_REG: system I/O, 8 bits wide, byte access, 0xCF9; value 6.
    assert_eq!(
        fadt[116..129],
        [1, 8, 0, 1, 0xF9, 0x0C, 0, 0, 0, 0, 0, 0, 6]
    );
    assert_eq!(fadt[244..256], [1, 8, 0, 1, 0x00, 0x06, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fadt[256..268], [1, 8, 0, 1, 0x01, 0x06, 0, 0, 0, 0, 0, 0]);
    // No FACS, no 32-bit DSDT address.
    assert_eq!((u32_at(&fadt, 36), u32_at(&fadt, 40)), (0, 0));
}

#[test]
fn madt_has_both_kinds_of_local_apics() {
    let madt = table(b"APIC", &[0, 254, 255, 300]).bytes;
    assert_eq!(u32_at(&madt, 36), 0xFEE0_0000);
    assert_eq!(u32_at(&madt, 40), 0);
    #[rustfmt::skip]
    let entries = [
        0, 8, 0, 0, 1, 0, 0, 0,
        0, 8, 254, 254, 1, 0, 0, 0,
        9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 255, 0, 0, 0,
        9, 16, 0, 0, 0x2C, 1, 0, 0, 1, 0, 0, 0, 0x2C, 1, 0, 0,
        1, 12, 0, 0, 0x00, 0x00, 0xC0, 0xFE, 0, 0, 0, 0,
    ];
    assert_eq!(madt[44..], entries);
}

#[test]
fn mcfg_covers_bus_0() {
    let mcfg = table(b"MCFG", &[0]).bytes;
    assert_eq!(
        mcfg[36..],
        [
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xE0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0
        ]
    );
}

#[test]
fn too_many_cpus_are_refused() {
    let ids: Vec<u32> = (0..9000).collect();
    assert_eq!(tables(&ids), Err(TooManyCpus { cpus: 9000 }));
    let ids: Vec<u32> = (0..20_000).collect();
    assert_eq!(tables(&ids), Err(TooManyCpus { cpus: 20_000 }));
}
