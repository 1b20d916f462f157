//! Enumeration, capabilities and isolation on the model of a q35 machine.

use super::model::{Device, Model, Ticker, bdf};
use super::*;
use crate::addr::HostPhys;
use proptest::prelude::*;
use std::string::ToString;
use std::vec::Vec;

const ALL: [Buses; 1] = [Buses { segment: 0, first: 0, last: 255 }];

fn names(found: &Enumeration) -> Vec<std::string::String> {
    found.functions.iter().map(|function| function.bdf.to_string()).collect()
}

#[test]
fn q35() {
    let model = Model::q35();
    let found = enumerate(&model, &ALL);
    assert_eq!(found.oddities, []);
    assert_eq!(found.functions.len(), 11);
    let nvme = found.get(bdf("03:00.0")).unwrap();
    assert_eq!(nvme.path, [bdf("00:02.2")]);
    assert_eq!(nvme.ids.to_string(), "1b36:0010");
    assert_eq!((nvme.ids.subsystem_vendor, nvme.ids.subsystem), (0x1af4, 0x1100));
    assert_eq!(nvme.class, Class { base: 1, sub: 8, interface: 2, revision: 2 });
    let port = found.get(bdf("00:02.1")).unwrap();
    assert_eq!(port.header, HeaderKind::Bridge { secondary: 2, subordinate: 2 });
    assert!(port.multifunction && port.path.is_empty());
    assert!(found.get(bdf("00:1f.1")).is_none());
}

#[test]
fn switches_nest() {
    let model = Model::default();
    let mut root = Device::new(0x8086, 1, 0x06_0400);
    root.bridge(1, 9);
    model.add("00:01.0", root.clone());
    root.bridge(2, 9);
    model.add("01:00.0", root.clone());
    root.bridge(3, 5);
    model.add("02:00.0", root.clone());
    root.bridge(6, 9);
    model.add("02:01.0", root.clone());
    model.add("06:00.0", Device::new(0x8086, 3, 0x02_0000));
    model.add("80:00.0", Device::new(0x8086, 2, 0x06_0000));
    let found = enumerate(&model, &ALL);
    assert_eq!(found.oddities, []);
    assert_eq!(found.get(bdf("06:00.0")).unwrap().path, [bdf("00:01.0"), bdf("01:00.0"), bdf("02:01.0")]);
    // A second host bridge.
    assert_eq!(found.get(bdf("80:00.0")).unwrap().path, []);
}

/// PCIe 7.8.8: with ARI forwarding a device has 256 functions that name each other.
#[test]
fn functions_beyond_seven() {
    let model = Model::q35();
    let function = |next: u8| {
        let mut function = Device::new(0x8086, 0x10c9, 0x02_0000);
        function.extended(0x100, 0x0e, 0);
        function.set(0x105, 1, next.into());
        function
    };
    model.add("02:00.0", function(9));
    model.add("02:01.1", function(0xff));
    model.add("02:1f.7", function(9));
    // Not in the list, so not there.
    model.add("02:01.0", function(0));
    model.edit("00:02.1", |port| port.set(0x54 + 0x28, 2, 0x20));
    let on_bus_2 = |model: &Model| {
        let found = enumerate(model, &ALL);
        let all = found.functions.into_iter().filter(|function| function.bdf.bus() == 2);
        all.map(|function| (function.bdf.to_string(), function.multifunction)).collect::<Vec<_>>()
    };
    let named = ["0000:02:00.0", "0000:02:01.1", "0000:02:1f.7"];
    assert_eq!(on_bus_2(&model), named.map(|name| (name.to_string(), true)));
    // A device without ARI, or a port that does not forward it: the usual numbers.
    model.edit("00:02.1", |port| port.set(0x54 + 0x28, 2, 0));
    assert_eq!(on_bus_2(&model)[..2], ["0000:02:00.0", "0000:02:01.0"].map(|name| (name.to_string(), false)));
    model.edit("00:02.1", |port| port.set(0x54 + 0x28, 2, 0x20));
    model.edit("02:00.0", |nic| nic.extended(0x100, 1, 0));
    assert_eq!(on_bus_2(&model).len(), 2);
    // A function alone.
    model.add("02:00.0", function(0));
    assert_eq!(on_bus_2(&model), [("0000:02:00.0".to_string(), false)]);
}

#[test]
fn bad_bus_numbers_are_not_followed() {
    for (secondary, subordinate) in [(0, 5), (3, 2), (2, 2), (3, 3), (2, 255), (1, 3)] {
        let model = Model::q35();
        // The first port claims what the others have, itself, or an empty range.
        model.edit("00:02.1", |port| port.bridge(secondary, subordinate));
        let found = enumerate(&model, &ALL);
        let bad = found.oddities.iter().any(|oddity| matches!(oddity, Oddity::Misnumbered { .. }));
        assert!(bad != ((secondary, subordinate) == (2, 2)), "{secondary} {subordinate}: {:?}", found.oddities);
        let mut names = names(&found);
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "a function was found twice");
        // Nothing behind a port poses as if it were on a root bus.
        assert!(found.functions.iter().all(|function| function.bdf.bus() == 0 || !function.path.is_empty()));
    }
    let model = Model::q35();
    model.edit("00:02.2", |port| port.bridge(0, 0));
    let found = enumerate(&model, &[Buses { segment: 0, first: 0, last: 2 }]);
    assert_eq!(found.oddities, [Oddity::Unnumbered { bridge: bdf("00:02.2") }]);
}

#[test]
fn base_addresses() {
    let model = Model::q35();
    let endpoint = HeaderKind::Endpoint;
    model.edit("03:00.0", |nvme| nvme.set(4, 2, 0x407));
    let nvme = bars(&model, bdf("03:00.0"), endpoint).unwrap();
    let expected = Bar {
        index: 0,
        kind: BarKind::Memory64 { prefetchable: false },
        address: HostPhys(0x1_fe00_0000),
        bytes: 0x4000,
    };
    assert_eq!(nvme, [expected]);
    // Everything is back.
    model.edit("03:00.0", |nvme| {
        assert_eq!((nvme.get(4, 2), nvme.get(0x10, 4), nvme.get(0x14, 4)), (0x407, 0xfe00_0004, 1));
    });
    let nic = bars(&model, bdf("01:00.0"), endpoint).unwrap();
    assert_eq!(nic.len(), 2);
    assert_eq!((nic[0].index, nic[0].bytes, nic[0].address), (0, 0x2_0000, HostPhys(0xfe84_0000)));
    assert_eq!((nic[1].index, nic[1].kind, nic[1].bytes, nic[1].address), (2, BarKind::Io, 32, HostPhys(0xc000)));
    // Hostile ones.
    model.edit("00:05.0", |edu| edu.bar(0, 0, 0xff0f_0000));
    assert!(matches!(bars(&model, bdf("00:05.0"), endpoint), Err(BarError::Size { index: 0, .. })));
    model.edit("00:05.0", |edu| {
        edu.bar(0, 0, 0);
        edu.bar(5, 4, 0xffff_f000);
    });
    assert!(matches!(bars(&model, bdf("00:05.0"), endpoint), Err(BarError::Half { index: 5, .. })));
    model.edit("00:05.0", |edu| edu.bar(5, 6, 0));
    let error = bars(&model, bdf("00:05.0"), endpoint).unwrap_err();
    assert!(error.to_string().contains("0000:00:05.0") && error.to_string().contains("BAR 5"));
    assert_eq!(bars(&model, bdf("00:07.0"), endpoint), Err(BarError::Gone { bdf: bdf("00:07.0") }));
}

#[test]
fn interrupts() {
    let model = Model::q35();
    let nvme = bdf("03:00.0");
    let msix = Msix::find(&model, nvme).unwrap();
    assert_eq!(msix.vectors, 65);
    assert_eq!(msix.table, Location { bar: 0, offset: 0x2000, bytes: 1040 });
    assert_eq!(msix.pending, Location { bar: 0, offset: 0x3000, bytes: 16 });
    assert!(msix.fits(&bars(&model, nvme, HeaderKind::Endpoint).unwrap()));
    assert!(!msix.fits(&[]));
    msix.set_control(&model, true, true);
    model.edit("03:00.0", |nvme| assert_eq!(nvme.get(0x42, 2), 0xc040));
    assert!(msix.is_enabled(&model) && msix.is_masked(&model));
    // A BAR number that does not exist.
    model.edit("03:00.0", |nvme| nvme.set(0x44, 4, 0x2007));
    assert_eq!(Msix::find(&model, nvme), None);

    // 64 bits, maskable, 4 vectors: QEMU's usual layout.
    model.edit("01:00.0", |nic| {
        nic.capability(0xa0, 5, &[0x84, 0x01]);
        nic.writable(0xa2, 2, 0x71);
        nic.writable(0xa4, 4, 0xffff_fffc);
        nic.writable(0xa8, 4, u32::MAX);
        nic.writable(0xac, 2, 0xffff);
    });
    let msi = Msi::find(&model, bdf("01:00.0")).unwrap();
    assert_eq!((msi.vectors, msi.wide, msi.bytes(), msi.mask_offset()), (4, true, 0x18, Some(0xb0)));
    msi.set_message(&model, 0xfee0_1000, 0x4041);
    msi.set_enabled(&model, true);
    assert!(msi.is_enabled(&model));
    model.edit("01:00.0", |nic| {
        assert_eq!((nic.get(0xa4, 4), nic.get(0xa8, 4), nic.get(0xac, 2)), (0xfee0_1000, 0, 0x4041));
        assert_eq!(nic.get(0xa2, 2), 0x185);
    });
}

#[test]
fn capability_lists_are_bounded() {
    let model = Model::q35();
    let nvme = bdf("03:00.0");
    let ids = |name| capabilities(&model, bdf(name)).map(|found| found.id).collect::<Vec<_>>();
    assert_eq!(ids("03:00.0"), [0x11, 0x10]);
    assert_eq!(ids("00:00.0"), []);
    assert_eq!(ids("00:09.0"), []);
    // A loop, a pointer into the header, one past the end, unaligned ones.
    model.edit("03:00.0", |nvme| nvme.bytes[0x81] = 0x40);
    assert_eq!(capabilities(&model, nvme).count(), 48);
    assert_eq!(find(&model, nvme, 0x77, 2), None);
    model.edit("03:00.0", |nvme| nvme.bytes[0x81] = 0x3c);
    assert_eq!(ids("03:00.0").len(), 2);
    model.edit("03:00.0", |nvme| nvme.bytes[0x81] = 0xfe);
    assert_eq!(ids("03:00.0").len(), 3);
    // A capability that would leave its space is none.
    model.edit("03:00.0", |nvme| nvme.bytes[0xfc] = 5);
    assert_eq!(Msi::find(&model, nvme), None);

    let extended = |name| extended_capabilities(&model, bdf(name)).map(|found| found.id).collect::<Vec<_>>();
    assert_eq!(extended("02:00.0"), [1, 0x0e, 0x10]);
    assert_eq!(extended("00:00.0"), []);
    assert_eq!(extended("00:09.0"), []);
    model.edit("02:00.0", |igb| igb.extended(0x160, 0x10, 0x100));
    assert_eq!(extended("02:00.0").len(), 480);
    model.edit("02:00.0", |igb| igb.extended(0x160, 0x10, 0xffc));
    assert_eq!(extended("02:00.0").len(), 3);
}

#[test]
fn extended_ones() {
    let model = Model::q35();
    assert_eq!(Ari::find(&model, bdf("02:00.0")).map(|ari| ari.offset), Some(0x150));
    model.edit("02:00.0", |igb| {
        igb.extended(0x160, 0x0f, 0);
        igb.set(0x164, 2, 0x20);
        igb.writable(0x166, 2, 0x801f);
    });
    let ats = Ats::find(&model, bdf("02:00.0")).unwrap();
    assert_eq!((ats.queue_depth, ats.page_aligned, ats.global), (32, true, false));
    ats.enable(&model).unwrap();
    model.edit("02:00.0", |igb| assert_eq!(igb.get(0x166, 2), 0x8000));
    assert!(ats.is_enabled(&model));
    ats.disable(&model).unwrap();
    assert!(!ats.is_enabled(&model));
    model.edit("02:00.0", |igb| igb.writable(0x166, 2, 0x1f));
    let stuck = TranslationError::Stuck { device: bdf("02:00.0"), what: "ATS" };
    assert_eq!(ats.enable(&model), Err(stuck));
}

/// PCIe 10.5.2, 7.8.9.
#[test]
fn page_requests_and_processes() {
    let (model, clock) = (Model::q35(), Ticker::default());
    let igb = bdf("02:00.0");
    assert_eq!((Pri::find(&model, igb), Pasid::find(&model, igb)), (None, None));
    model.edit("02:00.0", |igb| {
        igb.extended(0x160, 0x0f, 0x170);
        igb.writable(0x166, 2, 0x801f);
        igb.extended(0x170, 0x13, 0x180);
        igb.set(0x174, 2, 1);
        igb.writable(0x174, 2, 3);
        igb.set(0x176, 2, 0x100);
        igb.extended(0x180, 0x1b, 0);
        igb.set(0x184, 2, 0x1406);
        igb.writable(0x186, 2, 7);
    });
    // As firmware or a guest left it: on.
    let pri = Pri::find(&model, igb).unwrap();
    assert!(pri.is_enabled(&model));
    pri.stop(&model, &clock).unwrap();
    model.edit("02:00.0", |igb| assert_eq!(igb.get(0x174, 2), 2));
    // Requests that nobody answered, and a switch that does not move.
    model.edit("02:00.0", |igb| igb.set(0x176, 2, 0));
    assert_eq!(pri.stop(&model, &clock), Err(TranslationError::Pending { device: igb }));
    model.edit("02:00.0", |igb| {
        igb.set(0x174, 2, 1);
        igb.writable(0x174, 2, 0);
    });
    assert!(matches!(pri.stop(&model, &clock), Err(TranslationError::Stuck { .. })));

    let pasid = Pasid::find(&model, igb).unwrap();
    assert_eq!(pasid.bits, 20);
    let ats = Ats::find(&model, igb).unwrap();
    ats.enable(&model).unwrap();
    assert_eq!(pasid.set_enabled(&model, true), Err(TranslationError::Order { device: igb }));
    ats.disable(&model).unwrap();
    pasid.set_enabled(&model, true).unwrap();
    model.edit("02:00.0", |igb| assert_eq!(igb.get(0x186, 2), 1));
    ats.enable(&model).unwrap();
    assert_eq!(pasid.set_enabled(&model, true), Ok(()));
    assert_eq!(pasid.set_enabled(&model, false), Err(TranslationError::Order { device: igb }));
    // More bits than there can be.
    model.edit("02:00.0", |igb| igb.set(0x184, 2, 0x1506));
    assert_eq!(Pasid::find(&model, igb), None);
}

proptest! {
    /// Whatever configuration space holds, walks end and nothing panics.
    #[test]
    fn garbage(seed in prop::collection::vec(any::<u8>(), 64), noise in prop::collection::vec((0..11usize, 0..4096usize, any::<u8>()), 0..200)) {
        let model = Model::q35();
        for (index, device) in model.0.borrow_mut().values_mut().enumerate() {
            // The model's own checks are for sane devices.
            device.noisy = true;
            device.flr = None;
            device.virtual_function = None;
            for &(target, offset, value) in &noise {
                // Half of the noise goes to the headers and capabilities.
                let offset = if value & 1 == 0 { offset % 256 } else { offset };
                if target == index && offset >= 4 {
                    device.bytes[offset] = value ^ seed[offset % 64];
                    device.writable[offset] = value;
                }
            }
        }
        let clock = Ticker::default();
        let found = enumerate(&model, &ALL);
        let _ = enable_acs(&model, &found);
        let groups = Groups::compute(&model, &found);
        for function in &found.functions {
            prop_assert_eq!(groups.requester_ids(function.bdf).first(), Some(&function.bdf.requester_id()));
            let group = groups.of(function.bdf).unwrap();
            prop_assert!(group.members.contains(&function.bdf) != group.bridges.contains(&function.bdf));
            let _ = groups.check(function.bdf, |_| false);
            let _ = bars(&model, function.bdf, function.header);
            let _ = (Msi::find(&model, function.bdf), Msix::find(&model, function.bdf));
            let _ = (Ari::find(&model, function.bdf), Ats::find(&model, function.bdf));
            let _ = Pasid::find(&model, function.bdf).map(|pasid| pasid.set_enabled(&model, true));
            let _ = Pri::find(&model, function.bdf).map(|pri| pri.stop(&model, &clock));
            if let HeaderKind::Bridge { .. } = function.header {
                let windows = Windows::read(&model, function.bdf);
                prop_assert!(windows.memory.start <= windows.memory.end && windows.memory.end <= 1 << 32);
                prop_assert!(windows.prefetchable.start <= windows.prefetchable.end);
            }
            if let Some(sriov) = Sriov::find(&model, function.bdf) {
                prop_assert!((0..=sriov.count).all(|index| sriov.function(index).is_none_or(|vf| vf != function.bdf)));
                let _ = sriov.functions(&model, function);
                let _ = sriov.enable(&model, &clock, &found, 2, |bar, _| Some(bar.bytes.max(0x1000)));
            }
            if let Ok(reset) = Reset::choose(&model, &found, function.bdf, |_| true) {
                let _ = reset.perform(&model, &clock);
            }
        }
    }
}
