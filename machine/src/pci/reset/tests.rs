//! Each way to reset, on the model.

use super::*;
use crate::pci::model::{Device, Model, Ticker, bdf};
use crate::pci::{Buses, Class, Function, Ids, enumerate};
use std::string::ToString;

fn found(model: &Model) -> Enumeration {
    enumerate(model, &[Buses { segment: 0, first: 0, last: 255 }])
}

fn choose(model: &Model, name: &str) -> Result<Reset, NoReset> {
    Reset::choose(model, &found(model), bdf(name), |_| false)
}

#[test]
fn function_level_reset() {
    let (model, clock) = (Model::q35(), Ticker::default());
    model.edit("03:00.0", |nvme| {
        nvme.set(4, 2, 0x406);
        nvme.set(0x42, 2, 0xc040);
        // Payload size, phantom functions; link: L1, retrain.
        nvme.set(0x88, 2, 0x0220);
        nvme.writable(0x90, 2, 0xffff);
        nvme.set(0x90, 2, 0x62);
        nvme.set(0x0f, 1, 0x40);
        nvme.writable(0x0f, 1, 0x40);
    });
    let reset = choose(&model, "03:00.0").unwrap();
    assert_eq!((reset.way(), reset.hits()), (ResetWay::Function, &[bdf("03:00.0")][..]));
    let start = clock.ticks();
    reset.perform(&model, &clock).unwrap();
    assert!(clock.ticks() - start >= 1000, "100 ms have to pass");
    model.edit("03:00.0", |nvme| {
        assert_eq!(nvme.resets, 1);
        // Back in place, but no bus master and no MSI-X.
        assert_eq!((nvme.get(0x10, 4), nvme.get(0x14, 4), nvme.get(4, 2)), (0xfe00_0004, 1, 0x402));
        assert_eq!(nvme.get(0x42, 2), 0x40);
        assert_eq!((nvme.get(0x88, 2), nvme.get(0x90, 2)), (0x20, 0x42));
        assert_eq!(nvme.get(0x0f, 1), 0, "no self-test is started");
    });
    // Requests that never complete: no reset, and the device is as it was.
    model.edit("03:00.0", |nvme| nvme.bytes[0x8a] = 0x20);
    let before = model.0.borrow()[&bdf("03:00.0")].bytes.clone();
    let pending = Err(ResetError::Pending { device: bdf("03:00.0") });
    assert_eq!(reset.perform(&model, &clock), pending);
    assert_eq!(model.0.borrow()[&bdf("03:00.0")].bytes, before);
    // Slow, but in time; and never.
    model.edit("03:00.0", |nvme| {
        nvme.bytes[0x8a] = 0;
        nvme.slow = 300;
    });
    assert_eq!(reset.perform(&model, &clock), Ok(()));
    model.edit("03:00.0", |nvme| nvme.slow = u32::MAX);
    let lost = reset.perform(&model, &clock).unwrap_err();
    assert_eq!(lost, ResetError::Lost { device: bdf("03:00.0") });
    assert!(lost.to_string().contains("0000:03:00.0 does not answer 1100 ms"), "{lost}");
    // Gone: nothing pending reads as all ones, so it never gets to the reset.
    model.0.borrow_mut().remove(&bdf("03:00.0"));
    assert!(reset.perform(&model, &clock).is_err());
}

#[test]
fn sizes_go_back_before_addresses() {
    let (model, clock) = (Model::q35(), Ticker::default());
    model.edit("03:00.0", |gpu| {
        // PCIe 7.8.6: one BAR, size 2^(20 + 8).
        gpu.extended(0x100, 0x15, 0x120);
        gpu.set(0x108, 4, 0x0820);
        gpu.writable(0x108, 4, 0x3f00);
        gpu.extended(0x120, 0x1e, 0x140);
        gpu.set(0x128, 4, 0x4000_000f);
        gpu.writable(0x128, 4, u32::MAX);
        gpu.set(0x12c, 4, 0x28);
        gpu.writable(0x12c, 4, 0xff);
        gpu.acs(0x140, 0x1c);
        gpu.set(0x146, 2, 0x1c);
    });
    choose(&model, "03:00.0").unwrap().perform(&model, &clock).unwrap();
    model.edit("03:00.0", |gpu| {
        assert_eq!((gpu.get(0x108, 4), gpu.get(0x128, 4), gpu.get(0x12c, 4)), (0x0820, 0x4000_000f, 0x28));
        assert_eq!(gpu.get(0x146, 2), 0x1c);
    });
    // More of them than fit into configuration space.
    model.edit("03:00.0", |gpu| {
        gpu.extended(0x100, 0x15, 0xff0);
        gpu.extended(0xff0, 0x15, 0);
        gpu.set(0x100, 2, 0);
        gpu.set(0xff8, 4, 0xff);
    });
    assert_eq!(choose(&model, "03:00.0").unwrap().perform(&model, &clock), Ok(()));
}

#[test]
fn advanced_features() {
    let (model, clock) = (Model::q35(), Ticker::default());
    model.edit("00:05.0", |edu| edu.advanced(0x60));
    let reset = choose(&model, "00:05.0").unwrap();
    assert_eq!(reset.way(), ResetWay::AdvancedFeatures(0x60));
    reset.perform(&model, &clock).unwrap();
    model.edit("00:05.0", |edu| {
        assert_eq!((edu.resets, edu.get(0x10, 4)), (1, 0xfea0_0000));
        edu.bytes[0x65] = 1;
    });
    assert_eq!(reset.perform(&model, &clock), Err(ResetError::Pending { device: bdf("00:05.0") }));
    // The reset without the pending bit is not enough.
    model.edit("00:05.0", |edu| edu.bytes[0x63] = 2);
    assert!(choose(&model, "00:05.0").is_err());
}

#[test]
fn secondary_bus_reset() {
    let (model, clock) = (Model::q35(), Ticker::default());
    // The NIC has no function level reset; its port tells when the link is up.
    model.edit("00:02.0", |port| {
        port.set(0x54 + 0x0c, 4, 1 << 20);
        port.set(0x54 + 0x12, 2, 1 << 13);
        port.writable(0x3e, 2, 0x40);
        port.set(0x3e, 2, 0);
    });
    model.edit("01:00.0", |nic| nic.set(4, 2, 0x7));
    let reset = choose(&model, "01:00.0").unwrap();
    assert_eq!((reset.way(), reset.hits()), (ResetWay::Bus { bridge: bdf("00:02.0") }, &[bdf("01:00.0")][..]));
    assert_eq!(reset.way().to_string(), "bus");
    reset.perform(&model, &clock).unwrap();
    model.edit("01:00.0", |nic| assert_eq!((nic.resets, nic.get(0x10, 4), nic.get(4, 2)), (1, 0xfe84_0000, 3)));
    model.edit("00:02.0", |port| assert_eq!(port.get(0x3e, 2), 0, "the reset is over"));
    // Two functions: one owner, or none.
    model.edit("01:00.0", |nic| nic.bytes[0x0e] |= 0x80);
    let mut second = Device::new(0x8086, 0x10d3, 0x02_0000);
    second.slow = 50;
    model.add("01:00.1", second);
    assert_eq!(choose(&model, "01:00.0"), Err(NoReset { device: bdf("01:00.0"), shared: Some(bdf("01:00.1")) }));
    let both = Reset::choose(&model, &found(&model), bdf("01:00.0"), |other| other == bdf("01:00.1")).unwrap();
    assert_eq!(both.hits().len(), 2);
    both.perform(&model, &clock).unwrap();
    model.edit("01:00.1", |nic| assert_eq!(nic.resets, 1));
    // Nothing behind a further bridge, whoever has it.
    model.edit("01:00.1", |bridge| bridge.bytes[0x0e] |= 1);
    assert!(Reset::choose(&model, &found(&model), bdf("01:00.0"), |_| true).is_err());
}

#[test]
fn a_link_that_stays_down() {
    struct Down(Model);
    impl ConfigSpace for Down {
        fn read(&self, bdf: Bdf, offset: u16, width: crate::access::Width) -> u32 {
            self.0.read(bdf, offset, width)
        }
        fn write(&self, bdf: Bdf, offset: u16, width: crate::access::Width, value: u32) {
            self.0.write(bdf, offset, width, value);
            if offset == 0x3e {
                self.0.edit("00:02.0", |port| port.set(0x54 + 0x12, 2, 0));
            }
        }
    }
    let model = Down(Model::q35());
    model.0.edit("00:02.0", |port| {
        port.set(0x54 + 0x0c, 4, 1 << 20);
        port.set(0x54 + 0x12, 2, 1 << 13);
    });
    let reset = choose(&model.0, "01:00.0").unwrap();
    let error = reset.perform(&model, &Ticker::default()).unwrap_err();
    assert_eq!(error, ResetError::Link { bridge: bdf("00:02.0") });
    assert!(error.to_string().ends_with("it stays blocked, power-cycle it"));
    // Down before: nobody waits for it.
    let error = reset.perform(&model, &Ticker::default());
    assert_eq!(error, Ok(()));
}

#[test]
fn no_way() {
    let model = Model::q35();
    let error = choose(&model, "00:05.0").unwrap_err();
    assert_eq!(error, NoReset { device: bdf("00:05.0"), shared: None });
    assert!(error.to_string().contains("no bridge above it"));
    assert!(choose(&model, "00:1f.2").is_err());
    // A physical function that has virtual ones, and one of these.
    let mut found = found(&model);
    let (physical, name) = (bdf("02:00.0"), bdf("02:10.0"));
    let class = Class { base: 2, sub: 0, interface: 0, revision: 1 };
    let ids = Ids { vendor: 0x8086, device: 0x10ca, subsystem_vendor: 0, subsystem: 0 };
    let path = found.get(physical).unwrap().path.clone();
    let header = HeaderKind::Endpoint;
    let function = Function { bdf: name, ids, class, header, multifunction: false, path, physical: Some(physical) };
    found.functions.push(function);
    let mut device = Device::new(0xffff, 0xffff, 0x02_0000);
    device.express(0xa0, 0, true);
    model.add("02:10.0", device);
    assert_eq!(
        Reset::choose(&model, &found, physical, |_| true),
        Err(NoReset { device: physical, shared: Some(name) })
    );
    let reset = Reset::choose(&model, &found, name, |_| false).unwrap();
    assert_eq!((reset.way(), reset.perform(&model, &Ticker::default())), (ResetWay::Function, Ok(())));
    // One without its own reset goes with all that is on the bus.
    model.edit("02:10.0", |device| device.bytes[0xa7] = 0);
    assert_eq!(Reset::choose(&model, &found, name, |_| false), Err(NoReset { device: name, shared: Some(physical) }));
}
