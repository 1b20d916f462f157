//! Machines as they are built, and who is joined with whom in them.

use super::*;
use crate::pci::model::{Device, Model, bdf};
use crate::pci::{Buses, Enumeration, enumerate};
use std::string::{String, ToString};
use std::vec;

fn found(model: &Model) -> Enumeration {
    let found = enumerate(model, &[Buses { segment: 0, first: 0, last: 255 }]);
    assert_eq!(found.oddities, []);
    found
}

/// Groups as they are after power-on.
fn groups(model: &Model) -> Groups {
    let found = found(model);
    let _ = enable_acs(model, &found);
    Groups::compute(model, &found)
}

fn with(groups: &Groups, name: &str) -> Vec<String> {
    groups.of(bdf(name)).unwrap().members.iter().map(ToString::to_string).collect()
}

fn endpoint() -> Device {
    let mut device = Device::new(0x1b36, 0x0010, 0x01_0802);
    device.express(0x80, 0, true);
    device
}

fn bridge(secondary: u8, subordinate: u8) -> Device {
    let mut port = Device::new(0x104c, 0x8232, 0x06_0400);
    port.bridge(secondary, subordinate);
    port
}

/// A root port with ACS at 00:02.0 with everything behind it on buses 1 to 9.
fn root(model: &Model) {
    let mut port = bridge(1, 9);
    port.express(0x54, 4, false);
    port.extended(0x100, 1, 0x148);
    port.acs(0x148, 0x5f);
    model.add("00:02.0", port);
}

/// A switch of two downstream ports (02:00.0 and 02:01.0) with a disk behind each.
fn switch(downstream: impl Fn(&mut Device)) -> Model {
    let model = Model::default();
    root(&model);
    let mut up = bridge(2, 9);
    up.express(0x40, 5, false);
    model.add("01:00.0", up);
    for (slot, bus) in [("02:00.0", 3), ("02:01.0", 4)] {
        let mut down = bridge(bus, bus);
        down.express(0x40, 6, false);
        downstream(&mut down);
        model.add(slot, down);
    }
    model.add("03:00.0", endpoint());
    model.add("04:00.0", endpoint());
    model
}

#[test]
fn root_ports_keep_apart() {
    let model = Model::q35();
    // As firmware left it: the ports have ACS, and it is off.
    let before = Groups::compute(&model, &found(&model));
    assert_eq!(before.of(bdf("03:00.0")).unwrap().unvalidated, Some(bdf("00:02.0")));
    assert!(with(&before, "03:00.0").contains(&"0000:02:00.0".into()), "root ports in one device and no ACS");
    let error = before.check(bdf("03:00.0"), |_| true).unwrap_err();
    assert!(error.to_string().contains("root port 0000:00:02.0"), "{error}");

    assert_eq!(enable_acs(&model, &found(&model)), []);
    model.edit("00:02.2", |port| assert_eq!(port.get(0x14e, 2), 0x1d));
    let groups = Groups::compute(&model, &found(&model));
    let nvme = groups.of(bdf("03:00.0")).unwrap();
    assert_eq!(
        (nvme.id, nvme.members.as_slice(), nvme.why.as_slice()),
        (bdf("03:00.0"), &[bdf("03:00.0")][..], &[][..])
    );
    assert_eq!(groups.check(bdf("03:00.0"), |_| false), Ok(()));
    assert_eq!(groups.requester_ids(bdf("03:00.0")), [0x300]);
    assert_eq!(groups.bridged_interrupts(bdf("03:00.0")), None);
    assert_eq!(groups.check(bdf("00:02.2"), |_| true), Err(GroupError::Bridge { device: bdf("00:02.2") }));
    assert_eq!(groups.check(bdf("00:09.0"), |_| true), Err(GroupError::Absent { device: bdf("00:09.0") }));
    // The direct way for translated requests is closed, what firmware had on otherwise stays.
    model.edit("00:02.2", |port| port.set(0x14e, 2, 0x42));
    let _ = enable_acs(&model, &found(&model));
    model.edit("00:02.2", |port| assert_eq!(port.get(0x14e, 2), 0x1f));
}

#[test]
fn controls_that_do_not_stay() {
    let model = Model::q35();
    model.edit("00:02.1", |port| port.writable(0x14e, 2, 0x01));
    assert_eq!(enable_acs(&model, &found(&model)), [bdf("00:02.1")]);
    // Redirects that the port says it has, and that are off: joined with the port and the other ports of its device.
    let joined = Groups::compute(&model, &found(&model));
    assert_eq!(with(&joined, "02:00.0"), ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"]);
    let lacks = Acs::REQUEST_REDIRECT | Acs::COMPLETION_REDIRECT | Acs::UPSTREAM_FORWARDING;
    assert!(joined.of(bdf("02:00.0")).unwrap().why.contains(&Why::NoAcs { port: bdf("00:02.1"), lacks }));
    // A port that has none of the redirects has no way between peers.
    let model = Model::q35();
    model.edit("00:02.1", |port| port.acs(0x148, 0x01));
    assert_eq!(with(&groups(&model), "02:00.0"), ["0000:02:00.0"]);
}

#[test]
fn functions_of_the_chipset() {
    let model = Model::q35();
    let groups = groups(&model);
    assert_eq!(groups.check(bdf("00:05.0"), |_| false), Ok(()));
    let error = groups.check(bdf("00:1f.2"), |_| false).unwrap_err();
    let text = "device 0000:00:1f.2 can't be told apart from 0000:00:1f.0, 0000:00:1f.3: 0000:00:1f.0 can reach the other \
                functions of its device (no ACS), ";
    assert!(error.to_string().starts_with(text), "{error}");
    assert!(error.to_string().ends_with("give all of them to this guest, or choose a device in a slot of its own"));
    // Eight functions, eight reasons; three are enough.
    for function in [1, 4, 5] {
        let mut more = Device::new(0x8086, 0x2930, 0x0c_0500);
        more.bytes[0x0e] |= 0x80;
        model.0.borrow_mut().insert(bdf("00:1f.0").sibling(function), more);
    }
    let long = self::groups(&model).check(bdf("00:1f.2"), |_| false).unwrap_err().to_string();
    assert!(long.contains("0000:00:1f.5: ") && long.contains(" and more; give all"), "{long}");
    assert_eq!(long.matches("can reach the other").count(), 3);
    let model = Model::q35();
    let both = [bdf("00:1f.0"), bdf("00:1f.3")];
    assert_eq!(groups.check(bdf("00:1f.2"), |other| both.contains(&other)), Ok(()));
    assert_eq!(groups.of(bdf("00:1f.2")).unwrap().id, bdf("00:1f.0"));
    // One function without ACS reaches the others, whatever they have.
    model.edit("00:1f.2", |sata| sata.acs(0x100, 0x1c));
    model.edit("00:1f.3", |bus| bus.acs(0x100, 0));
    assert_eq!(with(&self::groups(&model), "00:1f.2").len(), 3);
    // Now all have it; what they lack of it is not needed.
    model.edit("00:1f.0", |isa| isa.acs(0x100, 0));
    assert_eq!(with(&self::groups(&model), "00:1f.2"), ["0000:00:1f.2"]);
}

#[test]
fn functions_on_a_link() {
    let model = Model::q35();
    model.edit("03:00.0", |nvme| nvme.bytes[0x0e] |= 0x80);
    model.add("03:00.1", endpoint());
    // With ARI a device has up to 256 functions, which look like other devices.
    model.add("03:05.0", endpoint());
    let groups = groups(&model);
    assert_eq!(with(&groups, "03:05.0"), ["0000:03:00.0", "0000:03:00.1", "0000:03:05.0"]);
    // But not on a root bus.
    assert_eq!(with(&groups, "00:05.0"), ["0000:00:05.0"]);
}

#[test]
fn switches() {
    // Each downstream port with all that is needed.
    let model = switch(|port| port.acs(0x100, 0x1d));
    let all = groups(&model);
    assert_eq!(
        (with(&all, "03:00.0"), with(&all, "04:00.0")),
        (vec!["0000:03:00.0".into()], vec!["0000:04:00.0".into()])
    );
    model.edit("02:01.0", |port| assert_eq!(port.get(0x106, 2), 0x1d));
    // One lacks upstream forwarding: its device reaches the neighbour's.
    model.edit("02:01.0", |port| {
        port.acs(0x100, 0x0d);
        port.set(0x106, 2, 0);
    });
    let one = groups(&model);
    assert_eq!(with(&one, "03:00.0"), ["0000:03:00.0", "0000:04:00.0"]);
    let group = one.of(bdf("03:00.0")).unwrap();
    assert_eq!(group.why, [Why::NoAcs { port: bdf("02:01.0"), lacks: Acs::UPSTREAM_FORWARDING }]);
    assert_eq!(group.bridges, [bdf("01:00.0"), bdf("02:00.0"), bdf("02:01.0")]);
    // The root port above checks names, so both can be given away together.
    assert_eq!(group.unvalidated, None);
    let missing = vec![bdf("04:00.0")];
    let error = GroupError::Partial { device: bdf("03:00.0"), missing, why: group.why.clone() };
    assert_eq!(one.check(bdf("03:00.0"), |_| false), Err(error));
    assert_eq!(one.check(bdf("03:00.0"), |other| other == bdf("04:00.0")), Ok(()));
    // A switch with no ACS at all (QEMU's) and one device behind it.
    let model = switch(|_| ());
    model.0.borrow_mut().remove(&bdf("04:00.0"));
    let single = groups(&model);
    assert_eq!(single.check(bdf("03:00.0"), |_| false), Ok(()));
    assert_eq!(single.of(bdf("03:00.0")).unwrap().id, bdf("01:00.0"));
    // An upstream port that shares its device with an endpoint, a DMA engine say.
    let model = switch(|port| port.acs(0x100, 0x1d));
    model.edit("01:00.0", |up| up.bytes[0x0e] |= 0x80);
    model.add("01:00.1", endpoint());
    let shared = groups(&model);
    assert_eq!(with(&shared, "03:00.0"), ["0000:01:00.1", "0000:03:00.0", "0000:04:00.0"]);
}

/// PCIe to PCI/PCI-X Bridge 2.3: device 0, function 0 of the secondary bus.
#[test]
fn conventional_buses() {
    let model = Model::default();
    root(&model);
    let mut to_pci = bridge(2, 3);
    to_pci.express(0x40, 7, false);
    model.add("01:00.0", to_pci);
    model.add("02:03.0", Device::new(0x10ec, 0x8139, 0x02_0000));
    model.add("02:04.0", Device::new(0x10ec, 0x8139, 0x02_0000));
    model.add("02:05.0", bridge(3, 3));
    model.add("03:01.0", Device::new(0x10ec, 0x8139, 0x02_0000));
    let all = groups(&model);
    assert_eq!(with(&all, "03:01.0"), ["0000:02:03.0", "0000:02:04.0", "0000:03:01.0"]);
    assert_eq!(all.requester_ids(bdf("02:03.0")), [0x218, 0x200, 0x100]);
    assert_eq!(all.requester_ids(bdf("03:01.0")), [0x308, 0x228, 0x200, 0x100]);
    assert_eq!(all.bridged_interrupts(bdf("03:01.0")), Some((0x200, 0x3ff)));
    assert!(all.of(bdf("02:03.0")).unwrap().why.contains(&Why::Conventional { bridge: bdf("01:00.0") }));
    // Each id once, to the first who has it.
    let three = ["02:03.0", "02:04.0", "03:01.0"].map(bdf);
    let sources = all.sources(&three);
    assert_eq!(sources, [(three[0], vec![0x200, 0x100]), (three[1], vec![]), (three[2], vec![0x228])]);
    // A device that really is at that place keeps its id.
    model.add("02:00.0", Device::new(0x10ec, 0x8139, 0x02_0000));
    let sources = groups(&model).sources(&[bdf("02:03.0"), bdf("02:00.0")]);
    assert_eq!(sources, [(bdf("02:03.0"), vec![0x100]), (bdf("02:00.0"), vec![])]);
    // A bridge on a PCI bus of the root complex: as itself.
    let model = Model::default();
    model.add("00:1e.0", bridge(5, 5));
    model.add("05:01.0", Device::new(0x10ec, 0x8139, 0x02_0000));
    let legacy = groups(&model);
    assert_eq!(legacy.requester_ids(bdf("05:01.0")), [0x508, 0xf0]);
    assert_eq!(legacy.bridged_interrupts(bdf("05:01.0")), Some((0xf0, 0xf0)));
    assert_eq!(legacy.check(bdf("05:01.0"), |_| false), Ok(()));
}

#[test]
fn other_names() {
    // PCIe 7.5.3.3: one bit, functions 0 to 3 use 4 to 7 as well; two bits, 0 uses 2, 4, 6; three bits, 0 uses all.
    for (field, own, expected) in
        [(1u32, 1, &[5u16][..]), (2, 0, &[2, 4, 6]), (2, 1, &[3, 5, 7]), (3, 0, &[1, 2, 3, 4, 5, 6, 7])]
    {
        let model = Model::q35();
        let mut device = endpoint();
        device.set(0x84, 4, field << 3);
        device.set(0x88, 2, 1 << 9);
        let name = std::format!("00:09.{own}");
        let mut first = Device::new(0x1234, 1, 0x02_0000);
        first.bytes[0x0e] |= 0x80;
        model.add("00:09.0", first);
        model.add(&name, device);
        let mut ids = groups(&model).requester_ids(bdf(&name)).to_vec();
        assert_eq!(ids.remove(0), 0x48 + own);
        ids.sort();
        assert_eq!(ids, expected.iter().map(|id| id + 0x48).collect::<Vec<_>>(), "{field} {own}");
        // Only while enabled.
        model.edit(&name, |device| device.set(0x88, 2, 0));
        assert_eq!(groups(&model).requester_ids(bdf(&name)).len(), 1);
    }
    // A phantom of a function that is there: joined, though both have ACS.
    let model = Model::q35();
    for name in ["03:00.0", "03:00.4"] {
        let mut device = endpoint();
        device.set(0x84, 4, 1 << 3);
        device.set(0x88, 2, 1 << 9);
        device.bytes[0x0e] |= 0x80;
        device.acs(0x100, 0x1c);
        model.add(name, device);
    }
    let posing = groups(&model);
    let why = Why::Alias { function: bdf("03:00.0"), of: bdf("03:00.4") };
    assert!(posing.of(bdf("03:00.0")).unwrap().why.contains(&why));
    assert_eq!(with(&posing, "03:00.0"), ["0000:03:00.0", "0000:03:00.4"]);
    // A Marvell SATA controller: requests under function 1, which is not there.
    let model = Model::q35();
    model.edit("03:00.0", |disk| disk.set(0, 4, 0x9172_1b4b));
    let sata = groups(&model);
    assert_eq!(sata.requester_ids(bdf("03:00.0")), [0x300, 0x301]);
    assert_eq!(sata.sources(&[bdf("03:00.0")]), [(bdf("03:00.0"), vec![0x301])]);
}

#[test]
fn virtual_functions() {
    let model = Model::q35();
    let mut found = found(&model);
    let physical = bdf("02:00.0");
    for name in ["02:10.0", "02:10.2"] {
        let mut function = found.get(physical).unwrap().clone();
        function.bdf = bdf(name);
        function.physical = Some(physical);
        found.functions.push(function);
        let mut device = endpoint();
        device.set(0, 4, u32::MAX);
        model.add(name, device);
    }
    let _ = enable_acs(&model, &found);
    let groups = Groups::compute(&model, &found);
    assert_eq!(with(&groups, "02:10.2"), ["0000:02:10.2"]);
    assert_eq!(with(&groups, "02:00.0"), ["0000:02:00.0"]);
    // But they go with their port.
    model.edit("00:02.1", |port| port.extended(0x100, 1, 0));
    assert!(Groups::compute(&model, &found).of(bdf("02:10.2")).unwrap().members.len() > 3);
}
