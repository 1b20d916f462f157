//! A model of the 82574's registers and rings, for the driver's tests. Offsets and
//! bits are QEMU's (hw/net/e1000x_regs.h, e1000e_core.c), written down here once
//! more as numbers and not shared with the driver.

extern crate std;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use machine::access::{Clock, Registers};

use super::super::dma::DmaMemory;

/// Where the device sees the memory: above 4 GiB, so that the high halves count.
pub const IOVA: u64 = 0x1_2340_0000;

pub struct Card {
    pub registers: RefCell<BTreeMap<usize, u32>>,
    pub memory: RefCell<Vec<u8>>,
    /// Frames on the wire.
    pub sent: RefCell<Vec<Vec<u8>>>,
    /// Offsets in the order they were written.
    pub writes: RefCell<Vec<usize>>,
    pub mac: [u8; 6],
    pub address_valid: Cell<bool>,
    pub reset_hangs: Cell<bool>,
    pub eeprom_hangs: Cell<bool>,
    pub never_quiet: Cell<bool>,
    /// Descriptors are taken, but not reported as sent.
    pub tx_hangs: Cell<bool>,
    pub absent: Cell<bool>,
    pub overruns: Cell<u32>,
    pub time: Cell<u64>,
}

#[derive(Clone)]
pub struct Handle(pub Rc<Card>);

pub fn card(memory_bytes: usize) -> Rc<Card> {
    let card = Card {
        registers: RefCell::new(BTreeMap::new()),
        memory: RefCell::new(vec![0xee; memory_bytes]),
        sent: RefCell::default(),
        writes: RefCell::default(),
        mac: [0x52, 0x54, 0x00, 0x12, 0x34, 0x56],
        address_valid: Cell::new(true),
        reset_hangs: Cell::new(false),
        eeprom_hangs: Cell::new(false),
        never_quiet: Cell::new(false),
        tx_hangs: Cell::new(false),
        absent: Cell::new(false),
        overruns: Cell::new(0),
        time: Cell::new(0),
    };
    card.reset();
    Rc::new(card)
}

impl Card {
    pub fn get(&self, offset: usize) -> u32 {
        self.registers.borrow().get(&offset).copied().unwrap_or(0)
    }

    pub fn set(&self, offset: usize, value: u32) {
        self.registers.borrow_mut().insert(offset, value);
    }

    fn reset(&self) {
        let mut registers = self.registers.borrow_mut();
        registers.clear();
        registers.insert(0x0000, 0x0014_0241); // CTRL: FD, SLU, 1000 Mb/s
        registers.insert(0x5400, 0x1200_5452); // RAL
        registers.insert(0x5404, 0x5634 | if self.address_valid.get() { 1 << 31 } else { 0 });
        registers.insert(0x5200, 0xffff_ffff); // MTA: not initialized by a reset
        registers.insert(0x53fc, 0xffff_ffff);
    }

    pub fn masked_causes(&self) -> u32 {
        self.get(0xc0) & self.get(0xd0)
    }

    /// Whether the card raises its MSI for `causes`: only when none was pending.
    pub fn raise(&self, causes: u32) -> bool {
        let before = self.masked_causes();
        self.set(0xc0, self.get(0xc0) | causes);
        before == 0 && self.masked_causes() != 0
    }

    fn at(iova: u64) -> usize {
        usize::try_from(iova.checked_sub(IOVA).expect("below the DMA memory")).unwrap()
    }

    fn word(&self, offset: usize) -> u64 {
        let memory = self.memory.borrow();
        u64::from_le_bytes(memory[offset..offset + 8].try_into().unwrap())
    }

    pub fn poke(&self, offset: usize, value: u64) {
        self.memory.borrow_mut()[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn ring(&self, base: usize) -> (usize, u32) {
        let low = u64::from(self.get(base));
        let high = u64::from(self.get(base + 4));
        assert_eq!(self.get(base + 8) % 128, 0, "ring length");
        (Self::at(low | high << 32), self.get(base + 8) / 16)
    }

    /// A frame from the wire, with the second descriptor word's status and errors as given.
    pub fn deliver_as(&self, frame: &[u8], length: u64, status: u64, errors: u64) -> bool {
        if self.get(0x100) & 2 == 0 {
            return false;
        }
        let (ring, count) = self.ring(0x2800);
        let (head, tail) = (self.get(0x2810), self.get(0x2818));
        assert!(head < count && tail < count, "one past the end");
        if head == tail {
            self.overruns.set(self.overruns.get() + 1);
            self.raise(1 << 6);
            return false;
        }
        let descriptor = ring + 16 * head as usize;
        let buffer = Self::at(self.word(descriptor));
        assert_eq!(self.word(descriptor + 8), 0, "a descriptor is cleared before it is given back");
        self.memory.borrow_mut()[buffer..buffer + frame.len()].copy_from_slice(frame);
        self.poke(descriptor + 8, length | status << 32 | errors << 40);
        self.set(0x2810, (head + 1) % count);
        self.raise(1 << 7);
        true
    }

    pub fn deliver(&self, frame: &[u8]) -> bool {
        self.deliver_as(frame, frame.len() as u64, 3, 0)
    }

    fn transmit(&self) {
        if self.get(0x400) & 2 == 0 {
            return;
        }
        let (ring, count) = self.ring(0x3800);
        let tail = self.get(0x3818);
        assert!(tail < count, "one past the end");
        while self.get(0x3810) != tail {
            let head = self.get(0x3810);
            let descriptor = ring + 16 * head as usize;
            let command = self.word(descriptor + 8);
            // EOP, IFCS, RS; no DEXT.
            assert_eq!(command >> 24 & 0xff, 0x0b);
            let buffer = Self::at(self.word(descriptor));
            let length = (command & 0xffff) as usize;
            self.sent.borrow_mut().push(self.memory.borrow()[buffer..buffer + length].to_vec());
            if !self.tx_hangs.get() {
                self.poke(descriptor + 8, command | 1 << 32);
            }
            self.set(0x3810, (head + 1) % count);
        }
    }
}

impl Registers for Handle {
    fn read32(&self, offset: usize) -> u32 {
        let card = &self.0;
        if card.absent.get() {
            return u32::MAX;
        }
        match offset {
            0x0000 if card.reset_hangs.get() => card.get(0) | 1 << 26,
            0x0008 => {
                let quiet = card.get(0) & 4 != 0 && !card.never_quiet.get();
                0x0000_0083 | if quiet { 0 } else { 1 << 19 }
            }
            0x0010 => 0x100 | if card.eeprom_hangs.get() { 0 } else { 1 << 9 },
            0x00c0 => {
                let causes = card.get(0xc0);
                card.set(0xc0, 0);
                causes
            }
            _ => card.get(offset),
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        let card = &self.0;
        card.writes.borrow_mut().push(offset);
        match offset {
            0x0000 if value & 1 << 26 != 0 => card.reset(),
            0x00d0 => card.set(0xd0, card.get(0xd0) | value),
            0x00d8 => card.set(0xd0, card.get(0xd0) & !value),
            _ => card.set(offset, value),
        }
        if offset == 0x3818 || offset == 0x400 {
            card.transmit();
        }
    }

    fn read64(&self, _offset: usize) -> u64 {
        panic!("the card has 32-bit registers");
    }

    fn write64(&self, _offset: usize, _value: u64) {
        panic!("the card has 32-bit registers");
    }
}

impl Clock for Handle {
    fn ticks(&self) -> u64 {
        self.0.time.set(self.0.time.get() + 1);
        self.0.time.get()
    }

    fn ticks_per_ms(&self) -> u64 {
        10
    }
}

impl DmaMemory for Handle {
    fn bytes(&self) -> usize {
        self.0.memory.borrow().len()
    }

    fn iova(&self, offset: usize) -> u64 {
        IOVA + offset as u64
    }

    fn read(&self, offset: usize, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0.memory.borrow()[offset..offset + buffer.len()]);
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.0.memory.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn read_u64(&self, offset: usize) -> u64 {
        assert_eq!(offset % 8, 0);
        self.0.word(offset)
    }

    fn write_u64(&mut self, offset: usize, value: u64) {
        assert_eq!(offset % 8, 0);
        self.0.poke(offset, value);
    }
}
