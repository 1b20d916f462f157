//! Intel's 82576 (data sheet 321027), one queue each way, advanced descriptors, an MSI-X interrupt for what arrives.

use machine::mmio::MmioRegion;
use machine::pci::Bdf;

use crate::memory::{Frames, PAGE};
use crate::{clock, devices, interrupts};

/// Vendor and device id.
pub const IDS: (u16, u16) = (0x8086, 0x10c9);
/// The longest frame that is sent or taken, without its checksum.
pub const FRAME_BYTES: usize = 1514;

/// Registers (data sheet 8.1.3).
mod register {
    pub const CTRL: usize = 0x0000;
    pub const STATUS: usize = 0x0008;
    pub const MDIC: usize = 0x0020;
    pub const RCTL: usize = 0x0100;
    pub const TCTL: usize = 0x0400;
    pub const GPIE: usize = 0x1514;
    pub const EIMS: usize = 0x1524;
    pub const EIMC: usize = 0x1528;
    pub const EIAC: usize = 0x152c;
    pub const EITR0: usize = 0x1680;
    pub const IVAR0: usize = 0x1700;
    pub const RAL0: usize = 0x5400;
    pub const RAH0: usize = 0x5404;
    pub const RX: usize = 0xc000;
    pub const TX: usize = 0xe000;
    /// Of a queue: base address, its length, the kind of descriptors, head, tail, control.
    pub const BASE: usize = 0x00;
    pub const LENGTH: usize = 0x08;
    pub const KIND: usize = 0x0c;
    pub const TAIL: usize = 0x18;
    pub const CONTROL: usize = 0x28;
}
/// CTRL (8.2.1): the link is set up; reset.
const SET_LINK_UP: u32 = 1 << 6;
const RESET: u32 = 1 << 26;
/// STATUS (8.2.2): the link is up.
const LINK_UP: u32 = 1 << 1;
/// MDIC (8.2.4): a write to the control register (IEEE 802.3 22.2.4.1) of the only PHY, by which it finds its link once more; done.
const NEGOTIATE: u32 = 1 << 26 | 1 << 21 | 0x1200;
const MDIC_READY: u32 = 1 << 28;
/// RCTL (8.10.1): on, every destination, broadcasts, checksum stripped.
const RECEIVE: u32 = 1 << 1 | 1 << 3 | 1 << 15 | 1 << 26;
/// TCTL (8.12.1): on, short frames padded.
const TRANSMIT: u32 = 1 << 1 | 1 << 3;
/// GPIE (8.8.18): MSI-X, causes cleared on their own.
const MSIX_MODE: u32 = 1 << 4 | 1 << 30 | 1 << 31;
/// IVAR (8.8.13): valid; vector 0 for what arrives in queue 0.
const ARRIVES: u32 = 0x80;
/// SRRCTL (8.10.2): advanced descriptors, one buffer of 2 KiB.
const ADVANCED: u32 = 1 << 25 | 2;
/// RXDCTL, TXDCTL (8.10.8, 8.12.12): the queue is on.
const QUEUE_ON: u32 = 1 << 25;
/// Advanced data descriptor (7.2.2.3): end of packet, checksum inserted, status reported.
const SEND: u64 = 3 << 20 | (1 << 24 | 1 << 25 | 1 << 27 | 1 << 29);
/// Descriptor done, in what the card writes back (7.1.5.2, 7.2.2.4).
const DONE: u64 = 1;
/// Descriptors of a queue.
const ENTRIES: usize = 64;
/// Buffers of a page.
const PER_PAGE: usize = 2;
const BUFFER_BYTES: usize = PAGE / PER_PAGE;
const PATIENCE_NS: u64 = 10_000_000_000;

/// Descriptors and the buffers that they point at.
struct Ring {
    descriptors: Frames,
    buffers: Frames,
    next: usize,
}

impl Ring {
    fn new() -> Self {
        Self { descriptors: Frames::take(1), buffers: Frames::take(ENTRIES / PER_PAGE), next: 0 }
    }

    fn buffer(&self, index: usize) -> u64 {
        self.buffers.address() + (index * BUFFER_BYTES) as u64
    }

    /// The first word of buffer `index`.
    fn word(index: usize) -> usize {
        index * BUFFER_BYTES / 8
    }
}

/// A card.
pub struct Igb {
    registers: MmioRegion,
    receive: Ring,
    transmit: Ring,
    vector: u8,
}

impl Igb {
    /// The first one that the guest has, its link up; interrupts come by `vector`.
    ///
    /// # Panics
    /// When it does not come up: without it the guest is of no use.
    #[must_use]
    pub fn start(vector: u8) -> Option<Self> {
        let bdf = *devices::find(IDS.0, IDS.1).first()?;
        let config = devices::config();
        let registers = devices::enable(&config, bdf);
        let this = Self { registers, receive: Ring::new(), transmit: Ring::new(), vector };
        this.set(register::CTRL, RESET);
        this.until(bdf, "come out of its reset", |this| this.get(register::CTRL) & RESET == 0);
        assert!(devices::route(&config, bdf, 0, vector), "{bdf} has no MSI-X");
        this.set(register::CTRL, this.get(register::CTRL) | SET_LINK_UP);
        this.set(register::MDIC, NEGOTIATE);
        this.until(bdf, "reach its PHY", |this| this.get(register::MDIC) & MDIC_READY != 0);
        this.set(register::EIMC, u32::MAX);
        this.set(register::GPIE, MSIX_MODE);
        this.set(register::IVAR0, ARRIVES);
        this.set(register::EITR0, 0);
        this.set(register::EIAC, 1);
        this.set(register::EIMS, 1);
        this.queue(register::RX, &this.receive, Some(ADVANCED));
        this.queue(register::TX, &this.transmit, None);
        this.set(register::RCTL, RECEIVE);
        this.set(register::TCTL, TRANSMIT);
        this.until(bdf, "bring its link up", |this| this.get(register::STATUS) & LINK_UP != 0);
        (0..ENTRIES).for_each(|index| this.offer(index));
        // The tail is the first descriptor that the card may not take: one always stays.
        this.set(register::RX + register::TAIL, ENTRIES as u32 - 1);
        Some(this)
    }

    fn get(&self, register: usize) -> u32 {
        self.registers.read_u32(register)
    }

    fn set(&self, register: usize, value: u32) {
        self.registers.write_u32(register, value);
    }

    fn until(&self, bdf: Bdf, what: &str, done: impl Fn(&Self) -> bool) {
        let end = clock::now_ns() + PATIENCE_NS;
        while !done(self) {
            assert!(clock::now_ns() < end, "{bdf} does not {what}");
            interrupts::sleep_ms(1);
        }
    }

    fn queue(&self, at: usize, ring: &Ring, kind: Option<u32>) {
        self.set(at + register::BASE, ring.descriptors.address() as u32);
        self.set(at + register::BASE + 4, (ring.descriptors.address() >> 32) as u32);
        self.set(at + register::LENGTH, (ENTRIES * 16) as u32);
        if let Some(kind) = kind {
            self.set(at + register::KIND, kind);
        }
        self.set(at + register::CONTROL, QUEUE_ON);
    }

    /// Gives descriptor `index` to the card, to be filled.
    fn offer(&self, index: usize) {
        self.receive.descriptors.write(index * 2, self.receive.buffer(index));
        self.receive.descriptors.write(index * 2 + 1, 0);
    }

    /// The card's own address.
    #[must_use]
    pub fn address(&self) -> [u8; 6] {
        let (low, high) = (self.get(register::RAL0).to_le_bytes(), self.get(register::RAH0).to_le_bytes());
        [low[0], low[1], low[2], low[3], high[0], high[1]]
    }

    /// The vector of what arrives.
    #[must_use]
    pub fn vector(&self) -> u8 {
        self.vector
    }

    /// Sends a frame of `bytes` bytes, whose 64-bit words `word` gives; `false` when the card has all descriptors.
    ///
    /// # Panics
    /// The frame is too long.
    pub fn send(&mut self, bytes: usize, word: impl Fn(usize) -> u64) -> bool {
        assert!(bytes <= FRAME_BYTES);
        let ring = &mut self.transmit;
        let index = ring.next;
        // What was sent from here before is done, or it was never used: zeroes.
        let (before, state) = (ring.descriptors.read(index * 2), ring.descriptors.read(index * 2 + 1));
        if before != 0 && state >> 32 & DONE == 0 {
            return false;
        }
        (0..bytes.div_ceil(8)).for_each(|at| ring.buffers.write(Ring::word(index) + at, word(at)));
        ring.descriptors.write(index * 2, ring.buffer(index));
        ring.descriptors.write(index * 2 + 1, bytes as u64 | SEND | (bytes as u64) << (32 + 14));
        ring.next = (index + 1) % ENTRIES;
        let tail = ring.next as u32;
        self.set(register::TX + register::TAIL, tail);
        true
    }

    /// Takes the next frame that has arrived: `take` gets its bytes and its words.
    pub fn receive<T>(&mut self, take: impl FnOnce(usize, &dyn Fn(usize) -> u64) -> T) -> Option<T> {
        let ring = &self.receive;
        let index = ring.next;
        let state = ring.descriptors.read(index * 2 + 1);
        if state & DONE == 0 {
            return None;
        }
        let bytes = usize::from((state >> 32) as u16).min(BUFFER_BYTES);
        let taken = take(bytes, &|at| ring.buffers.read(Ring::word(index) + at));
        self.offer(index);
        self.set(register::RX + register::TAIL, index as u32);
        self.receive.next = (index + 1) % ENTRIES;
        Some(taken)
    }
}
