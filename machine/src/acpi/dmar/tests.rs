//! A table such as servers have, and what becomes of it in hostile hands.

use super::*;
use crate::addr::HostPhys;
use crate::pci::model::{Device, Model, bdf};
use crate::pci::{Buses, ConfigSpace, enumerate};
use proptest::prelude::*;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

/// VT-d 8.1: header, width 39 bits, INTR_REMAP, then `structures`.
fn table(structures: &[&[u8]]) -> Vec<u8> {
    let mut table = b"DMAR\0\0\0\0\x01\0BATON TESTDMAR\x01\0\0\0TEST\x01\0\0\0".to_vec();
    table.extend([0x26, 0x01]);
    table.resize(48, 0);
    for structure in structures {
        table.extend_from_slice(structure);
    }
    seal(&mut table);
    table
}

fn seal(table: &mut [u8]) {
    let length = (table.len() as u32).to_le_bytes();
    table[4..8].copy_from_slice(&length);
    table[9] = 0;
    table[9] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
}

// A unit at 0xfed90000 with one endpoint (00:02.0), written out by hand.
const UNIT: [u8; 24] = [
    0, 0, 24, 0, 0, 0, 0, 0, 0x00, 0x00, 0xd9, 0xfe, 0, 0, 0, 0, // DRHD
    1, 8, 0, 0, 0, 0, 2, 0, // endpoint, bus 0
];
// The unit for all else at 0xfed91000 (8 KiB of registers), with I/O APIC 2 at f0:1f.0 and HPET 0 at 00:1f.0.
const CATCH_ALL: [u8; 32] = [
    0, 0, 32, 0, 1, 1, 0, 0, 0x00, 0x10, 0xd9, 0xfe, 0, 0, 0, 0, // DRHD
    3, 8, 0, 0, 2, 0xf0, 0x1f, 0, // I/O APIC
    4, 8, 0, 0, 0, 0, 0x1f, 0, // HPET
];
// 0x3e2e0000 to 0x3e2fffff for 00:14.0.
const RESERVED: [u8; 32] = [
    1, 0, 32, 0, 0, 0, 0, 0, 0x00, 0x00, 0x2e, 0x3e, 0, 0, 0, 0, 0xff, 0xff, 0x2f, 0x3e, 0, 0, 0, 0, // RMRR
    1, 8, 0, 0, 0, 0, 0x14, 0,
];
// Root port 00:02.2 has ATS.
const ATS: [u8; 16] = [2, 0, 16, 0, 0, 0, 0, 0, 2, 8, 0, 0, 0, 0, 2, 2];
const NODE: [u8; 20] = [3, 0, 20, 0, 0, 0, 0, 0, 0x00, 0x00, 0xd9, 0xfe, 0, 0, 0, 0, 1, 0, 0, 0];
const NAMED: [u8; 20] = *b"\x04\0\x14\0\0\0\0\x01\\_SB.PCI0.I\0";
const CACHING: [u8; 16] = [5, 0, 16, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0, 5, 0];
const PROPERTIES: [u8; 16] = [6, 0, 16, 0, 0, 0, 0, 0, 1, 8, 3, 0, 0, 0, 6, 0];

fn good() -> Vec<u8> {
    table(&[&UNIT, &CATCH_ALL, &RESERVED, &ATS, &NODE, &NAMED, &CACHING, &PROPERTIES])
}

#[test]
fn whole() {
    let dmar = Dmar::parse(&good()).unwrap();
    assert_eq!(dmar.host_address_bits, 39);
    assert_eq!(dmar.flags, DmarFlags::INTERRUPT_REMAPPING);
    assert_eq!(dmar.units.len(), 2);
    assert_eq!((dmar.units[0].base, dmar.units[0].bytes), (HostPhys(0xfed9_0000), 0x1000));
    assert_eq!(dmar.units[0].scopes[0].path, [(2, 0)]);
    let second = &dmar.units[1];
    assert_eq!((second.base, second.bytes, second.include_all), (HostPhys(0xfed9_1000), 0x2000, true));
    assert_eq!(second.scopes[0].kind, ScopeKind::IO_APIC);
    assert_eq!((second.scopes[0].enumeration_id, second.scopes[0].start_bus), (2, 0xf0));
    assert_eq!(second.scopes[1].kind, ScopeKind::HPET);
    let region = &dmar.reserved[0];
    assert_eq!((region.base, region.last), (HostPhys(0x3e2e_0000), HostPhys(0x3e2f_ffff)));
    assert_eq!(dmar.ats_ports[0].scopes[0].path, [(2, 2)]);
    assert_eq!(dmar.nodes, [Rhsa { base: HostPhys(0xfed9_0000), proximity: 1 }]);
    assert_eq!(dmar.named, [Andd { number: 1, name: "\\_SB.PCI0.I".to_string() }]);
    assert!(dmar.caching[0].required);
    assert_eq!(dmar.properties[0].scopes[0].flags, 3);
    assert_eq!(dmar.warnings, []);
}

/// QEMU 10: one unit, no INCLUDE_PCI_ALL, scopes for the I/O APIC, endpoints and bridges of bus 0.
#[test]
fn qemu() {
    let unit = [
        0, 0, 48, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0, //
        3, 8, 0, 0, 0, 0xff, 0, 0, // I/O APIC ff:00.0
        1, 8, 0, 0, 0, 0, 5, 0, // edu
        2, 8, 0, 0, 0, 0, 2, 1, // root port
        2, 8, 0, 0, 0, 0, 2, 2, // root port
    ];
    let dmar = Dmar::parse(&table(&[&unit])).unwrap();
    let model = Model::q35();
    let found = enumerate(&model, &[Buses { segment: 0, first: 0, last: 255 }]);
    let covered = |name| dmar.unit_of(&model, found.get(bdf(name)).unwrap()).is_some();
    assert!(covered("00:05.0") && covered("03:00.0") && covered("02:00.0") && covered("00:02.2"));
    // Not named by anything, and nothing takes the rest.
    assert!(!covered("01:00.0") && !covered("00:1f.2"));
    let apic = &dmar.units[0].scopes[0];
    assert_eq!(resolve_scope(apic, 0, &model), Ok(bdf("ff:00.0")));
}

#[test]
fn units_and_reserved_memory_of_devices() {
    let model = Model::q35();
    let found = enumerate(&model, &[Buses { segment: 0, first: 0, last: 255 }]);
    let nvme = found.get(bdf("03:00.0")).unwrap();
    let dmar = Dmar::parse(&good()).unwrap();
    // 00:02.0 is named by the first unit; the disk falls to the one that takes the rest.
    assert_eq!(dmar.unit_of(&model, found.get(bdf("00:02.0")).unwrap()).unwrap().base, HostPhys(0xfed9_0000));
    assert_eq!(dmar.unit_of(&model, nvme).unwrap().base, HostPhys(0xfed9_1000));
    assert_eq!(dmar.reserved_for(&model, nvme).count(), 0);
    // Two hops: through root port 00:02.2 to 00.0 behind it.
    let mut region = RESERVED.to_vec();
    region.splice(24.., [1, 10, 0, 0, 0, 0, 2, 2, 0, 0]);
    region[2] = 34;
    let dmar = Dmar::parse(&table(&[&UNIT, &region])).unwrap();
    assert_eq!(dmar.reserved_for(&model, nvme).count(), 1);
    // The first unit takes nothing else.
    assert_eq!(dmar.unit_of(&model, nvme), None);
}

#[test]
fn paths() {
    let model = Model::q35();
    model.edit("00:02.1", |port| port.bridge(2, 2));
    model.add("02:01.0", {
        let mut bridge = Device::new(0x8086, 1, 0x06_0400);
        bridge.bridge(9, 9);
        bridge
    });
    let scope = |path: &[(u8, u8)]| DeviceScope {
        kind: ScopeKind::ENDPOINT,
        flags: 0,
        enumeration_id: 0,
        start_bus: 0,
        path: path.to_vec(),
    };
    assert_eq!(resolve_scope(&scope(&[(0x1f, 2)]), 0, &model), Ok(bdf("00:1f.2")));
    assert_eq!(resolve_scope(&scope(&[(2, 1), (0, 0)]), 0, &model), Ok(bdf("02:00.0")));
    // Every hop counts, not only the first.
    assert_eq!(resolve_scope(&scope(&[(2, 1), (1, 0), (4, 3)]), 0, &model), Ok(bdf("09:04.3")));
    let nowhere = resolve_scope(&scope(&[(5, 0), (0, 0)]), 0, &model);
    assert_eq!(nowhere, Err(ScopeError::NotABridge { hop: bdf("00:05.0") }));
    assert!(resolve_scope(&scope(&[(9, 0), (0, 0)]), 0, &model).is_err());
    assert!(resolve_scope(&scope(&[(2, 1), (0, 0)]), 1, &model).is_err());
    // A bridge that leads back up.
    model.edit("02:01.0", |bridge| bridge.bridge(1, 9));
    let up = resolve_scope(&scope(&[(2, 1), (1, 0), (0, 0)]), 0, &model);
    assert_eq!(up, Err(ScopeError::BusNumber { bridge: bdf("02:01.0"), secondary: 1 }));
    assert_eq!(model.read8(bdf("02:01.0"), 0x19), 1);
}

#[test]
fn hostile_structures() {
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut table = good();
        change(&mut table);
        seal(&mut table);
        Dmar::parse(&table)
    };
    let structure = |offset, bytes| DmarError::Structure { kind: 0, offset, bytes };
    // Zero, less than a header, less than the type needs, more than there is.
    assert_eq!(with(&|table| table[50] = 0), Err(structure(48, 0)));
    assert_eq!(with(&|table| table[50] = 3), Err(structure(48, 3)));
    assert_eq!(with(&|table| table[51] = 0xff), Err(structure(48, 0xff18)));
    let short = Dmar::parse(&table(&[&[0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0]]));
    assert_eq!(short, Err(structure(48, 12)));
    assert!(matches!(with(&|table| table.extend([0, 0, 4])), Err(DmarError::Structure { kind: 0, bytes: 0, .. })));
    // Scopes: zero, no path, odd, beyond the structure; a device that cannot be.
    for bytes in [0, 5, 6, 7, 9, 10, 255] {
        assert_eq!(with(&|table| table[65] = bytes), Err(DmarError::Scope { offset: 64, bytes }));
    }
    assert!(matches!(with(&|table| table[70] = 32), Err(DmarError::Scope { offset: 64, .. })));
    assert!(matches!(with(&|table| table[71] = 8), Err(DmarError::Scope { offset: 64, .. })));
    // A unit nowhere, off a page, at the end of the address space.
    for (at, value) in [(56, 0x01), (63, 0xff), (57, 0x08)] {
        assert!(matches!(with(&|table| table[at] = value), Err(DmarError::Address { offset: 48, .. })), "{at}");
    }
    let none = with(&|table| table[56..64].fill(0));
    assert_eq!(none, Err(DmarError::Address { offset: 48, address: 0 }));
    // Reserved memory that ends before it begins.
    let backwards = with(&|table| table[104 + 19] = 0);
    assert!(matches!(backwards, Err(DmarError::Address { offset: 104, .. })));
    assert!(backwards.unwrap_err().to_string().contains("DMAR table has an impossible address 0x2fffff"));
    // Nothing but advice.
    assert_eq!(Dmar::parse(&table(&[&ATS])), Err(DmarError::NoUnits));
    assert_eq!(Dmar::parse(&table(&[])), Err(DmarError::NoUnits));
}

#[test]
fn skipped_with_a_warning() {
    // An unknown type, advice too short, advice with a bad scope, a second unit for the rest.
    let unknown = [77, 0, 8, 0, 1, 2, 3, 4];
    let node = [3, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let ats = [2, 0, 15, 0, 0, 0, 0, 0, 2, 7, 0, 0, 0, 0, 2];
    let dmar = Dmar::parse(&table(&[&unknown, &CATCH_ALL, &node, &ats, &CATCH_ALL])).unwrap();
    let skipped = DmarError::Structure { kind: 3, offset: 88, bytes: 12 };
    let expected = vec![
        DmarWarning::Unknown { kind: 77, offset: 48 },
        DmarWarning::Skipped(skipped),
        DmarWarning::Skipped(DmarError::Scope { offset: 108, bytes: 7 }),
        DmarWarning::TwoCatchAll { segment: 0, offset: 115 },
    ];
    assert_eq!(dmar.warnings, expected);
    assert_eq!(dmar.units.len(), 2);
    assert!(!dmar.units[1].include_all);
}

#[test]
fn truncated_at_each_byte() {
    let good = good();
    for length in 0..good.len() {
        assert!(Dmar::parse(&good[..length]).is_err(), "{length}");
        // With a length and checksum that claim it was always so: whole structures or an error.
        if length >= 10 {
            let mut cut = good[..length].to_vec();
            seal(&mut cut);
            if let Ok(dmar) = Dmar::parse(&cut) {
                assert!([72, 104, 136, 152, 172, 192, 208].contains(&length), "{length}: {dmar:?}");
            }
        }
    }
    let mut longer = good.clone();
    longer.extend([0xff; 9]);
    assert_eq!(Dmar::parse(&longer), Dmar::parse(&good));
}

#[test]
fn each_bit_flipped() {
    let good = good();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Dmar::parse(&bad).is_err(), "bit {bit}: the checksum must notice");
        // And with the checksum made to fit: no panic; and unless it was a structure's
        // type or length, everything is there or somebody is told.
        seal(&mut bad);
        let in_header = [48, 72, 104, 136, 152, 172, 192, 208].iter().any(|at| (*at..at + 4).contains(&(bit / 8)));
        match Dmar::parse(&bad) {
            Ok(dmar) if !in_header => {
                let advice = dmar.ats_ports.len() + dmar.nodes.len() + dmar.named.len();
                let advice = advice + dmar.caching.len() + dmar.properties.len();
                let skipped = |warning: &&DmarWarning| matches!(warning, DmarWarning::Skipped(_));
                let skipped = dmar.warnings.iter().filter(skipped).count();
                assert_eq!((dmar.units.len(), dmar.reserved.len(), advice + skipped), (2, 1, 5), "bit {bit}");
            }
            _ => {}
        }
    }
}

proptest! {
    #[test]
    fn random_structures(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Dmar::parse(&body);
        let _ = Dmar::parse(&table(&[&body]));
        let _ = Dmar::parse(&table(&[&UNIT, &body]));
    }

    #[test]
    fn random_damage(damage in prop::collection::vec((48..224usize, any::<u8>()), 1..12)) {
        let mut bad = good();
        for (at, value) in damage {
            if let Some(byte) = bad.get_mut(at) {
                *byte = value;
            }
        }
        seal(&mut bad);
        let model = Model::q35();
        let found = enumerate(&model, &[Buses { segment: 0, first: 0, last: 255 }]);
        if let Ok(dmar) = Dmar::parse(&bad) {
            for function in &found.functions {
                let _ = (dmar.unit_of(&model, function), dmar.reserved_for(&model, function).count());
            }
        }
    }
}
