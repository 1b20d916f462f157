//! A model of a controller with secondary ones, for the driver's tests. Offsets, bits and rules are QEMU's (hw/nvme/ctrl.c,
//! include/block/nvme.h), written down here once more as numbers and not shared with the driver.

extern crate std;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use machine::access::{Clock, Registers};

use crate::net::dma::DmaMemory;

/// Where the device sees the memory: above 4 GiB, so that the high halves count.
pub const IOVA: u64 = 0x1_2340_0000;

/// A secondary controller: id, virtual function from 1, online, queues, interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Virtual {
    pub id: u16,
    pub function: u16,
    pub online: bool,
    pub queues: u16,
    pub interrupts: u16,
}

/// A command as it came: opcode, namespace, double words 10 and 11.
pub type Came = (u8, u32, u32, u32);

pub struct Card {
    pub memory: RefCell<Vec<u8>>,
    pub registers: RefCell<BTreeMap<usize, u64>>,
    pub virtuals: RefCell<Vec<Virtual>>,
    /// Flexible queues and interrupts: in all, of the primary controller, at most for each.
    pub flexible: Cell<[(u32, u16, u16); 2]>,
    pub private: Cell<[u16; 2]>,
    /// Namespaces: who sees them.
    pub namespaces: RefCell<BTreeMap<u32, BTreeSet<u16>>>,
    pub commands: RefCell<Vec<Came>>,
    /// Capabilities.
    pub cap: Cell<u64>,
    /// It never becomes ready.
    pub hangs: Cell<bool>,
    pub fatal: Cell<bool>,
    /// Commands with this opcode are not completed.
    pub silent: Cell<Option<u8>>,
    /// Completions bear another id.
    pub confused: Cell<bool>,
    /// Commands with this opcode end with this status.
    pub refuses: Cell<Option<(u8, u16)>>,
    /// "Online" is taken, and nothing comes of it.
    pub lies: Cell<bool>,
    /// A list of secondary controllers in place of the true one.
    pub list: RefCell<Option<Vec<u8>>>,
    time: Cell<u64>,
    head: Cell<(u32, u32)>,
    phase: Cell<bool>,
    /// The last completion that the driver has seen.
    seen: Cell<u32>,
}

#[derive(Clone)]
pub struct Handle(pub Rc<Card>);

/// `count` virtual functions, controllers 1 and up.
pub fn card(count: u16) -> Rc<Card> {
    let one = |index| Virtual { id: index, function: index, online: false, queues: 0, interrupts: 0 };
    Rc::new(Card {
        memory: RefCell::new(vec![0xee; 3 * 4096]),
        registers: RefCell::default(),
        virtuals: RefCell::new((1..=count).map(one).collect()),
        flexible: Cell::new([(2 * u32::from(count), 2 * count, 2), (u32::from(count), count, 1)]),
        private: Cell::new([3, 2]),
        namespaces: RefCell::new((1..=3).map(|namespace| (namespace, BTreeSet::new())).collect()),
        commands: RefCell::default(),
        // QEMU's: 2048 entries, contiguous, 7.5 s, NVM and administrative command sets, pages up to 64 KiB.
        cap: Cell::new(0x0040_1020_0f01_07ff | 1 << 37),
        hangs: Cell::new(false),
        fatal: Cell::new(false),
        silent: Cell::new(None),
        confused: Cell::new(false),
        refuses: Cell::new(None),
        lies: Cell::new(false),
        list: RefCell::default(),
        time: Cell::new(0),
        head: Cell::new((0, 0)),
        phase: Cell::new(true),
        seen: Cell::new(0),
    })
}

impl Card {
    pub fn get(&self, offset: usize) -> u64 {
        self.registers.borrow().get(&offset).copied().unwrap_or(0)
    }

    fn at(iova: u64) -> usize {
        usize::try_from(iova.checked_sub(IOVA).expect("below the DMA memory")).unwrap()
    }

    fn bytes<const N: usize>(&self, offset: usize) -> [u8; N] {
        self.memory.borrow()[offset..offset + N].try_into().unwrap()
    }

    fn long(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.bytes(offset))
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        self.memory.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// CC.EN goes: secondary controllers go offline, and lose what they had.
    fn stop(&self) {
        for one in self.virtuals.borrow_mut().iter_mut() {
            (one.online, one.queues, one.interrupts) = (false, 0, 0);
        }
        self.head.set((0, 0));
        self.phase.set(true);
        self.seen.set(0);
    }

    fn doorbell(&self, tail: u32) {
        let entries = self.get(0x24) as u32 & 0xfff;
        assert!(tail <= entries, "one past the end");
        while self.head.get().0 != tail {
            let (head, completion) = self.head.get();
            let at = Self::at(self.get(0x28)) + head as usize * 64;
            self.head.set(((head + 1) % (entries + 1), completion));
            let (first, namespace) = (self.long(at), self.long(at + 4));
            let (opcode, id) = (first as u8, (first >> 16) as u16);
            let data = u64::from_le_bytes(self.bytes(at + 24));
            let words = [self.long(at + 40), self.long(at + 44)];
            self.commands.borrow_mut().push((opcode, namespace, words[0], words[1]));
            if self.silent.get() == Some(opcode) {
                return;
            }
            let status = match self.refuses.get() {
                Some((refused, status)) if refused == opcode => status,
                _ => self.execute(opcode, namespace, words, data),
            };
            let id = if self.confused.get() { id ^ 1 } else { id };
            assert_ne!((completion + 1) % (entries + 1), self.seen.get() % (entries + 1), "completions are not taken");
            let to = Self::at(self.get(0x30)) + completion as usize * 16;
            self.put(to, &words[1].to_le_bytes());
            let last = u64::from(id) << 32 | u64::from(self.phase.get()) << 48 | u64::from(status) << 49;
            self.put(to + 8, &last.to_le_bytes());
            let next = (completion + 1) % (entries + 1);
            self.phase.set(self.phase.get() ^ (next == 0));
            self.head.set((self.head.get().0, next));
        }
    }

    /// Status type and code.
    fn execute(&self, opcode: u8, namespace: u32, [word10, word11]: [u32; 2], data: u64) -> u16 {
        match opcode {
            0x06 => self.identify(word10 as u8, (word10 >> 16) as u16, namespace, Self::at(data)),
            0x1c => self.manage(word10 & 0xf, word10 >> 8 & 7, (word10 >> 16) as u16, word11 as u16),
            0x15 => {
                let at = Self::at(data);
                assert_eq!(u16::from_le_bytes(self.bytes(at)), 1, "one controller at a time");
                let controller = u16::from_le_bytes(self.bytes(at + 2));
                let mut namespaces = self.namespaces.borrow_mut();
                let Some(seen) = namespaces.get_mut(&namespace) else { return 0x00b };
                match word10 & 0xf {
                    0 if seen.contains(&controller) => 0x118,
                    // Private to another.
                    0 if !seen.is_empty() => 0x119,
                    0 => u16::from(!seen.insert(controller)),
                    _ if seen.remove(&controller) => 0,
                    _ => 0x11a,
                }
            }
            _ => 0x001,
        }
    }

    fn manage(&self, action: u32, kind: u32, controller: u16, count: u16) -> u16 {
        let kind = kind as usize;
        let mut flexible = self.flexible.get();
        if action == 1 {
            assert_eq!(controller, 0, "the primary controller's id");
            flexible[kind].1 = count;
            self.flexible.set(flexible);
            return 0;
        }
        let mut virtuals = self.virtuals.borrow_mut();
        let used: u32 = virtuals.iter().map(|one| u32::from([one.queues, one.interrupts][kind])).sum();
        let Some(one) = virtuals.iter_mut().find(|one| one.id == controller) else { return 0x11f };
        match action {
            8 if one.online => return 0x120,
            8 if count > flexible[kind].2 => return 0x121,
            8 if u32::from(count) + used + u32::from(flexible[kind].1) > flexible[kind].0 => return 0x122,
            8 if kind == 0 => one.queues = count,
            8 => one.interrupts = count,
            9 if one.queues < 2 || one.interrupts < 1 => return 0x120,
            9 => one.online = !self.lies.get(),
            7 => (one.online, one.queues, one.interrupts) = (false, 0, 0),
            _ => return 0x002,
        }
        0
    }

    fn identify(&self, structure: u8, from: u16, namespace: u32, at: usize) -> u16 {
        let mut page = vec![0; 4096];
        match structure {
            0x10 => {
                for (index, id) in self.namespaces.borrow().keys().enumerate() {
                    page[index * 4..index * 4 + 4].copy_from_slice(&id.to_le_bytes());
                }
            }
            0x12 => {
                let namespaces = self.namespaces.borrow();
                let Some(seen) = namespaces.get(&namespace) else { return 0x00b };
                page[0] = seen.len() as u8;
                for (index, id) in seen.iter().enumerate() {
                    page[index * 2 + 2..index * 2 + 4].copy_from_slice(&id.to_le_bytes());
                }
            }
            0x14 => {
                page[4] = 3;
                for (kind, (total, primary, most)) in self.flexible.get().into_iter().enumerate() {
                    let at = 32 + kind * 32;
                    page[at..at + 4].copy_from_slice(&total.to_le_bytes());
                    page[at + 8..at + 10].copy_from_slice(&primary.to_le_bytes());
                    page[at + 10..at + 12].copy_from_slice(&self.private.get()[kind].to_le_bytes());
                    page[at + 12..at + 14].copy_from_slice(&most.to_le_bytes());
                    page[at + 14] = 1;
                }
            }
            0x15 => match &*self.list.borrow() {
                Some(list) => page[..list.len()].copy_from_slice(list),
                None => {
                    let virtuals = self.virtuals.borrow();
                    let rest = virtuals.iter().filter(|one| one.id >= from).take(127);
                    for (index, one) in rest.enumerate() {
                        let at = 32 + index * 32;
                        page[0] = index as u8 + 1;
                        page[at..at + 2].copy_from_slice(&one.id.to_le_bytes());
                        page[at + 4] = one.online.into();
                        page[at + 8..at + 10].copy_from_slice(&one.function.to_le_bytes());
                        page[at + 10..at + 12].copy_from_slice(&one.queues.to_le_bytes());
                        page[at + 12..at + 14].copy_from_slice(&one.interrupts.to_le_bytes());
                    }
                }
            },
            _ => return 0x002,
        }
        self.put(at, &page);
        0
    }
}

impl Registers for Handle {
    fn read32(&self, offset: usize) -> u32 {
        let card = &self.0;
        match offset {
            _ if card.cap.get() == u64::MAX => u32::MAX,
            0x1c => {
                let enabled = card.get(0x14) & 1 != 0;
                u32::from(enabled && !card.hangs.get()) | u32::from(enabled && card.fatal.get()) << 1
            }
            _ => card.get(offset) as u32,
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        let card = &self.0;
        if offset == 0x14 && value & 1 == 0 {
            card.stop();
        }
        match offset {
            0x1000 => {
                assert_eq!(card.get(0x14), 0x0046_0001, "CC: enabled, NVM, 4 KiB, 64 and 16 bytes");
                card.doorbell(value);
            }
            0x1004 => card.seen.set(value),
            _ => {
                card.registers.borrow_mut().insert(offset, value.into());
            }
        }
    }

    fn read64(&self, offset: usize) -> u64 {
        assert_eq!(offset, 0);
        self.0.cap.get()
    }

    fn write64(&self, offset: usize, value: u64) {
        assert_eq!(self.0.get(0x14) & 1, 0, "queues are set up while the controller is off");
        self.0.registers.borrow_mut().insert(offset, value);
    }
}

impl Clock for Handle {
    fn ticks(&self) -> u64 {
        self.0.time.set(self.0.time.get() + 1);
        self.0.time.get()
    }

    fn ticks_per_ms(&self) -> u64 {
        1
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
        self.0.put(offset, bytes);
    }

    fn read_u64(&self, offset: usize) -> u64 {
        assert_eq!(offset % 8, 0);
        u64::from_le_bytes(self.0.bytes(offset))
    }

    fn write_u64(&mut self, offset: usize, value: u64) {
        assert_eq!(offset % 8, 0);
        self.0.put(offset, &value.to_le_bytes());
    }
}
