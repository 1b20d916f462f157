//! Faults: read from the recording registers, put in words, kept in a bounded log.

use super::cold::fault_records;
use super::spec::faults::{FaultRecord, RECORD_BYTES, RECORD_FLAG, RECORD_FLAG_OFFSET, Reason};
use super::spec::registers::{FaultStatus, offset};
use super::spec::tables::unpair;
use super::unit::Unit;
use alloc::vec::Vec;
use core::fmt;
use machine::access::{Clock, Registers};
use machine::addr::{HostPhys, Iova};
use machine::pci::Bdf;

/// Lines that the log keeps.
const LINES: usize = 64;
/// Passes over the recording registers in one go; hardware may refill them meanwhile.
const PASSES: usize = 4;
/// Faults in one second, of all units, at which fault events are masked and faults are polled.
const STORM: u64 = 100;
/// Length of the rate limit's window, in milliseconds.
const WINDOW_MS: u64 = 1_000;

/// What was blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A read.
    Read,
    /// A write.
    Write,
    /// An atomic operation.
    Atomic,
    /// A page request.
    PageRequest,
    /// An interrupt, through the remapping entry of this index.
    Interrupt(u16),
}

/// A blocked request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The unit, by its register base.
    pub unit: HostPhys,
    /// Who asked.
    pub device: Bdf,
    /// Why it was blocked.
    pub reason: Reason,
    /// What was asked.
    pub access: Access,
    /// The page that was asked for; 0 for interrupts.
    pub address: Iova,
    /// The PASID of the request.
    pub pasid: Option<u32>,
}

impl Fault {
    /// The fault in a recording register, if there is one.
    #[must_use]
    pub fn decode(unit: HostPhys, segment: u16, record: FaultRecord) -> Option<Self> {
        if !record.fault() {
            return None;
        }
        let reason = record.reason();
        let (access, address) = if reason.is_interrupt() {
            // VT-d 7.1.3: the index is in FI bits 63:48.
            (Access::Interrupt((record.information() >> 36) as u16), 0)
        } else {
            let access = match (record.type1(), record.type2()) {
                (false, false) => Access::Write,
                (false, true) => Access::PageRequest,
                (true, false) => Access::Read,
                (true, true) => Access::Atomic,
            };
            (access, record.information() << 12)
        };
        Some(Self {
            unit,
            device: Bdf::from_requester_id(segment, record.source()),
            reason,
            access,
            address: Iova(address),
            pasid: record.has_pasid().then(|| record.pasid()),
        })
    }

    /// Whether both are the same trouble, at whatever address.
    fn same_cause(&self, other: &Self) -> bool {
        Self { address: other.address, ..*self } == *other
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.access {
            Access::Interrupt(index) => {
                write!(f, "device {}: interrupt through entry {index} blocked", self.device)?;
            }
            access => {
                let words = match access {
                    Access::Read => "read",
                    Access::Write => "write",
                    Access::Atomic => "atomic operation",
                    _ => "page request",
                };
                write!(f, "device {}: {words} at {} blocked", self.device, self.address)?;
            }
        }
        if let Some(pasid) = self.pasid {
            write!(f, " (PASID {pasid:#x})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// One kind of trouble, and how often it was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FaultLine {
    /// The latest one.
    pub fault: Fault,
    /// How many there were.
    pub count: u64,
    /// How many of them [`FaultLog::report`] has told of.
    pub reported: u64,
    /// When it last told, in ticks.
    pub reported_at: u64,
}

/// The faults of all units. Bounded; what does not fit is counted.
#[derive(Clone, Debug, Default)]
pub struct FaultLog {
    pub(crate) lines: Vec<FaultLine>,
    /// Every fault ever seen.
    pub total: u64,
    /// Faults of kinds that found no room in the log.
    pub unlisted: u64,
    /// How often a unit ran out of recording registers and lost faults.
    pub overflows: u64,
    window_start: u64,
    window_count: u64,
}

impl FaultLog {
    /// The kinds of trouble met, oldest first.
    #[must_use]
    pub fn lines(&self) -> &[FaultLine] {
        &self.lines
    }

    fn record(&mut self, fault: Fault) {
        self.total = self.total.saturating_add(1);
        self.window_count = self.window_count.saturating_add(1);
        if let Some(line) = self.lines.iter_mut().find(|line| line.fault.same_cause(&fault)) {
            line.fault = fault;
            line.count = line.count.saturating_add(1);
        } else if self.lines.len() < LINES {
            self.lines.push(FaultLine { fault, count: 1, reported: 0, reported_at: 0 });
        } else {
            self.unlisted = self.unlisted.saturating_add(1);
        }
    }

    /// Tells `tell` of lines with news, and how many faults are new in each; every line
    /// at most once a second.
    pub fn report(&mut self, clock: &dyn Clock, mut tell: impl FnMut(&FaultLine, u64)) {
        let now = clock.ticks();
        let pause = clock.ticks_per_ms().saturating_mul(WINDOW_MS);
        for line in &mut self.lines {
            let news = line.count.saturating_sub(line.reported);
            let due = line.reported == 0 || now.saturating_sub(line.reported_at) >= pause;
            if news > 0 && due {
                line.reported = line.count;
                line.reported_at = now;
                tell(line, news);
            }
        }
    }

    /// Continues the log of the image before.
    pub(crate) fn restore(&mut self, lines: &[FaultLine]) {
        self.lines = lines.iter().take(LINES).copied().collect();
        self.total = self.lines.iter().fold(0, |sum: u64, line| sum.saturating_add(line.count));
        for line in &mut self.lines {
            // Ticks of another image mean nothing.
            line.reported_at = 0;
            line.reported = line.reported.min(line.count);
        }
    }

    /// Starts a new window when the last is over. Returns whether it did.
    pub(crate) fn roll(&mut self, clock: &dyn Clock) -> bool {
        let now = clock.ticks();
        let over = now.saturating_sub(self.window_start) >= clock.ticks_per_ms().saturating_mul(WINDOW_MS);
        if over {
            self.window_start = now;
            self.window_count = 0;
        }
        over
    }
}

impl<R: Registers> Unit<R> {
    /// Moves every recorded fault into `log` and returns how many. Call it on the fault
    /// event and now and then: in a storm of faults the event is masked for a while.
    ///
    /// `calm`: a new window of the rate limit begins, see [`FaultLog::roll`].
    pub(crate) fn collect_faults(&mut self, calm: bool, log: &mut FaultLog) -> u64 {
        if calm && self.faults_masked && self.fault_event.is_some() {
            self.mask_faults(false);
        }
        let mut found = 0;
        for _ in 0..PASSES {
            let raw = self.window.regs.read32(offset::FSTS);
            let status = FaultStatus::from_bits_truncate(raw);
            self.queue.note_unasked(&self.window, status);
            if status.contains(FaultStatus::PFO) {
                log.overflows = log.overflows.saturating_add(1);
            }
            if !status.intersects(FaultStatus::PPF | FaultStatus::PFO) {
                break;
            }
            found += self.collect_pass(FaultStatus::first_record(raw) as usize, log);
            // After the records, so that a full set does not overflow again at once.
            if status.contains(FaultStatus::PFO) {
                self.window.clear_fault_status(FaultStatus::PFO);
            }
        }
        if log.window_count > STORM && !self.faults_masked {
            self.mask_faults(true);
        }
        found
    }

    /// One pass, from the oldest record on.
    fn collect_pass(&self, first: usize, log: &mut FaultLog) -> u64 {
        let records = fault_records(self.cap);
        let number = records.len() / RECORD_BYTES;
        let mut found = 0;
        for step in 0..number {
            let at = records.start + (first + step) % number * RECORD_BYTES;
            let regs = &self.window.regs;
            if regs.read32(at + RECORD_FLAG_OFFSET) & RECORD_FLAG == 0 {
                continue;
            }
            let record = FaultRecord::from_bits(unpair([regs.read64(at), regs.read64(at + 8)]));
            regs.write32(at + RECORD_FLAG_OFFSET, RECORD_FLAG);
            if let Some(fault) = Fault::decode(self.window.base, self.segment, record) {
                log.record(fault);
                found += 1;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    fn decode(low: u64, high: u64) -> Option<Fault> {
        Fault::decode(HostPhys(0xfed9_0000), 0, FaultRecord::from_bits(unpair([low, high])))
    }

    /// Records as QEMU writes them: FI, then F | T | reason << 32 | source id.
    #[test]
    fn records_in_words() {
        let read = decode(0x1234_5000, 0xc000_0002_0000_0300).unwrap();
        assert_eq!(
            (read.access, read.address.0, read.reason),
            (Access::Read, 0x1234_5000, Reason::CONTEXT_NOT_PRESENT)
        );
        assert!(
            read.to_string().starts_with("device 0000:03:00.0: read at 0x12345000 blocked: the device is not assigned")
        );
        let write = decode(0x1000, 0x8000_0005_0000_0300).unwrap();
        assert_eq!(write.access, Access::Write);
        let interrupt = decode(0x0017_0000_0000_0000, 0x8000_0026_0000_0108).unwrap();
        assert_eq!(interrupt.access, Access::Interrupt(0x17));
        assert!(interrupt.to_string().contains("belongs to another source"));
        assert_eq!(decode(0x1000, 0x4000_0005_0000_0300), None);
    }

    #[test]
    fn the_log_is_bounded() {
        let mut log = FaultLog::default();
        for source in 0..100u64 {
            for page in 0..3u64 {
                log.record(decode(page << 12, 0x8000_0005_0000_0000 | source).unwrap());
            }
        }
        assert_eq!((log.lines().len(), log.total, log.unlisted), (64, 300, 108));
        assert_eq!((log.lines()[0].count, log.lines()[0].fault.address.0), (3, 0x2000));
    }
}
