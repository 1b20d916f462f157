//! A physical function and a router for the tests: they record what reaches them.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hermit_sync::SpinMutex;
use machine::addr::{GuestPhys, HostPhys};
use machine::pci::Bdf;

use super::*;
use crate::guest::message::MsiMessage;
use access::{BarAccess, BarDescription, MsixHardware, PhysicalFunction, ResetError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Config(u16, u8, u32),
    Entry(u16, MsiMessage, bool),
    Bar(u8, u64, u8, u64),
    Reset,
    Route(u16, MsiMessage),
    Release(u16),
}

pub(crate) type Log = Arc<SpinMutex<Vec<Event>>>;

pub(crate) struct ModelFunction {
    pub config: [u8; 256],
    pub log: Log,
    /// What a reset answers.
    pub reset: Result<(), ResetError>,
}

fn put(config: &mut [u8; 256], offset: usize, bytes: &[u8]) {
    config[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl ModelFunction {
    /// An NVMe function: MSI-X at 0x40 (6 entries, table at BAR 0 + 0x2000, PBA + 0x3000), a vendor
    /// capability at 0x50, PM at 0x60, MSI (64 bit, maskable, 8 messages) at 0x68, PCIe at 0x80.
    pub fn nvme(log: &Log) -> Self {
        let mut config = [0; 256];
        put(
            &mut config,
            0,
            &[0x36, 0x1B, 0x10, 0x00, 0x02, 0x00, 0x10, 0x00, 0x02, 0x02, 0x08, 0x01, 0x10, 0x40, 0x00],
        );
        put(&mut config, 0x10, &0xFEBD_4004u32.to_le_bytes());
        put(&mut config, 0x2C, &[0xF4, 0x1A, 0x00, 0x11]);
        put(&mut config, 0x30, &[0x01, 0x00, 0xBC, 0xFE]);
        put(&mut config, 0x34, &[0x40, 0, 0, 0, 0, 0, 0, 0, 0x0B, 0x01]);
        put(&mut config, 0x40, &[0x11, 0x50, 0x05, 0x00, 0x00, 0x20, 0, 0, 0x00, 0x30, 0, 0]);
        put(&mut config, 0x50, &[0x09, 0x60, 0x10, 0xAA, 0xBB]);
        put(&mut config, 0x60, &[0x01, 0x68, 0x23, 0xFE, 0x00, 0x01]);
        put(&mut config, 0x68, &[0x05, 0x80, 0x86, 0x01]);
        put(&mut config, 0x80, &[0x10, 0x00, 0x02, 0x00, 0x01, 0x80, 0x00, 0x10]);
        Self { config, log: log.clone(), reset: Ok(()) }
    }
}

impl PhysicalFunction for ModelFunction {
    fn config_read(&mut self, offset: u16, width: u8) -> u32 {
        assert_eq!(offset % u16::from(width), 0, "natural alignment");
        (0..width).fold(0, |value, byte| {
            value | u32::from(self.config[usize::from(offset) + usize::from(byte)]) << (8 * byte)
        })
    }

    fn config_write(&mut self, offset: u16, width: u8, value: u32) {
        assert_eq!(offset % u16::from(width), 0, "natural alignment");
        self.log.lock().push(Event::Config(offset, width, value));
        for byte in 0..width {
            self.config[usize::from(offset) + usize::from(byte)] = (value >> (8 * byte)) as u8;
        }
    }

    fn reset(&mut self) -> Result<(), ResetError> {
        self.log.lock().push(Event::Reset);
        self.reset
    }
}

impl MsixHardware for ModelFunction {
    fn write_entry(&mut self, index: u16, message: MsiMessage, masked: bool) {
        self.log.lock().push(Event::Entry(index, message, masked));
    }
}

impl BarAccess for ModelFunction {
    fn read(&mut self, bar: u8, offset: u64, _width: u8) -> u64 {
        offset | u64::from(bar) << 32
    }
    fn write(&mut self, bar: u8, offset: u64, width: u8, value: u64) {
        self.log.lock().push(Event::Bar(bar, offset, width, value));
    }
}

/// Hands out remappable-format messages: IRTE handle in address bits 19:5.
pub(crate) struct ModelRouter {
    pub log: Log,
    pub routes: Arc<SpinMutex<BTreeMap<u16, MsiMessage>>>,
    pub limit: usize,
}

pub(crate) fn host_message(entry: u16) -> MsiMessage {
    MsiMessage { address: 0xFEE0_0018 | u64::from(entry) << 5, data: 0 }
}

impl InterruptRouter for ModelRouter {
    fn route(&mut self, _device: Bdf, entry: u16, guest: MsiMessage) -> Result<MsiMessage, RouteError> {
        self.log.lock().push(Event::Route(entry, guest));
        let mut routes = self.routes.lock();
        routes.remove(&entry);
        if routes.len() >= self.limit {
            return Err(RouteError::Exhausted);
        }
        routes.insert(entry, guest);
        Ok(host_message(entry))
    }

    fn release(&mut self, _device: Bdf, entry: u16) {
        self.log.lock().push(Event::Release(entry));
        assert!(self.routes.lock().remove(&entry).is_some(), "released a route that is not there");
    }
}

pub(crate) struct Bed {
    pub bus: PciBus,
    pub log: Log,
    pub routes: Arc<SpinMutex<BTreeMap<u16, MsiMessage>>>,
}

pub(crate) const DEVICE: Bdf = Bdf::from_requester_id(0, 0x0300);

pub(crate) const BAR0: BarDescription =
    BarDescription { index: 0, wide: true, prefetchable: false, host: HostPhys(0xFEBD_4000), bytes: 0x4000 };

pub(crate) fn window(start: u64, bytes: u64) -> GuestRange {
    GuestRange { start: GuestPhys(start), bytes }
}

/// A bus with one NVMe function at 00:01.0, BARs placed at 0xC0000000, nothing enabled.
pub(crate) fn bed() -> Bed {
    bed_of(1)
}

/// The address of the `index`-th function of [`bed_of`].
pub(crate) fn device(index: u16) -> Bdf {
    Bdf::from_requester_id(0, DEVICE.requester_id() + index * 0x100)
}

pub(crate) fn bed_of(count: u16) -> Bed {
    let log = Log::default();
    let routes = Arc::new(SpinMutex::new(BTreeMap::new()));
    let router = ModelRouter { log: log.clone(), routes: routes.clone(), limit: 5 };
    let blocked = alloc::vec![window(0, 0x2000_0000), window(0xE000_0000, 0x10_0000), window(0xFEC0_0000, 0x1000)];
    let mut bus = PciBus::new(Box::new(router), blocked, 40);
    for index in 0..count {
        let function =
            Passthrough::new(device(index), Box::new(ModelFunction::nvme(&log)), &[BAR0]).expect("sound device");
        bus.add(function).expect("a slot");
    }
    bus.assign_bars(window(0xC000_0000, 0x2000_0000), window(0x40_0000_0000, 1 << 30)).expect("room");
    Bed { bus, log, routes }
}

impl Bed {
    pub fn read(&mut self, offset: u64, width: u8) -> u64 {
        self.bus.ecam_read(1 << 15 | offset, width)
    }
    pub fn write(&mut self, offset: u64, width: u8, value: u64) {
        self.bus.ecam_write(1 << 15 | offset, width, value);
    }
    pub fn events(&self) -> Vec<Event> {
        core::mem::take(&mut *self.log.lock())
    }
}
