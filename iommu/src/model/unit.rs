//! The register file: VT-d 11.4.

use super::caches::Caches;
use super::device::DeviceTlb;
use super::memory::ModelMemory;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt::Write;
use machine::access::Registers;

pub(super) const TE: u32 = 1 << 31;
pub(super) const SRTP: u32 = 1 << 30;
pub(super) const WBF: u32 = 1 << 27;
pub(super) const QIE: u32 = 1 << 26;
pub(super) const IRE: u32 = 1 << 25;
pub(super) const SIRTP: u32 = 1 << 24;
pub(super) const CFI: u32 = 1 << 23;
const RWBF: u64 = 1 << 4;
const ESRTPS: u64 = 1 << 63;
const ESIRTPS: u64 = 1 << 62;
const ONE_SHOT: u32 = SRTP | WBF | SIRTP | 1 << 29;
pub(super) const PFO: u32 = 1;
pub(super) const PPF: u32 = 2;
pub(super) const IQE: u32 = 1 << 4;
pub(super) const ICE: u32 = 1 << 5;
pub(super) const ITE: u32 = 1 << 6;

/// How the unit fails. Nothing is set at first.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    /// Bits of GSTS that never change.
    pub stuck: u32,
    /// Protected memory stays on.
    pub stuck_protection: bool,
    /// The queue is never looked at.
    pub dead_queue: bool,
    /// So many descriptors are found bad (IQE), after `reject_after` good ones.
    pub reject: u32,
    /// See `reject`.
    pub reject_after: u32,
    /// Good descriptors between two bad ones.
    pub reject_gap: u32,
    /// So many device-TLB invalidations time out (ITE).
    pub device_timeouts: u32,
    /// So many completions come unasked (ICE).
    pub spurious_completions: u32,
    /// GSTS shows a command's result only when it was read so often.
    pub slow: u32,
    /// The queue is looked at only when FSTS was read so often after the tail was written.
    pub slow_queue: u32,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) memory: ModelMemory,
    pub(super) cap: u64,
    pub(super) ecap: u64,
    pub(super) gsts: u32,
    pub(super) rtaddr: u64,
    pub(super) root: u64,
    pub(super) irta: u64,
    pub(super) interrupt_table: u64,
    pub(super) iqa: u64,
    pub(super) head: u64,
    pub(super) tail: u64,
    pub(super) abort_waits: bool,
    pub(super) last_was_wait: bool,
    pub(super) fsts: u32,
    pub(super) fectl: u32,
    pub(super) event: [u32; 3],
    pub(super) iectl: u32,
    pub(super) pmen: u32,
    pub(super) records: Vec<[u64; 2]>,
    pub(super) next_record: usize,
    pub(super) events: u64,
    pub(super) caches: Caches,
    pub(super) failures: Failures,
    pub(super) violations: Vec<String>,
    pub(super) writes: u64,
    pub(super) submissions: u64,
    pub(super) device_tlb: Vec<(u16, u64)>,
    pub(super) pasid_device_tlb: Vec<(u16, u32, u64)>,
    /// Which physical function each device-TLB invalidation named: requester id, PFSID.
    pub(super) physical: Vec<(u16, u16)>,
    pub(super) write_buffer_flushes: u64,
    /// TLBs of the devices that have one.
    pub(super) tlbs: BTreeMap<u16, DeviceTlb>,
    /// IQERCD.
    pub(super) queue_error: u64,
    /// What GSTS will be, and after how many more reads.
    pending: Option<(u32, u32)>,
    /// Reads of FSTS until the queue is looked at.
    queue_delay: u32,
}

/// A unit. Clones are the same unit, as a mapping of its registers is.
#[derive(Clone, Debug)]
pub struct ModelUnit {
    pub(super) state: Rc<RefCell<State>>,
}

impl ModelUnit {
    /// QEMU's capabilities: 3 and 4 levels, 2 MiB and 1 GiB leaves, 65,536 domains, one
    /// fault record, mask up to 18.
    pub const CAP: u64 = 0x00d2_008c_222f_0606;
    /// QEMU's: no snooping, queued invalidation, interrupt remapping, x2APIC.
    pub const ECAP: u64 = 0x00f0_0f5a;

    /// QEMU's with x-scalable-mode=on: SMTS, SRS, SSTS, PT besides.
    pub const ECAP_SECOND_STAGE: u64 = Self::ECAP | 1 << 43 | 1 << 31 | 1 << 46;
    /// QEMU's with x-flts=on: SMTS, FSTS; it has FS1GP in CAP then.
    pub const ECAP_FIRST_STAGE: u64 = Self::ECAP | 1 << 43 | 1 << 47;
    /// CAP to go with that.
    pub const CAP_FIRST_STAGE: u64 = Self::CAP | 1 << 56;

    /// A unit as after reset, with these capabilities, that walks `memory`.
    #[must_use]
    pub fn new(memory: &ModelMemory, cap: u64, ecap: u64) -> Self {
        let records = (cap >> 40 & 0xff) as usize + 1;
        let state = State {
            memory: if cap & RWBF != 0 { memory.behind_buffer() } else { memory.clone() },
            cap,
            ecap,
            gsts: 0,
            rtaddr: 0,
            root: 0,
            irta: 0,
            interrupt_table: 0,
            iqa: 0,
            head: 0,
            tail: 0,
            abort_waits: false,
            last_was_wait: true,
            fsts: 0,
            fectl: 1 << 31,
            event: [0; 3],
            iectl: 1 << 31,
            pmen: 0,
            records: vec![[0; 2]; records],
            next_record: 0,
            events: 0,
            caches: Caches::default(),
            failures: Failures::default(),
            violations: Vec::new(),
            writes: 0,
            submissions: 0,
            device_tlb: Vec::new(),
            pasid_device_tlb: Vec::new(),
            physical: Vec::new(),
            write_buffer_flushes: 0,
            tlbs: BTreeMap::new(),
            queue_error: 0,
            pending: None,
            queue_delay: 0,
        };
        Self { state: Rc::new(RefCell::new(state)) }
    }

    /// Has the unit fail from here on.
    pub fn fail(&self, failures: Failures) {
        self.state.borrow_mut().failures = failures;
    }

    /// What software did that it must not.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state.borrow().violations.clone()
    }

    /// Register writes so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.state.borrow().writes
    }

    /// Writes of the queue's tail so far.
    #[must_use]
    pub fn submissions(&self) -> u64 {
        self.state.borrow().submissions
    }

    /// Fault events sent so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.state.borrow().events
    }

    /// Which physical function each device-TLB invalidation has named: requester id, PFSID.
    #[must_use]
    pub fn physical(&self) -> Vec<(u16, u16)> {
        self.state.borrow().physical.clone()
    }

    /// Device-TLB invalidations so far: requester id and second word of the descriptor.
    #[must_use]
    pub fn device_tlb(&self) -> Vec<(u16, u64)> {
        self.state.borrow().device_tlb.clone()
    }

    /// Device-TLB invalidations with PASID so far: requester id, PASID, second word of the descriptor.
    #[must_use]
    pub fn pasid_device_tlb(&self) -> Vec<(u16, u32, u64)> {
        self.state.borrow().pasid_device_tlb.clone()
    }

    /// Write buffer flushes so far.
    #[must_use]
    pub fn write_buffer_flushes(&self) -> u64 {
        self.state.borrow().write_buffer_flushes
    }

    /// GSTS.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.state.borrow().gsts
    }

    /// Lets a queue that stood still go on.
    pub fn write_tail_again(&self) {
        self.state.borrow_mut().run_queue();
    }

    /// Sets registers as firmware might have left them.
    pub fn firmware_left(&self, gsts: u32, protected_memory: bool) {
        let mut state = self.state.borrow_mut();
        state.gsts = gsts;
        state.pmen = if protected_memory { 1 << 31 | 1 } else { 0 };
    }

    /// Changes a register behind the driver's back (offsets of VT-d 11.4).
    pub fn tamper(&self, offset: usize, value: u64) {
        let mut state = self.state.borrow_mut();
        let low = value as u32;
        match offset {
            0x08 => state.cap = value,
            0x10 => state.ecap = value,
            0x1c => state.gsts = low,
            0x20 => state.rtaddr = value,
            0x34 => state.fsts = low,
            0x38 => state.fectl = low,
            0x3c => state.event[0] = low,
            0x40 => state.event[1] = low,
            0x44 => state.event[2] = low,
            0x80 => state.head = value >> state.queue_shift(),
            0x88 => state.tail = value >> state.queue_shift(),
            0x90 => state.iqa = value,
            0xa0 => state.iectl = low,
            0xb8 => state.irta = value,
            _ => {}
        }
    }
}

impl State {
    pub(super) fn violation(&mut self, what: core::fmt::Arguments<'_>) {
        let mut text = String::new();
        let _ = text.write_fmt(what);
        self.violations.push(text);
    }

    pub(super) fn snoops(&self) -> bool {
        self.ecap & 1 != 0
    }

    /// Log2 of the bytes of a descriptor: DW of IQA.
    pub(super) fn queue_shift(&self) -> u32 {
        if self.iqa & 1 << 11 != 0 { 5 } else { 4 }
    }

    /// A register that is looked at again and again: things happen meanwhile.
    fn watch(&mut self, offset: usize) {
        if offset == 0x1c
            && let Some((gsts, reads)) = self.pending
        {
            self.pending = (reads > 1).then_some((gsts, reads.saturating_sub(1)));
            if self.pending.is_none() {
                self.gsts = gsts;
            }
        }
        if offset == 0x34 && self.queue_delay > 0 {
            self.queue_delay -= 1;
            if self.queue_delay == 0 {
                self.run_queue();
            }
        }
    }

    /// The tail was written: the queue runs now, or when the unit gets to it.
    pub(super) fn kick(&mut self) {
        match self.failures.slow_queue {
            0 => self.run_queue(),
            reads => self.queue_delay = reads,
        }
    }

    fn records_at(&self) -> usize {
        (self.cap >> 24 & 0x3ff) as usize * 16
    }

    fn read(&self, offset: usize) -> u64 {
        let first = self.records_at();
        match offset {
            0x00 => 0x10,
            0x08 => self.cap,
            0x10 => self.ecap,
            0x1c => u64::from(self.gsts),
            0x20 => self.rtaddr,
            0x34 => u64::from(self.fsts),
            0x38 => u64::from(self.fectl),
            0x3c => u64::from(self.event[0]),
            0x40 => u64::from(self.event[1]),
            0x44 => u64::from(self.event[2]),
            0x64 => u64::from(self.pmen),
            0x80 => self.head << self.queue_shift(),
            0x88 => self.tail << self.queue_shift(),
            0x90 => self.iqa,
            0xa0 => u64::from(self.iectl),
            0xb0 => self.queue_error,
            0xb8 => self.irta,
            at if at >= first => {
                let [low, high] = self.records.get((at - first) / 16).copied().unwrap_or_default();
                match (at - first) % 16 {
                    0 => low,
                    4 => low >> 32,
                    8 => high,
                    12 => high >> 32,
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn write(&mut self, offset: usize, value: u64) {
        self.writes += 1;
        let low = value as u32;
        let first = self.records_at();
        match offset {
            0x18 => self.command(low),
            0x20 => {
                if self.gsts & TE != 0 {
                    self.violation(format_args!("RTADDR written while translation is on"));
                }
                self.rtaddr = value;
            }
            0x34 => self.clear_faults(low),
            0x38 => {
                self.fectl = self.fectl & 1 << 30 | low & 1 << 31;
                if self.fectl == 1 << 30 {
                    self.fectl = 0;
                    self.events += 1;
                }
            }
            0x3c => self.event[0] = low,
            0x40 => self.event[1] = low,
            // Without x2APIC support the upper address is reserved.
            0x44 => self.event[2] = if self.ecap & 1 << 4 != 0 { low } else { 0 },
            0x64 => {
                if self.gsts & TE == 0 && self.pmen & 1 != 0 && low >> 31 == 0 {
                    self.violation(format_args!("protected memory off before translation is on"));
                }
                let keep = self.failures.stuck_protection;
                self.pmen = low & 1 << 31 | u32::from(keep || low & 1 << 31 != 0);
            }
            0x88 => self.set_tail(value),
            0x90 => {
                if self.gsts & QIE != 0 {
                    self.violation(format_args!("IQA written while the queue is on"));
                }
                self.iqa = value;
            }
            0xa0 => self.iectl = low,
            0xb8 => self.irta = value,
            at if at >= first && (at - first) % 16 == 12 => {
                if let Some(record) = self.records.get_mut((at - first) / 16)
                    && low & 1 << 31 != 0
                {
                    record[1] &= !(1 << 63);
                }
                if self.records.iter().all(|record| record[1] >> 63 == 0) {
                    self.fsts &= !PPF;
                    self.settle_event();
                }
            }
            at => self.violation(format_args!("register {at:#x} written")),
        }
    }

    /// GCMD.
    fn command(&mut self, value: u32) {
        if let Some((gsts, _)) = self.pending.take() {
            self.violation(format_args!("GCMD {value:#x} written before GSTS showed the last command"));
            self.gsts = gsts;
        }
        // A pointer that is taken shows as not taken meanwhile.
        let before = self.gsts & !(value & (SRTP | SIRTP));
        self.gsts = before;
        self.obey(value);
        if self.failures.slow > 0 && self.gsts != before {
            self.pending = Some((core::mem::replace(&mut self.gsts, before), self.failures.slow));
        }
    }

    fn obey(&mut self, value: u32) {
        let changed = (self.gsts ^ value) & !ONE_SHOT | value & ONE_SHOT;
        if changed.count_ones() > 1 {
            self.violation(format_args!("GCMD {value:#x} changes {changed:#x} at once"));
        }
        let may = changed & !self.failures.stuck;
        if may & SRTP != 0 {
            self.root = self.rtaddr;
            if self.cap & ESRTPS != 0 {
                self.caches.forget_translations();
            }
        }
        if may & SIRTP != 0 {
            self.interrupt_table = self.irta;
            if self.cap & ESIRTPS != 0 {
                self.caches.interrupts.clear();
            }
        }
        if may & WBF != 0 {
            self.memory.settle();
        }
        if changed & WBF != 0 {
            self.write_buffer_flushes += 1;
            self.gsts = self.gsts & !WBF | self.failures.stuck & WBF;
        }
        if may & QIE != 0 {
            let off = self.gsts & QIE != 0;
            if off && (self.head != self.tail || !self.last_was_wait) {
                return; // As QEMU: only an empty queue that ended in a wait goes off.
            }
            if off {
                self.head = 0;
            }
        }
        let levels = TE | QIE | IRE | CFI | 1 << 28;
        self.gsts ^= may & levels;
        self.gsts |= may & (SRTP | SIRTP);
    }
}

impl Registers for ModelUnit {
    fn read32(&self, offset: usize) -> u32 {
        let mut state = self.state.borrow_mut();
        state.watch(offset);
        state.read(offset) as u32
    }
    fn write32(&self, offset: usize, value: u32) {
        self.state.borrow_mut().write(offset, u64::from(value));
    }
    fn read64(&self, offset: usize) -> u64 {
        self.state.borrow().read(offset)
    }
    fn write64(&self, offset: usize, value: u64) {
        self.state.borrow_mut().write(offset, value);
    }
}
