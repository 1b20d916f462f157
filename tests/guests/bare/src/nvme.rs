//! NVMe (NVM Express 1.4): one admin queue, I/O queues with an interrupt each, and data wherever the caller says.

use alloc::vec::Vec;

use machine::mmio::MmioRegion;
use machine::pci::Bdf;

use crate::load::Disk;
use crate::memory::Frames;
use crate::{clock, devices, interrupts};

/// Vendor and device id of QEMU's.
pub const IDS: (u16, u16) = (0x1b36, 0x0010);
/// Bytes of a sector of QEMU's namespaces.
pub const SECTOR: u64 = 512;

/// Registers (NVMe 1.4 3.1).
mod register {
    pub const CAP: usize = 0x00;
    pub const CC: usize = 0x14;
    pub const CSTS: usize = 0x1c;
    pub const AQA: usize = 0x24;
    pub const ASQ: usize = 0x28;
    pub const ACQ: usize = 0x30;
    pub const DOORBELLS: usize = 0x1000;
}
const READY: u32 = 1;
/// Enabled, 64-byte submissions, 16-byte completions.
const ENABLE: u32 = 1 | 6 << 16 | 4 << 20;
const CREATE_SUBMISSION: u32 = 0x01;
const CREATE_COMPLETION: u32 = 0x05;
const IDENTIFY: u32 = 0x06;
/// The namespaces that the controller has, lowest id first (NVMe 1.4 5.15.2.2).
const ACTIVE_NAMESPACES: u64 = 0x02;
const WRITE: u32 = 0x01;
const READ: u32 = 0x02;
/// Entries of each queue: a page of submissions.
const ENTRIES: u16 = 64;
const PATIENCE_NS: u64 = 10_000_000_000;
const POLL_NS: u64 = 1_000_000_000;

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From memory to the disk: the device reads memory.
    Write,
    /// From the disk to memory: the device writes memory.
    Read,
}

/// A completed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Who it was.
    pub id: u16,
    /// Status code and its type; 0 is success (NVMe 1.4 4.6.1).
    pub status: u16,
}

/// A pair of queues.
struct Queue {
    submissions: Frames,
    completions: Frames,
    tail: u16,
    head: u16,
    phase: u16,
}

impl Queue {
    fn new() -> Self {
        Self { submissions: Frames::take(1), completions: Frames::take(1), tail: 0, head: 0, phase: 1 }
    }

    /// Puts a command in; the device does not know yet.
    fn push(&mut self, command: [u64; 8]) {
        for (word, value) in command.into_iter().enumerate() {
            self.submissions.write(usize::from(self.tail) * 8 + word, value);
        }
        self.tail = (self.tail + 1) % ENTRIES;
    }

    fn pop(&mut self) -> Option<Completion> {
        let last = self.completions.read(usize::from(self.head) * 2 + 1);
        if (last >> 48) as u16 & 1 != self.phase {
            return None;
        }
        self.head = (self.head + 1) % ENTRIES;
        if self.head == 0 {
            self.phase ^= 1;
        }
        Some(Completion { id: (last >> 32) as u16, status: (last >> 49) as u16 & 0x7ff })
    }
}

/// A controller.
pub struct Nvme {
    bdf: Bdf,
    registers: MmioRegion,
    stride: usize,
    admin: Queue,
    /// I/O queue n is at n - 1, and its interrupt is entry n of the MSI-X table.
    io: Vec<Queue>,
    /// Of the first I/O queue; the others follow.
    vector: u8,
    /// The first that the controller has.
    namespace: u64,
}

impl Nvme {
    /// Every controller that the guest has, brought up.
    ///
    /// # Panics
    /// When one does not come up: without it the guest is of no use.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let found = devices::find(IDS.0, IDS.1);
        found.into_iter().zip(interrupts::DEVICES..).map(|(bdf, vector)| Self::start(bdf, vector, 1)).collect()
    }

    /// The first controller that the guest has, brought up with so many I/O queues.
    ///
    /// # Panics
    /// As for [`all`](Self::all).
    #[must_use]
    pub fn with_queues(queues: u16) -> Option<Self> {
        let bdf = *devices::find(IDS.0, IDS.1).first()?;
        Some(Self::start(bdf, interrupts::DEVICES, queues))
    }

    fn start(bdf: Bdf, vector: u8, queues: u16) -> Self {
        let config = devices::config();
        let registers = devices::enable(&config, bdf);
        let capabilities = registers.read_u64(register::CAP);
        let stride = 4usize << (capabilities >> 32 & 0xf);
        let io = (0..queues).map(|_| Queue::new()).collect();
        let mut this = Self { bdf, registers, stride, admin: Queue::new(), io, vector, namespace: 0 };
        registers.write_u32(register::CC, 0);
        this.await_ready(false);
        registers.write_u32(register::AQA, u32::from(ENTRIES - 1) << 16 | u32::from(ENTRIES - 1));
        registers.write_u64(register::ASQ, this.admin.submissions.address());
        registers.write_u64(register::ACQ, this.admin.completions.address());
        registers.write_u32(register::CC, ENABLE);
        this.await_ready(true);
        let list = Frames::take(1);
        this.administer(IDENTIFY, list.address(), ACTIVE_NAMESPACES, 0);
        this.namespace = list.read(0) & 0xffff_ffff;
        assert!(this.namespace != 0, "{bdf} has no namespace");
        for (queue, vector) in (1..=queues).zip(vector..) {
            assert!(devices::route(&config, bdf, queue, vector), "{bdf} has no MSI-X entry {queue}");
            // NVMe 1.4 5.3, 5.4: physically contiguous; the completion queue with its interrupt.
            let size = u64::from(ENTRIES - 1) << 16 | u64::from(queue);
            let at = this.queue(queue);
            let (completions, submissions) = (at.completions.address(), at.submissions.address());
            this.administer(CREATE_COMPLETION, completions, size, u64::from(queue) << 16 | 3);
            this.administer(CREATE_SUBMISSION, submissions, size, u64::from(queue) << 16 | 1);
        }
        this
    }

    /// I/O queue `queue`, from 1.
    fn queue(&mut self, queue: u16) -> &mut Queue {
        &mut self.io[usize::from(queue) - 1]
    }

    /// The vector of I/O queue `queue`, from 1.
    #[must_use]
    pub fn vector(&self, queue: u16) -> u8 {
        self.vector + (queue - 1) as u8
    }

    /// Its place on the guest's bus.
    #[must_use]
    pub fn bdf(&self) -> Bdf {
        self.bdf
    }

    fn await_ready(&self, ready: bool) {
        let end = clock::now_ns() + PATIENCE_NS;
        while (self.registers.read_u32(register::CSTS) & READY != 0) != ready {
            assert!(clock::now_ns() < end, "{} does not become ready ({ready})", self.bdf);
            interrupts::sleep_ms(1);
        }
    }

    fn doorbell(&self, queue: u16, completions: bool, value: u16) {
        let index = usize::from(queue) * 2 + usize::from(completions);
        self.registers.write_u32(register::DOORBELLS + index * self.stride, value.into());
    }

    fn administer(&mut self, opcode: u32, address: u64, dw10: u64, dw11: u64) {
        self.admin.push([opcode.into(), 0, 0, address, 0, dw10 | dw11 << 32, 0, 0]);
        self.doorbell(0, false, self.admin.tail);
        let end = clock::now_ns() + PATIENCE_NS;
        let completion = loop {
            if let Some(completion) = self.admin.pop() {
                break completion;
            }
            assert!(clock::now_ns() < end, "{} does not answer command {opcode:#x}", self.bdf);
            interrupts::sleep_ms(1);
        };
        self.doorbell(0, true, self.admin.head);
        assert!(completion.status == 0, "{} refuses command {opcode:#x}: {:#x}", self.bdf, completion.status);
    }

    /// A completion, if there is one.
    pub fn completed(&mut self) -> Option<Completion> {
        self.completed_on(1)
    }

    /// A completion of I/O queue `queue`, from 1, if there is one.
    pub fn completed_on(&mut self, queue: u16) -> Option<Completion> {
        let completion = self.queue(queue).pop()?;
        let head = self.queue(queue).head;
        self.doorbell(queue, true, head);
        Some(completion)
    }

    /// Starts a transfer on I/O queue `queue`, from 1, as [`Disk::submit`] does on the first.
    pub fn submit_on(&mut self, queue: u16, id: u16, direction: Direction, address: u64, sector: u64, sectors: u64) {
        let opcode = if direction == Direction::Write { WRITE } else { READ };
        let second = (address & !0xfff).wrapping_add(0x1000);
        let namespace = self.namespace;
        // Opcode and id, namespace; metadata; two pages; first sector; sectors less one.
        self.queue(queue).push([
            u64::from(opcode) | u64::from(id) << 16 | namespace << 32,
            0,
            0,
            address,
            second,
            sector,
            sectors.saturating_sub(1),
            0,
        ]);
        let tail = self.queue(queue).tail;
        self.doorbell(queue, false, tail);
    }

    /// Waits for a completion for a while, without its interrupt; `None` when it doesn't come.
    pub fn poll(&mut self) -> Option<Completion> {
        let end = clock::now_ns() + POLL_NS;
        while clock::now_ns() < end {
            if let Some(completion) = self.completed() {
                return Some(completion);
            }
            interrupts::sleep_ms(1);
        }
        None
    }
}

impl Disk for Nvme {
    /// At most two pages, the second right behind the first.
    fn submit(&mut self, id: u16, direction: Direction, address: u64, sector: u64, sectors: u64) {
        self.submit_on(1, id, direction, address, sector, sectors);
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
