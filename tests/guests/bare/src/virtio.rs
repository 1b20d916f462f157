//! A virtio block device (OASIS virtio 1.2: 4.1, 5.2), behind an IOMMU, with QEMU's layout of BAR 4: the vendor capabilities
//! that would name it are not passed on to guests.

use machine::mmio::MmioRegion;
use machine::pci::Bdf;

use crate::load::Disk;
use crate::memory::Frames;
use crate::nvme::{Completion, Direction};
use crate::{devices, interrupts};

/// Vendor and device id of a block device without legacy interface.
pub const IDS: (u16, u16) = (0x1af4, 0x1042);

/// Common configuration (virtio 4.1.4.3).
mod common {
    pub const FEATURE_SELECT: usize = 0x08;
    pub const FEATURE: usize = 0x0c;
    pub const STATUS: usize = 0x14;
    pub const QUEUE_SELECT: usize = 0x16;
    pub const QUEUE_SIZE: usize = 0x18;
    pub const QUEUE_VECTOR: usize = 0x1a;
    pub const QUEUE_ENABLE: usize = 0x1c;
    pub const QUEUE_DESCRIPTORS: usize = 0x20;
    pub const QUEUE_DRIVER: usize = 0x28;
    pub const QUEUE_DEVICE: usize = 0x30;
}
/// Where queue 0 is told of new requests (QEMU: hw/virtio/virtio-pci.c).
const NOTIFY: usize = 0x3000;
const BAR: u8 = 4;
/// Feature bits 32 and 33: version 1, addresses are the platform's.
const FEATURES: u32 = 3;
const ACKNOWLEDGE: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
/// Descriptors of the queue; a request takes three.
const SIZE: u16 = 16;
const NEXT: u64 = 1;
const DEVICE_WRITES: u64 = 2;
/// Requests (virtio 5.2.6).
const IN: u64 = 0;
const OUT: u64 = 1;
/// The interrupt of the queue.
const ENTRY: u16 = 0;
/// 64-bit words from one request's header and status to the next.
const REQUEST_WORDS: usize = 4;

/// A device with its one queue.
pub struct Virtio {
    registers: MmioRegion,
    descriptors: Frames,
    available: Frames,
    used: Frames,
    /// Header (two words) and status (one byte) of each request.
    requests: Frames,
    submitted: u16,
    seen: u16,
    vector: u8,
}

impl Virtio {
    /// The first one that the guest has, brought up.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn find() -> Option<Self> {
        let bdf = *devices::find(IDS.0, IDS.1).first()?;
        Some(Self::start(bdf))
    }

    fn start(bdf: Bdf) -> Self {
        let config = devices::config();
        let _ = devices::enable(&config, bdf);
        let registers = devices::bar(&config, bdf, BAR);
        let vector = interrupts::DEVICES;
        let this = Self {
            registers,
            descriptors: Frames::take(1),
            available: Frames::take(1),
            used: Frames::take(1),
            requests: Frames::take(1),
            submitted: 0,
            seen: 0,
            vector,
        };
        registers.write_u8(common::STATUS, 0);
        registers.write_u8(common::STATUS, ACKNOWLEDGE | DRIVER);
        registers.write_u32(common::FEATURE_SELECT, 1);
        registers.write_u32(common::FEATURE, FEATURES);
        registers.write_u8(common::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        assert!(registers.read_u8(common::STATUS) & FEATURES_OK != 0, "{bdf} does not take version 1 and the IOMMU");
        assert!(devices::route(&config, bdf, ENTRY, vector), "{bdf} has no MSI-X");
        registers.write_u16(common::QUEUE_SELECT, 0);
        registers.write_u16(common::QUEUE_SIZE, SIZE);
        registers.write_u16(common::QUEUE_VECTOR, ENTRY);
        assert!(registers.read_u16(common::QUEUE_VECTOR) == ENTRY, "{bdf} takes no vector");
        registers.write_u64(common::QUEUE_DESCRIPTORS, this.descriptors.address());
        registers.write_u64(common::QUEUE_DRIVER, this.available.address());
        registers.write_u64(common::QUEUE_DEVICE, this.used.address());
        registers.write_u16(common::QUEUE_ENABLE, 1);
        registers.write_u8(common::STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        this
    }

    fn descriptor(&self, index: u16, address: u64, bytes: u64, flags: u64) {
        let next = if flags & NEXT != 0 { u64::from(index + 1) << 48 } else { 0 };
        self.descriptors.write(usize::from(index) * 2, address);
        self.descriptors.write(usize::from(index) * 2 + 1, bytes | flags << 32 | next);
    }

    /// A 16-bit field of the available ring: flags, index, then the ring (virtio 2.7.6).
    fn publish(&self, field: u16, value: u16) {
        let (word, shift) = (usize::from(field / 4), u32::from(field % 4) * 16);
        let old = self.available.read(word) & !(0xffff << shift);
        self.available.write(word, old | u64::from(value) << shift);
    }

    fn completed(&mut self) -> Option<Completion> {
        // Flags, index, then pairs of head and length (virtio 2.7.8).
        if (self.used.read(0) >> 16) as u16 == self.seen {
            return None;
        }
        let at = usize::from(self.seen % SIZE) * 2 + 1;
        let half = |index: usize| (self.used.read(index / 2) >> (index % 2 * 32)) as u32;
        let id = half(at) as u16 / 3;
        self.seen = self.seen.wrapping_add(1);
        let status = self.requests.read(usize::from(id) * REQUEST_WORDS + 2) as u8;
        Some(Completion { id, status: status.into() })
    }
}

impl Disk for Virtio {
    fn submit(&mut self, id: u16, direction: Direction, address: u64, sector: u64, sectors: u64) {
        let request = usize::from(id) * REQUEST_WORDS;
        self.requests.write(request, if direction == Direction::Write { OUT } else { IN });
        self.requests.write(request + 1, sector);
        // What is no status: the device has to write one.
        self.requests.write(request + 2, 0xff);
        let at = self.requests.address() + request as u64 * 8;
        let flags = if direction == Direction::Read { DEVICE_WRITES } else { 0 };
        self.descriptor(id * 3, at, 16, NEXT);
        self.descriptor(id * 3 + 1, address, sectors * 512, NEXT | flags);
        self.descriptor(id * 3 + 2, at + 16, 1, DEVICE_WRITES);
        self.publish(2 + self.submitted % SIZE, id * 3);
        self.submitted = self.submitted.wrapping_add(1);
        machine::cpu::cache::fence();
        self.publish(1, self.submitted);
        machine::cpu::cache::fence();
        self.registers.write_u16(NOTIFY, 0);
    }

    fn wait(&mut self) -> Completion {
        loop {
            let before = interrupts::count(self.vector);
            if let Some(completion) = self.completed() {
                return completion;
            }
            interrupts::wait_unless(|| interrupts::count(self.vector) != before);
        }
    }
}
