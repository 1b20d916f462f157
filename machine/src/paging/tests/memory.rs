//! Memory that remembers every store, flush, allocation and free.

use crate::access::TableMemory;
use crate::addr::HostPhys;
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

/// What a walker finds where nothing was ever written back: never a valid entry's bits.
pub const GARBAGE: u64 = 0xdead_dead_dead_dead;

pub type Frame = Vec<u64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    Allocate(u64),
    Free(u64),
    Write(u64, u64),
    Flush(u64, u64),
}

#[derive(Clone, Default, Debug)]
pub struct Memory {
    /// Frames handed out, as the CPU sees them.
    pub frames: BTreeMap<u64, Frame>,
    pub events: Vec<Event>,
    /// How many frames there are, if bounded.
    pub limit: Option<usize>,
    pub next: u64,
    /// Bits that hardware sets in an entry just before it is next updated.
    pub late: Option<(u64, u64)>,
}

impl Memory {
    pub fn read_entry(&self, entry: u64) -> Option<u64> {
        self.frames.get(&(entry & !0xfff)).map(|frame| frame[(entry as usize & 0xfff) / 8])
    }

    /// What a walker that does not snoop may see, if everything so far was written back.
    pub fn written_back(&self) -> Replay {
        Replay { coherent: self.frames.clone(), visible: self.frames.clone() }
    }
}

impl TableMemory for Memory {
    fn allocate(&mut self) -> Option<HostPhys> {
        if self.limit.is_some_and(|limit| self.frames.len() >= limit) {
            return None;
        }
        // Every frame has an address of its own: nothing freed comes back in disguise.
        self.next += 1;
        let frame = 0x7_0000_0000 + self.next * 0x1000;
        self.frames.insert(frame, vec![0; 512]);
        self.events.push(Event::Allocate(frame));
        Some(HostPhys(frame))
    }

    fn free(&mut self, frame: HostPhys) {
        assert!(self.frames.remove(&frame.0).is_some(), "{frame} freed twice or never allocated");
        self.events.push(Event::Free(frame.0));
    }

    fn read(&self, entry: HostPhys) -> u64 {
        self.read_entry(entry.0).expect("a read outside the tables")
    }

    fn write(&mut self, entry: HostPhys, value: u64) {
        let frame = self.frames.get_mut(&(entry.0 & !0xfff)).expect("a write outside the tables");
        frame[(entry.0 as usize & 0xfff) / 8] = value;
        self.events.push(Event::Write(entry.0, value));
    }

    fn update(&mut self, entry: HostPhys, clear: u64, set: u64) -> u64 {
        // What hardware does in the moment between a read and the update.
        if let Some((_, bits)) = self.late.take_if(|(at, _)| *at == entry.0) {
            self.frames.get_mut(&(entry.0 & !0xfff)).unwrap()[(entry.0 as usize & 0xfff) / 8] |= bits;
        }
        let old = self.read(entry);
        self.write(entry, old & !clear | set);
        old
    }

    fn write_pair(&mut self, _: HostPhys, _: [u64; 2]) {
        panic!("page tables have no pairs");
    }

    fn flush(&mut self, address: HostPhys, bytes: u64) {
        self.events.push(Event::Flush(address.0, bytes));
    }
}

/// The history of a [`Memory`], played again event by event.
pub struct Replay {
    pub coherent: BTreeMap<u64, Frame>,
    /// As a walker sees it that does not snoop.
    pub visible: BTreeMap<u64, Frame>,
}

impl Replay {
    pub fn step(&mut self, event: Event) {
        match event {
            Event::Allocate(frame) => {
                self.coherent.insert(frame, vec![0; 512]);
                self.visible.insert(frame, vec![GARBAGE; 512]);
            }
            Event::Free(frame) => {
                self.coherent.remove(&frame);
                self.visible.remove(&frame);
            }
            Event::Write(entry, value) => {
                let frame = self.coherent.get_mut(&(entry & !0xfff)).unwrap();
                frame[(entry as usize & 0xfff) / 8] = value;
            }
            Event::Flush(address, bytes) => {
                // Whole cache lines, as CLFLUSH does.
                let (first, last) = (address & !63, (address + bytes - 1) | 63);
                for entry in (first..last).step_by(8) {
                    let index = (entry as usize & 0xfff) / 8;
                    let value = self.coherent[&(entry & !0xfff)][index];
                    self.visible.get_mut(&(entry & !0xfff)).unwrap()[index] = value;
                }
            }
        }
    }
}
