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

/// The base of the unit for a function: the narrowest range, as the IOMMU driver chooses.
fn unit_of(dmar: &Dmar, model: &Model, name: &str) -> Option<u64> {
    let device = bdf(name);
    let (ranges, _) = dmar.ranges(model);
    let holds = |range: &&UnitRange| {
        range.segment == device.segment() && (range.first..=range.last).contains(&device.requester_id())
    };
    let range = ranges.iter().filter(holds).min_by_key(|range| range.last - range.first)?;
    Some(dmar.units[range.unit].base.0)
}

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
    let covered = |name| unit_of(&dmar, &model, name).is_some();
    assert!(covered("00:05.0") && covered("03:00.0") && covered("02:00.0") && covered("00:02.2"));
    // Virtual functions on the port's bus too. Not named by anything, and nothing takes the rest:
    assert!(covered("02:10.0") && !covered("04:00.0"));
    assert!(!covered("01:00.0") && !covered("00:1f.2"));
    assert_eq!(dmar.interrupt_source(&model, ScopeKind::IO_APIC, 0), Some((0, bdf("ff:00.0"))));
    assert_eq!(dmar.interrupt_source(&model, ScopeKind::IO_APIC, 1), None);
    assert_eq!(dmar.interrupt_source(&model, ScopeKind::HPET, 0), None);
}

#[test]
fn units_and_reserved_memory_of_devices() {
    let model = Model::q35();
    let found = enumerate(&model, &[Buses { segment: 0, first: 0, last: 255 }]);
    let nvme = found.get(bdf("03:00.0")).unwrap();
    let dmar = Dmar::parse(&good()).unwrap();
    // 00:02.0 is named by the first unit; the disk falls to the one that takes the rest.
    assert_eq!(unit_of(&dmar, &model, "00:02.0"), Some(0xfed9_0000));
    assert_eq!(unit_of(&dmar, &model, "03:00.0"), Some(0xfed9_1000));
    assert_eq!(dmar.reserved_for(&model, nvme).count(), 0);
    // Two hops: through root port 00:02.2 to 00.0 behind it.
    let mut region = RESERVED.to_vec();
    region.splice(24.., [1, 10, 0, 0, 0, 0, 2, 2, 0, 0]);
    region[2] = 34;
    let dmar = Dmar::parse(&table(&[&UNIT, &region])).unwrap();
    assert_eq!(dmar.reserved_for(&model, nvme).count(), 1);
    // The first unit takes nothing else.
    assert_eq!(unit_of(&dmar, &model, "03:00.0"), None);
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
        offset: 0x40,
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
    assert_eq!(nowhere, Err(ScopeError::NotABridge { offset: 0x40, hop: bdf("00:05.0") }));
    assert!(resolve_scope(&scope(&[(9, 0), (0, 0)]), 0, &model).is_err());
    assert!(resolve_scope(&scope(&[(2, 1), (0, 0)]), 1, &model).is_err());
    // A bridge that leads back up.
    model.edit("02:01.0", |bridge| bridge.bridge(1, 9));
    let up = resolve_scope(&scope(&[(2, 1), (1, 0), (0, 0)]), 0, &model);
    assert_eq!(up, Err(ScopeError::BusNumber { offset: 0x40, bridge: bdf("02:01.0"), secondary: 1 }));
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
    // Reserved memory that ends before it begins, or off a page: its device is refused whatever memory there is.
    for (at, value) in [(104 + 19, 0), (104 + 16, 0xfe), (104 + 8, 1), (104 + 23, 0xff)] {
        let dmar = with(&|table| table[at] = value).unwrap();
        assert!(matches!(dmar.warnings[..], [DmarWarning::Reserved { offset: 104, .. }]), "{at}: {:?}", dmar.warnings);
        let error = dmar.reserved[0].check(core::iter::once(0x1000..0x2000), core::iter::empty()).unwrap_err();
        assert_eq!((error.offset, error.base, error.last), (104, 0, (1 << 52) - 1));
        assert_eq!(dmar.units.len(), 2);
    }
    let backwards = with(&|table| table[104 + 19] = 0).unwrap();
    assert!(backwards.warnings[0].to_string().contains("at an impossible address 0x2fffff at offset 0x68"));
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
    let mut second = CATCH_ALL;
    second[9] = 0x40;
    let dmar = Dmar::parse(&table(&[&unknown, &CATCH_ALL, &node, &ats, &second])).unwrap();
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

/// Two root complexes (the second begins on bus 0x80), a switch, a second segment, and a unit for the rest of each.
#[test]
fn units_of_a_server() {
    let model = Model::q35();
    let bridge = |secondary, subordinate| {
        let mut bridge = Device::new(0x8086, 1, 0x06_0400);
        bridge.bridge(secondary, subordinate);
        bridge
    };
    // 80:00.0 leads to a switch: 81:00.0, 82:00.0 and 82:01.0, disks on 83 and 84.
    model.add("80:00.0", bridge(0x81, 0x84));
    model.add("81:00.0", bridge(0x82, 0x84));
    model.add("82:00.0", bridge(0x83, 0x83));
    model.add("82:01.0", bridge(0x84, 0x84));
    model.add("83:00.0", Device::new(0x1b36, 0x0010, 0x01_0802));
    model.add("84:00.0", Device::new(0x1b36, 0x0010, 0x01_0802));
    model.add("0001:00:02.0", bridge(1, 1));
    let drhd = |flags: u8, segment: u8, page: u8, scopes: &[&[u8]]| {
        let scopes = scopes.concat();
        let mut unit =
            vec![0, 0, 16 + scopes.len() as u8, 0, flags, 0, segment, 0, 0, page << 4, 0xd9, 0xfe, 0, 0, 0, 0];
        unit.extend(scopes);
        unit
    };
    let units = [
        // The second root complex, as QEMU's pxb-pcie is described: the port on its root bus.
        drhd(0, 0, 0, &[&[2, 8, 0, 0, 0, 0x80, 0, 0]]),
        // One disk behind the switch has its own: four hops.
        drhd(0, 0, 1, &[&[1, 14, 0, 0, 0, 0x80, 0, 0, 0, 0, 1, 0, 0, 0]]),
        // A device that AML names, with the id of its path.
        drhd(0, 0, 2, &[&[5, 8, 0, 0, 1, 0, 0x1e, 2], &[1, 8, 0, 0, 0, 0, 5, 0]]),
        drhd(0, 1, 3, &[&[2, 8, 0, 0, 0, 0, 2, 0]]),
        drhd(1, 0, 4, &[&[3, 8, 0, 0, 2, 0xf0, 0x1f, 0], &[4, 8, 0, 0, 0, 0, 0x1f, 0]]),
    ];
    let mut structures: Vec<&[u8]> = units.iter().map(Vec::as_slice).collect();
    structures.push(&NAMED);
    let dmar = Dmar::parse(&table(&structures)).unwrap();
    assert_eq!((dmar.warnings.as_slice(), dmar.ranges(&model).1), (&[][..], vec![]));
    let at = |name| unit_of(&dmar, &model, name).map(|base| base - 0xfed9_0000);
    assert_eq!((at("80:00.0"), at("81:00.0"), at("83:00.0")), (Some(0), Some(0), Some(0)));
    assert_eq!(at("84:00.0"), Some(0x1000));
    // Its neighbours on the bus stay with the switch; so do functions that are not there yet.
    assert_eq!((at("84:00.1"), at("83:1f.7")), (Some(0), Some(0)));
    assert_eq!((at("00:1e.2"), at("00:05.0")), (Some(0x2000), Some(0x2000)));
    assert_eq!((at("0001:00:02.0"), at("0001:01:00.0")), (Some(0x3000), Some(0x3000)));
    // Nothing takes the rest of segment 1; the rest of segment 0 is everything else.
    assert_eq!((at("0001:02:00.0"), at("0002:00:00.0")), (None, None));
    assert_eq!(
        (at("00:02.0"), at("03:00.0"), at("80:01.0"), at("ff:1f.7")),
        (Some(0x4000), Some(0x4000), Some(0x4000), Some(0x4000))
    );
    assert_eq!(dmar.interrupt_source(&model, ScopeKind::IO_APIC, 2), Some((4, bdf("f0:1f.0"))));
    assert_eq!(dmar.interrupt_source(&model, ScopeKind::HPET, 0), Some((4, bdf("00:1f.0"))));
}

#[test]
fn scopes_that_lead_nowhere() {
    let model = Model::q35();
    let scopes = [
        [2, 10, 0, 0, 0, 0, 5, 0, 0, 0], // 0x40: through the edu device
        [2, 10, 0, 0, 0, 0, 2, 0, 0, 0], // 0x4a: an endpoint, as a hierarchy
        [9, 10, 0, 0, 0, 0, 2, 0, 0, 0], // 0x54: unknown
        [5, 10, 0, 0, 7, 0, 2, 0, 1, 0], // 0x5e: a name that nobody gives
        [3, 10, 0, 0, 9, 0, 5, 0, 0, 0], // 0x68: an I/O APIC behind no bridge
    ];
    let mut first = UNIT[..16].to_vec();
    first.extend(scopes.concat());
    first[2] = first.len() as u8;
    // A second unit with a device of the first.
    let mut second = vec![0, 0, 26, 0, 0, 0, 0, 0, 0x00, 0x20, 0xd9, 0xfe, 0, 0, 0, 0];
    second.extend(scopes[1]);
    let dmar = Dmar::parse(&table(&[&first, &second])).unwrap();
    assert_eq!(dmar.warnings, [DmarWarning::UnknownScope { kind: 9, offset: 0x54 }]);
    assert!(dmar.warnings[0].to_string().contains("scope of unknown type 9 at offset 0x54"));
    let (_, errors) = dmar.ranges(&model);
    let expected = vec![
        ScopeError::NotABridge { offset: 0x40, hop: bdf("00:05.0") },
        ScopeError::Nameless { offset: 0x5e, number: 7 },
        ScopeError::Taken { offset: 0x82, device: bdf("01:00.0") },
    ];
    assert_eq!(errors, expected);
    assert!(errors[0].to_string().contains("at offset 0x40 with a path through 0000:00:05.0"));
    assert_eq!(
        (unit_of(&dmar, &model, "01:00.0"), unit_of(&dmar, &model, "01:01.0")),
        (Some(0xfed9_0000), Some(0xfed9_0000))
    );
    assert_eq!(dmar.interrupt_source(&model, ScopeKind::IO_APIC, 9), None);
    // A bridge that claims its own bus, or none at all.
    let hierarchy = [0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0, 2, 8, 0, 0, 0, 0, 2, 1];
    let dmar = Dmar::parse(&table(&[&hierarchy])).unwrap();
    for (secondary, subordinate, wrong) in [(0, 5, true), (3, 2, true), (0, 0, false)] {
        model.edit("00:02.1", |port| port.bridge(secondary, subordinate));
        let (ranges, errors) = dmar.ranges(&model);
        let error = ScopeError::BusNumber { offset: 0x40, bridge: bdf("00:02.1"), secondary };
        assert_eq!((ranges.is_empty(), errors), (wrong, if wrong { vec![error] } else { vec![] }));
    }
}

#[test]
fn units_on_top_of_each_other() {
    // The same again: one unit, the devices of both.
    let mut again = UNIT;
    again[22] = 3;
    let dmar = Dmar::parse(&table(&[&UNIT, &again])).unwrap();
    assert_eq!(dmar.warnings, [DmarWarning::SameUnit { offset: 72, address: 0xfed9_0000 }]);
    assert_eq!((dmar.units.len(), dmar.units[0].scopes.len()), (1, 2));
    // In another segment it can't be.
    again[6] = 1;
    assert_eq!(Dmar::parse(&table(&[&UNIT, &again])), Err(DmarError::Address { offset: 72, address: 0xfed9_0000 }));
    // Registers that reach into the next unit's: 8 pages, of which the next begins at the second.
    let mut large = UNIT;
    large[5] = 3;
    let dmar = Dmar::parse(&table(&[&CATCH_ALL, &large])).unwrap();
    assert_eq!(dmar.warnings, [DmarWarning::Overlap { offset: 80, address: 0xfed9_1000 }]);
    assert_eq!((dmar.units[1].bytes, dmar.units[0].bytes), (0x1000, 0x2000));
}

#[test]
fn reserved_memory() {
    let model = Model::q35();
    model.add("00:14.0", Device::new(0x8086, 0xa36d, 0x0c_0330));
    let found = enumerate(&model, &[Buses { segment: 0, first: 0, last: 255 }]);
    // Three regions: two overlap, one is behind a port.
    let mut other = RESERVED;
    other[10] = 0x2f;
    other[18] = 0x3f;
    let mut behind = RESERVED;
    behind[11] = 0x50;
    behind[19] = 0x50;
    behind[24] = 2;
    behind[30..32].copy_from_slice(&[2, 2]);
    let dmar = Dmar::parse(&table(&[&UNIT, &RESERVED, &other, &behind])).unwrap();
    let (usb, nvme) = (found.get(bdf("00:14.0")).unwrap(), found.get(bdf("03:00.0")).unwrap());
    assert_eq!(dmar.reserved_for(&model, usb).count(), 2);
    assert_eq!(dmar.ranges(&model).1, []);
    let mut nowhere = behind;
    nowhere[25] = 10;
    nowhere[2] = 34;
    let nowhere = [&nowhere[..], &[0, 0]].concat();
    let dmar_nowhere = Dmar::parse(&table(&[&UNIT, &nowhere])).unwrap();
    assert_eq!(dmar_nowhere.ranges(&model).1, []);
    model.edit("00:02.2", |port| port.bytes[0x0e] = 0);
    assert_eq!(dmar_nowhere.ranges(&model).1, [ScopeError::NotABridge { offset: 96, hop: bdf("00:02.2") }]);
    model.edit("00:02.2", |port| port.bridge(3, 3));
    assert_eq!(dmar.reserved_ranges(&model, [usb].into_iter()), vec![0x3e2e_0000..0x3e40_0000; 1]);
    let both = dmar.reserved_ranges(&model, [usb, nvme].into_iter());
    assert_eq!(both, [0x3e2e_0000..0x3e40_0000, 0x502e_0000..0x5030_0000]);
    // A virtual function uses what its physical one does.
    let mut function = nvme.clone();
    (function.bdf, function.physical) = (bdf("03:00.1"), Some(nvme.bdf));
    assert_eq!(dmar.reserved_for(&model, &function).count(), 1);

    let region = &dmar.reserved[0];
    let none = || core::iter::empty();
    assert_eq!(region.check(none(), none()), Ok(()));
    assert_eq!(region.check([0..0x3e2e_0000, 0x3e30_0000..1 << 32].into_iter(), none()), Ok(()));
    for (start, end) in [(0x3e2f_f000, 0x3e30_0000), (0, 0x3e2e_0001), (0, 1 << 52), (0x3e2e_8000, 0x3e2e_9000)] {
        let error = region.check(core::iter::once(start..end), none()).unwrap_err();
        assert_eq!(error, ReservedError { offset: 72, base: 0x3e2e_0000, last: 0x3e2f_ffff, free: true });
        let ours = region.check(core::iter::once(start..end), core::iter::once(start..end)).unwrap_err();
        assert!(ours.to_string().contains("at offset 0x48, which is Baton's"), "{ours}");
    }
}

/// VT-d 8.5, 8.6, 8.8.
#[test]
fn translation_caches_and_nodes() {
    let model = Model::q35();
    let found = enumerate(&model, &[Buses { segment: 0, first: 0, last: 255 }]);
    let get = |name| found.get(bdf(name)).unwrap();
    let dmar = Dmar::parse(&good()).unwrap();
    // Root port 00:02.2 passes requests for translation, the others don't; the root complex's own need none.
    assert!(dmar.passes_ats(&model, get("03:00.0")) && !dmar.passes_ats(&model, get("02:00.0")));
    assert!(dmar.passes_ats(&model, get("00:1f.2")));
    assert!(dmar.requires_ats(&model, get("00:05.0")) && !dmar.requires_ats(&model, get("03:00.0")));
    assert_eq!((dmar.proximity(0), dmar.proximity(1), dmar.proximity(2)), (Some(1), None, None));
    let mut all = ATS;
    all[4] = 1;
    let dmar = Dmar::parse(&table(&[&UNIT, &all])).unwrap();
    assert!(dmar.passes_ats(&model, get("02:00.0")));
    // Another segment's.
    all[6] = 1;
    let dmar = Dmar::parse(&table(&[&UNIT, &all])).unwrap();
    assert!(!dmar.passes_ats(&model, get("02:00.0")));
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
                let same = |warning: &&DmarWarning| matches!(warning, DmarWarning::SameUnit { .. });
                let units = dmar.units.len() + dmar.warnings.iter().filter(same).count();
                assert_eq!((units, dmar.reserved.len(), advice + skipped), (2, 1, 5), "bit {bit}");
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
            let (ranges, _) = dmar.ranges(&model);
            prop_assert!(ranges.iter().all(|range| range.first <= range.last && range.unit < dmar.units.len()));
            for function in &found.functions {
                let _ = (dmar.passes_ats(&model, function), dmar.requires_ats(&model, function));
            }
            for range in dmar.reserved_ranges(&model, found.functions.iter()) {
                prop_assert!(range.start < range.end && range.end <= 1 << 52);
            }
            let _ = dmar.interrupt_source(&model, ScopeKind::IO_APIC, 2);
        }
    }
}
