//! Memory with two views: what the CPU wrote, and what was written back from its caches. Behind
//! a write buffer (CAP.RWBF) units see of either only what there was at its last flush.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use machine::access::TableMemory;
use machine::addr::{HostPhys, PAGE_SIZE};

/// What a frame holds that nobody zeroed, or that was freed: entries that look present.
const POISON: u64 = 0x0000_00de_adbe_e003;
/// Bytes of a cache line.
const LINE: u64 = 64;

type Frame = Box<[u64; 512]>;
type Frames = BTreeMap<u64, Frame>;

#[derive(Debug, Default)]
struct Inner {
    cpu: Frames,
    written_back: Frames,
    /// What left the write buffer, of either; `None` without one.
    settled: Option<[Frames; 2]>,
    /// Frames with something in the write buffer.
    buffered: BTreeSet<u64>,
    allocated: BTreeMap<u64, ()>,
    free: Vec<u64>,
    next: u64,
    limit: Option<usize>,
    writes: u64,
}

/// Frames for tables. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct ModelMemory {
    inner: Rc<RefCell<Inner>>,
    /// This walker is behind the write buffer.
    buffered: bool,
}

impl Default for ModelMemory {
    fn default() -> Self {
        let inner = Inner { next: 0x1_0000_0000, ..Inner::default() };
        Self { inner: Rc::new(RefCell::new(inner)), buffered: false }
    }
}

impl ModelMemory {
    /// Frames in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.inner.borrow().allocated.len()
    }

    /// Whether a frame is in use.
    #[must_use]
    pub fn holds(&self, frame: HostPhys) -> bool {
        self.inner.borrow().allocated.contains_key(&frame.0)
    }

    /// From here on at most so many frames can be in use.
    pub fn limit(&self, frames: usize) {
        self.inner.borrow_mut().limit = Some(frames);
    }

    /// Writes by the CPU so far, frames given out and taken back included.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.inner.borrow().writes
    }

    /// The same memory for a walker behind a write buffer: what the CPU writes from here on stays in
    /// it until [`settle`](Self::settle).
    pub(crate) fn behind_buffer(&self) -> Self {
        self.inner.borrow_mut().settled.get_or_insert_default();
        self.settle();
        Self { buffered: true, ..self.clone() }
    }

    /// Flushes the write buffer.
    pub(crate) fn settle(&self) {
        let Inner { cpu, written_back, settled, buffered, .. } = &mut *self.inner.borrow_mut();
        let Some(settled) = settled else { return };
        for frame in core::mem::take(buffered) {
            for (to, from) in settled.iter_mut().zip([&*cpu, &*written_back]) {
                if let Some(words) = from.get(&frame) {
                    to.insert(frame, words.clone());
                }
            }
        }
    }

    /// What a walker reads.
    pub(crate) fn walker_read(&self, at: u64, snoops: bool) -> u64 {
        let inner = self.inner.borrow();
        let view = match (inner.settled.as_ref().filter(|_| self.buffered), snoops) {
            (Some([cpu, _]), true) => cpu,
            (Some([_, written_back]), false) => written_back,
            (None, true) => &inner.cpu,
            (None, false) => &inner.written_back,
        };
        view.get(&(at & !(PAGE_SIZE - 1))).map_or(u64::MAX, |frame| frame[(at % PAGE_SIZE / 8) as usize])
    }

    /// A read by a device that snoops.
    pub(crate) fn device_read(&self, at: u64) -> u64 {
        self.read(HostPhys(at))
    }

    /// Bits set by a device in one step; they are seen by all.
    pub(crate) fn device_or(&self, at: u64, bits: u64) {
        let word = self.device_read(at) | bits;
        self.device_write32(at, word as u32);
        self.device_write32(at + 4, (word >> 32) as u32);
    }

    /// A write of 4 bytes by a device; it is seen by all.
    pub(crate) fn device_write32(&self, at: u64, value: u32) {
        let inner = &mut *self.inner.borrow_mut();
        let settled = inner.settled.iter_mut().flatten();
        for view in [&mut inner.cpu, &mut inner.written_back].into_iter().chain(settled) {
            if let Some(frame) = view.get_mut(&(at & !(PAGE_SIZE - 1))) {
                let word = &mut frame[(at % PAGE_SIZE / 8) as usize];
                let shift = at % 8 * 8;
                *word = *word & !(0xffff_ffff << shift) | u64::from(value) << shift;
            }
        }
    }
}

impl TableMemory for ModelMemory {
    fn allocate(&mut self) -> Option<HostPhys> {
        let inner = &mut *self.inner.borrow_mut();
        if inner.limit.is_some_and(|limit| inner.allocated.len() >= limit) {
            return None;
        }
        let frame = inner.free.pop().unwrap_or(inner.next);
        inner.next = inner.next.max(frame + PAGE_SIZE);
        inner.cpu.insert(frame, Box::new([0; 512]));
        inner.written_back.insert(frame, Box::new([POISON; 512]));
        inner.allocated.insert(frame, ());
        inner.buffered.insert(frame);
        inner.writes += 1;
        Some(HostPhys(frame))
    }

    fn free(&mut self, frame: HostPhys) {
        let inner = &mut *self.inner.borrow_mut();
        assert!(inner.allocated.remove(&frame.0).is_some(), "{frame} is freed, but not in use");
        inner.cpu.insert(frame.0, Box::new([POISON; 512]));
        inner.written_back.insert(frame.0, Box::new([POISON; 512]));
        inner.buffered.insert(frame.0);
        inner.free.insert(0, frame.0);
        inner.writes += 1;
    }

    fn read(&self, entry: HostPhys) -> u64 {
        let frame = entry.0 & !(PAGE_SIZE - 1);
        let inner = self.inner.borrow();
        inner.cpu.get(&frame).map_or(u64::MAX, |frame| frame[(entry.0 % PAGE_SIZE / 8) as usize])
    }

    fn write(&mut self, entry: HostPhys, value: u64) {
        let inner = &mut *self.inner.borrow_mut();
        assert!(entry.is_aligned(8), "entry {entry} is not aligned");
        inner.writes += 1;
        inner.buffered.insert(entry.0 & !(PAGE_SIZE - 1));
        let frame = inner.cpu.get_mut(&(entry.0 & !(PAGE_SIZE - 1)));
        frame.expect("a write to memory that is not there")[(entry.0 % PAGE_SIZE / 8) as usize] = value;
    }

    fn update(&mut self, entry: HostPhys, clear: u64, set: u64) -> u64 {
        let old = self.read(entry);
        self.write(entry, old & !clear | set);
        old
    }

    fn write_pair(&mut self, entry: HostPhys, value: [u64; 2]) {
        assert!(entry.is_aligned(16), "pair {entry} is not aligned");
        self.write(entry, value[0]);
        self.write(HostPhys(entry.0 + 8), value[1]);
    }

    fn flush(&mut self, address: HostPhys, bytes: u64) {
        let inner = &mut *self.inner.borrow_mut();
        let mut at = address.0 & !(LINE - 1);
        while at < address.0 + bytes {
            let (page, word) = (at & !(PAGE_SIZE - 1), (at % PAGE_SIZE / 8) as usize);
            if let (Some(from), Some(to)) = (inner.cpu.get(&page), inner.written_back.get_mut(&page)) {
                to[word..word + 8].copy_from_slice(&from[word..word + 8]);
                inner.buffered.insert(page);
            }
            at += LINE;
        }
    }
}
