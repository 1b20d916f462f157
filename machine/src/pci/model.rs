//! Configuration space as QEMU's q35 has it: host bridge, three root ports in one
//! device, an NVMe disk, NICs, chipset functions.

use super::{Bdf, ConfigSpace};
use crate::access::{Clock, Width};
use core::cell::{Cell, RefCell};
use std::boxed::Box;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

#[derive(Clone)]
pub struct Device {
    pub bytes: Vec<u8>,
    /// Which bits a write changes.
    pub writable: Vec<u8>,
    /// Offset of the Express capability, if a reset through it works.
    pub flr: Option<u16>,
    /// Offset of the control register of the advanced features capability, likewise.
    pub af: Option<u16>,
    pub resets: u32,
    /// How often the function says "not ready yet" after a reset.
    pub slow: u32,
    /// How often it still will.
    pub retries: Cell<u32>,
    /// Offset of the SR-IOV capability, and what appears when it is enabled.
    pub virtual_function: Option<(usize, Box<Device>)>,
    /// Its registers are noise: what is checked of well-behaved ones does not hold.
    pub noisy: bool,
}

impl Device {
    pub fn new(vendor: u16, device: u16, class: u32) -> Self {
        let (bytes, writable) = (vec![0; 4096], vec![0; 4096]);
        let (retries, virtual_function) = (Cell::default(), None);
        let (flr, af, resets, slow, noisy) = (None, None, 0, 0, false);
        let mut new = Self { bytes, writable, flr, af, resets, slow, retries, virtual_function, noisy };
        new.set(0, 2, vendor.into());
        new.set(2, 2, device.into());
        new.set(8, 4, class << 8 | 2);
        new.writable(4, 2, 0x0547);
        new
    }

    pub fn set(&mut self, offset: usize, bytes: usize, value: u32) {
        self.bytes[offset..offset + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
    }

    pub fn get(&self, offset: usize, bytes: usize) -> u32 {
        let mut value = [0; 4];
        value[..bytes].copy_from_slice(&self.bytes[offset..offset + bytes]);
        u32::from_le_bytes(value)
    }

    pub fn writable(&mut self, offset: usize, bytes: usize, mask: u32) {
        self.writable[offset..offset + bytes].copy_from_slice(&mask.to_le_bytes()[..bytes]);
    }

    pub fn bar(&mut self, index: usize, value: u32, mask: u32) {
        self.set(0x10 + index * 4, 4, value);
        self.writable(0x10 + index * 4, 4, mask);
    }

    /// Puts a capability of `body` at the front of the list.
    pub fn capability(&mut self, offset: usize, id: u8, body: &[u8]) {
        let next = self.bytes[0x34];
        self.bytes[offset] = id;
        self.bytes[offset + 1] = next;
        self.bytes[offset + 2..offset + 2 + body.len()].copy_from_slice(body);
        self.bytes[0x34] = offset as u8;
        self.bytes[6] |= 0x10;
    }

    pub fn express(&mut self, offset: usize, kind: u8, flr: bool) {
        let mut body = [0; 0x3a];
        body[0] = 2 | kind << 4;
        body[5] = if flr { 0x10 } else { 0 };
        self.capability(offset, 0x10, &body);
        self.writable(offset + 8, 2, 0xffff);
        self.flr = flr.then_some(offset as u16);
    }

    /// PCI Advanced Capabilities ECN: reset and pending bit.
    pub fn advanced(&mut self, offset: usize) {
        self.capability(offset, 0x13, &[6, 3, 0, 0]);
        self.af = Some(offset as u16 + 4);
    }

    /// PCIe 9.3.3, with VF BAR 0 of 16 KiB (64 bits, prefetchable).
    pub fn sriov(&mut self, offset: usize, total: u16, first: u16, stride: u16, device: u16) {
        self.extended(offset, 0x10, 0);
        for (register, value) in [(0x0c, total), (0x0e, total), (0x14, first), (0x16, stride), (0x1a, device)] {
            self.set(offset + register, 2, value.into());
        }
        self.set(offset + 0x1c, 4, 0x553);
        for (register, bytes, mask) in [(0x08, 2, 0x19), (0x10, 2, 0xffff), (0x20, 4, 0x553)] {
            self.writable(offset + register, bytes, mask);
        }
        self.set(offset + 0x24, 4, 0xc);
        self.writable(offset + 0x24, 4, 0xffff_c000);
        self.writable(offset + 0x28, 4, 0xffff_ffff);
        let mut function = Self::new(0xffff, 0xffff, 0x02_0000);
        function.express(0xa0, 0, true);
        function.set(0x2e, 2, 0x1234);
        self.virtual_function = Some((offset, Box::new(function)));
    }

    /// Everything that can be written is as after power-on, but for what a function level reset leaves alone.
    fn reset(&mut self) {
        let quiet = self.bytes[4] & self.writable[4] & 7 == 0;
        assert!(quiet || self.noisy, "reset with decoding or bus mastering on");
        self.resets += 1;
        self.retries.set(self.slow);
        for (byte, writable) in self.bytes.iter_mut().zip(&self.writable) {
            *byte &= !writable;
        }
    }

    pub fn extended(&mut self, offset: usize, id: u16, next: u16) {
        self.set(offset, 4, u32::from(id) | 1 << 16 | u32::from(next) << 20);
    }

    pub fn acs(&mut self, offset: usize, can: u16) {
        self.extended(offset, 0x0d, 0);
        self.set(offset + 4, 2, can.into());
        self.writable(offset + 6, 2, can.into());
    }

    pub fn bridge(&mut self, secondary: u8, subordinate: u8) {
        self.bytes[0x0e] |= 1;
        self.bytes[0x19] = secondary;
        self.bytes[0x1a] = subordinate;
    }
}

#[derive(Default)]
pub struct Model(pub RefCell<BTreeMap<Bdf, Device>>);

pub fn bdf(text: &str) -> Bdf {
    text.parse().unwrap()
}

impl Model {
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Device)) {
        change(self.0.borrow_mut().get_mut(&bdf(name)).unwrap());
    }

    pub fn add(&self, name: &str, device: Device) {
        self.0.borrow_mut().insert(bdf(name), device);
    }

    /// The test bed of TESTBEDS.md.
    pub fn q35() -> Self {
        let model = Self::default();
        model.add("00:00.0", Device::new(0x8086, 0x29c0, 0x06_0000));
        for (function, bus) in [(0, 1), (1, 2), (2, 3)] {
            let mut port = Device::new(0x1b36, 0x000c, 0x06_0400);
            port.bridge(bus, bus);
            port.bytes[0x0e] |= 0x80;
            port.express(0x54, 4, false);
            port.extended(0x100, 1, 0x148);
            port.acs(0x148, 0x5f);
            model.0.borrow_mut().insert(Bdf::new(0, 0, 2, function).unwrap(), port);
        }
        let mut edu = Device::new(0x1234, 0x11e8, 0x00ff_0000);
        edu.bar(0, 0xfea0_0000, 0xfff0_0000);
        model.add("00:05.0", edu);
        for (function, device, class) in [(0, 0x2918, 0x06_0100), (2, 0x2922, 0x01_0601), (3, 0x2930, 0x0c_0500)] {
            let mut chipset = Device::new(0x8086, device, class);
            chipset.bytes[0x0e] |= 0x80;
            model.0.borrow_mut().insert(Bdf::new(0, 0, 31, function).unwrap(), chipset);
        }
        let mut nic = Device::new(0x8086, 0x10d3, 0x02_0000);
        nic.bar(0, 0xfe84_0000, 0xfffe_0000);
        nic.bar(2, 0x0000_c001, 0x0000_ffe0);
        nic.express(0xe0, 0, false);
        model.add("01:00.0", nic);
        let mut igb = Device::new(0x8086, 0x10c9, 0x02_0000);
        igb.express(0xa0, 0, true);
        igb.extended(0x100, 1, 0x150);
        igb.extended(0x150, 0x0e, 0x160);
        // QEMU's: offset 0x80, stride 2.
        igb.sriov(0x160, 8, 0x80, 2, 0x10ca);
        model.add("02:00.0", igb);
        let mut nvme = Device::new(0x1b36, 0x0010, 0x01_0802);
        nvme.set(0x2c, 4, 0x1100_1af4);
        nvme.bar(0, 0xfe00_0004, 0xffff_c000);
        nvme.bar(1, 0x0000_0001, 0xffff_ffff);
        nvme.express(0x80, 0, true);
        // 65 vectors; table at 0x2000 and pending bits at 0x3000 of BAR 0.
        nvme.capability(0x40, 0x11, &[0x40, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0]);
        nvme.writable(0x42, 2, 0xc000);
        model.add("03:00.0", nvme);
        model
    }
}

impl ConfigSpace for Model {
    fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32 {
        match self.0.borrow().get(&bdf) {
            Some(device) if device.retries.get() > 0 => {
                device.retries.set(device.retries.get() - 1);
                // PCIe 2.3.2: the vendor reads as 1, the rest as ones.
                if offset == 0 { width.all_ones() & 0xffff_0001 } else { width.all_ones() }
            }
            Some(device) if usize::from(offset) + usize::from(width.bytes()) <= 4096 => {
                device.get(offset.into(), width.bytes().into())
            }
            _ => width.all_ones(),
        }
    }

    fn write(&self, bdf: Bdf, offset: u16, width: Width, value: u32) {
        let mut devices = self.0.borrow_mut();
        let Some(device) = devices.get_mut(&bdf) else {
            return;
        };
        let before = device.bytes.clone();
        for (at, byte) in (usize::from(offset)..).zip(value.to_le_bytes()).take(width.bytes().into()) {
            let mask = device.writable[at];
            device.bytes[at] = device.bytes[at] & !mask | byte & mask;
        }
        let started = |at: u16, bit: u32| at == offset && value & bit != 0;
        if device.flr.is_some_and(|flr| started(flr + 8, 0x8000)) || device.af.is_some_and(|af| started(af, 1)) {
            device.reset();
        }
        // Bridge control: everything behind is reset while the bit is set.
        if device.bytes[0x0e] & 0x7f == 1 && offset == 0x3e && value & 0x40 != 0 {
            let behind = device.bytes[0x19]..=device.bytes[0x1a];
            devices.iter_mut().filter(|(bdf, _)| behind.contains(&bdf.bus())).for_each(|(_, device)| device.reset());
            return;
        }
        let Some((at, function)) = device.virtual_function.clone() else { return };
        let enabled = |bytes: &[u8]| bytes[at + 8] & 1 != 0;
        let (was, is) = (enabled(&before), enabled(&device.bytes));
        let count = if was == is { 0 } else { device.get(at + 0x10, 2) };
        let (first, stride) = (device.get(at + 0x14, 2), device.get(at + 0x16, 2));
        for index in 0..count {
            let id = u32::from(bdf.requester_id()) + first + index * stride;
            let name = Bdf::from_requester_id(bdf.segment(), id as u16);
            if is {
                devices.insert(name, *function.clone())
            } else {
                devices.remove(&name)
            };
        }
    }
}

/// A clock on which each look takes a tenth of a millisecond.
#[derive(Default)]
pub struct Ticker(Cell<u64>);

impl Clock for Ticker {
    fn ticks(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }

    fn ticks_per_ms(&self) -> u64 {
        10
    }
}
