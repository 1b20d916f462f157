//! The igb of QEMU, and cards that lie.

use super::*;
use crate::addr::HostPhys;
use crate::pci::model::{Model, Ticker, bdf};
use crate::pci::{Bar, BarKind, Buses, Enumeration, HeaderKind, Ids, enumerate};
use std::string::ToString;
use std::vec;

/// With ARI forwarding in the port, as QEMU's root ports have it.
fn machine() -> Model {
    let model = Model::q35();
    model.edit("00:02.1", |port| {
        port.set(0x54 + 0x24, 4, 0x20);
        port.writable(0x54 + 0x28, 2, 0x20);
        port.set(0x20, 4, 0xfe60_fe60);
        // 64 bits: 0x8_0000_0000 to 0x8_000f_ffff.
        port.set(0x24, 4, 0x0001_0001);
        port.set(0x28, 4, 8);
        port.set(0x2c, 4, 8);
    });
    model
}

fn found(model: &Model) -> Enumeration {
    enumerate(model, &[Buses { segment: 0, first: 0, last: 255 }])
}

fn enable(model: &Model, count: u16) -> Result<std::vec::Vec<VirtualFunction>, SriovError> {
    let physical = bdf("02:00.0");
    let mut room = Room::new(Windows::read(model, bdf("00:02.1")), vec![]);
    let sriov = Sriov::find(model, physical).unwrap();
    sriov.enable(model, &Ticker::default(), &found(model), count, |bar, bytes| room.take(bar, bytes))
}

#[test]
fn two_of_eight() {
    let model = machine();
    let made = enable(&model, 2).unwrap();
    let names: std::vec::Vec<_> = made.iter().map(|made| made.function.bdf).collect();
    assert_eq!(names, [bdf("02:10.0"), bdf("02:10.2")]);
    let function = &made[1].function;
    assert_eq!(function.ids, Ids { vendor: 0x8086, device: 0x10ca, subsystem_vendor: 0, subsystem: 0x1234 });
    assert_eq!((function.path.as_slice(), function.physical), (&[bdf("00:02.1")][..], Some(bdf("02:00.0"))));
    assert_eq!(function.header, HeaderKind::Endpoint);
    // 16 KiB each, one behind the other.
    let kind = BarKind::Memory64 { prefetchable: true };
    assert_eq!(made[0].bars, [Bar { index: 0, kind, address: HostPhys(0x8_0000_0000), bytes: 0x4000 }]);
    assert_eq!(made[1].bars, [Bar { index: 0, kind, address: HostPhys(0x8_0000_4000), bytes: 0x4000 }]);
    // VF enable, memory, ARI; page size 4 KiB; two.
    model.edit("02:00.0", |igb| assert_eq!((igb.get(0x168, 2), igb.get(0x170, 2), igb.get(0x180, 4)), (0x19, 2, 1)));
    model.edit("00:02.1", |port| assert_eq!(port.get(0x54 + 0x28, 2), 0x20));
    // An enumeration does not see them; the capability does, without a write.
    let again = found(&model);
    assert!(again.get(names[0]).is_none());
    let sriov = Sriov::find(&model, bdf("02:00.0")).unwrap();
    let listed = sriov.functions(&model, again.get(bdf("02:00.0")).unwrap());
    assert_eq!(listed, made.iter().map(|made| made.function.clone()).collect::<std::vec::Vec<_>>());
    assert_eq!(enable(&model, 1), Err(SriovError::Enabled { device: bdf("02:00.0") }));
    sriov.disable(&model, &Ticker::default());
    assert!(!model.0.borrow().contains_key(&names[0]));
    model.edit("02:00.0", |igb| assert_eq!((igb.get(0x168, 2), igb.get(0x170, 2)), (0x10, 0)));
}

#[test]
fn numbers_that_cannot_be() {
    let device = bdf("02:00.0");
    let model = machine();
    for count in [0, 9, 0xffff] {
        assert_eq!(enable(&model, count), Err(SriovError::Count { device, most: 8 }));
    }
    // The 82576 without ARI: offset 0x180, on the next bus, which is another port's.
    model.edit("02:00.0", |igb| igb.set(0x174, 2, 0x180));
    let error = enable(&model, 2).unwrap_err();
    assert_eq!(error, SriovError::Names { device, index: 0 });
    assert!(error.to_string().contains("would need a bus number that is another's"));
    model.edit("02:00.0", |igb| assert_eq!((igb.get(0x168, 2) & 1, igb.get(0x170, 2)), (0, 0)));
    // If the port has that bus, it is theirs.
    model.edit("00:02.1", |port| port.bridge(2, 9));
    model.edit("00:02.2", |port| port.bridge(10, 10));
    assert_eq!(enable(&model, 2).unwrap()[0].function.bdf, bdf("03:10.0"));
    // No offset, no stride, beyond the last bus, on top of another function, round about to itself.
    for (first, stride, index) in [(0, 2, 0), (1, 0, 1), (0xfd00, 1, 0), (1, 0xffff, 1), (0xffff, 1, 0)] {
        let model = machine();
        model.edit("02:00.0", |igb| {
            igb.set(0x174, 2, first);
            igb.set(0x176, 2, stride);
        });
        assert_eq!(enable(&model, 2), Err(SriovError::Names { device, index }), "{first:#x} {stride:#x}");
    }
    let model = machine();
    model.edit("02:00.0", |igb| {
        igb.bytes[0x0e] |= 0x80;
        igb.set(0x174, 2, 1);
    });
    model.add("02:00.1", crate::pci::model::Device::new(0x8086, 0x10c9, 0x02_0000));
    assert_eq!(enable(&model, 2), Err(SriovError::Names { device, index: 0 }));
}

#[test]
fn a_port_without_ari() {
    let model = machine();
    model.edit("00:02.1", |port| port.set(0x54 + 0x24, 4, 0));
    let error = SriovError::Ari { device: bdf("02:00.0"), port: bdf("00:02.1") };
    assert_eq!(enable(&model, 2), Err(error));
    // Functions 1 to 7 of the same device need none: QEMU's nvme.
    model.edit("02:00.0", |nvme| {
        nvme.set(0x174, 2, 1);
        nvme.set(0x176, 2, 1);
    });
    let made = enable(&model, 7).unwrap();
    assert_eq!(made[6].function.bdf, bdf("02:00.7"));
    model.edit("02:00.0", |nvme| assert_eq!(nvme.get(0x168, 2), 0x09));
    Sriov::find(&model, bdf("02:00.0")).unwrap().disable(&model, &Ticker::default());
    assert!(matches!(enable(&model, 8), Err(SriovError::Ari { .. })));
}

#[test]
fn hardware_that_lies() {
    let device = bdf("02:00.0");
    // A BAR that takes no address, one without a size, no room.
    let model = machine();
    model.edit("02:00.0", |igb| igb.writable(0x188, 4, 0));
    assert!(matches!(enable(&model, 2), Err(SriovError::Bar(_))));
    let model = machine();
    model.edit("00:02.1", |port| port.set(0x20, 2, 0xfff0));
    model.edit("00:02.1", |port| port.set(0x24, 4, 0x0000_fff1));
    assert_eq!(enable(&model, 2), Err(SriovError::Memory { device, bar: 0, bytes: 0x8000 }));
    // An address that is not aligned, or leaves what the BAR can hold.
    let model = machine();
    let sriov = Sriov::find(&model, device).unwrap();
    for address in [0x1000, 0, (1 << 52) - 0x4000, u64::MAX] {
        let error = sriov.enable(&model, &Ticker::default(), &found(&model), 2, |_, _| Some(address));
        assert_eq!(error, Err(SriovError::Memory { device, bar: 0, bytes: 0x8000 }), "{address:#x}");
    }
    // None appears.
    let model = machine();
    model.edit("02:00.0", |igb| igb.virtual_function = None);
    assert_eq!(enable(&model, 2), Err(SriovError::Lost { device: bdf("02:10.0") }));
    model.edit("02:00.0", |igb| assert_eq!(igb.get(0x168, 2) & 9, 0, "taken back"));
    // No 4 KiB pages, none at all.
    model.edit("02:00.0", |igb| igb.set(0x17c, 4, 0x552));
    assert_eq!(enable(&model, 2), Err(SriovError::Unsupported { device }));
    assert_eq!(Sriov::find(&model, bdf("03:00.0")), None);
}

#[test]
fn names_while_enabled() {
    let model = machine();
    model.edit("02:00.0", |igb| {
        igb.set(0x168, 2, 1);
        igb.set(0x170, 2, 3);
    });
    let sriov = Sriov::find(&model, bdf("02:00.0")).unwrap();
    assert_eq!((sriov.total, sriov.count, sriov.device), (8, 3, 0x10ca));
    assert_eq!((sriov.function(0), sriov.function(2)), (Some(bdf("02:10.0")), Some(bdf("02:10.4"))));
    assert_eq!(sriov.function(3), None);
    assert_eq!(Sriov { first: 0xffff, ..sriov }.function(1), None);
    assert_eq!(Sriov { enabled: false, ..sriov }.function(0), None);
}

/// PCIe 7.5.1.3.8 and 9: 1 MiB granules, upper halves only if the low bits say so.
#[test]
fn windows() {
    let model = machine();
    let port = bdf("00:02.1");
    let windows = Windows::read(&model, port);
    assert_eq!(windows.memory, 0xfe60_0000..0xfe70_0000);
    assert_eq!(windows.prefetchable, 0x8_0000_0000..0x8_0010_0000);
    model.edit("00:02.1", |port| port.set(0x24, 4, 0xfff0_e000));
    assert_eq!(Windows::read(&model, port).prefetchable, 0xe000_0000..0x1_0000_0000);
    // Base above limit: closed.
    model.edit("00:02.1", |port| port.set(0x20, 4, 0x0000_fff0));
    assert!(Windows::read(&model, port).memory.is_empty());
    model.edit("00:02.1", |port| {
        port.set(0x24, 4, 0xfff1_0001);
        port.set(0x2c, 4, u32::MAX);
        port.set(0x28, 4, u32::MAX);
    });
    assert!(Windows::read(&model, port).prefetchable.is_empty());
}

#[test]
fn room() {
    let bar = |address, bytes, kind| Bar { index: 0, kind, address: HostPhys(address), bytes };
    let (wide, narrow) = (BarKind::Memory64 { prefetchable: true }, BarKind::Memory32 { prefetchable: false });
    let windows = Windows { memory: 0xfe60_0000..0xfe70_0000, prefetchable: 0x8_0000_0000..0x8_0000_8000 };
    let mut room = Room::new(windows, vec![0xfe60_0000..0xfe61_0000, 0xfe61_0000..0xfe62_0000]);
    // Where firmware put it, if that is free.
    assert_eq!(room.take(&bar(0xfe64_0000, 0x4000, narrow), 0x8000), Some(0xfe64_0000));
    assert_eq!(room.take(&bar(0xfe60_0000, 0x4000, narrow), 0x8000), Some(0xfe62_0000));
    assert_eq!(room.take(&bar(0, 0x2_0000, narrow), 0x4_0000), Some(0xfe66_0000));
    // Whole pages, even for small ones: a guest gets pages.
    assert_eq!(room.take(&bar(0, 0x10, narrow), 0x20), Some(0xfe62_8000));
    assert_eq!(room.take(&bar(0, 0x10, narrow), 0x20), Some(0xfe62_9000));
    // The prefetchable window first, then the other.
    assert_eq!(room.take(&bar(0, 0x4000, wide), 0x8000), Some(0x8_0000_0000));
    assert_eq!(room.take(&bar(0, 0x4000, wide), 0x8000), Some(0xfe62_c000));
    assert_eq!(room.take(&bar(0, 0x4000, BarKind::Io), 0x8000), None);
    assert_eq!(room.take(&bar(0, 0x10_0000, narrow), 0x10_0000), None);
    assert_eq!(room.take(&bar(0, 1 << 63, wide), u64::MAX), None);
}
