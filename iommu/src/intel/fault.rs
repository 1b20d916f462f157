//! Faults: read from the recording registers, and put in words.

use super::cold::fault_records;
use super::fault_log::FaultLog;
use super::spec::faults::{FaultRecord, Qualifiers, RECORD_BYTES, RECORD_FLAG, RECORD_FLAG_OFFSET, Reason};
use super::spec::registers::{FaultStatus, offset};
use super::spec::tables::unpair;
use super::unit::Unit;
use core::fmt;
use machine::access::Registers;
use machine::addr::{HostPhys, Iova};
use machine::pci::Bdf;

/// Passes over the recording registers in one go; hardware may refill them meanwhile.
const PASSES: usize = 4;
/// Faults in one second, of all units, at which fault events are masked and faults are polled.
const STORM: u64 = 100;

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
    /// What else is known of the request. Not carried over by a handover.
    pub qualifiers: Qualifiers,
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
            qualifiers: qualifiers(record),
        })
    }

    /// Whether both are the same trouble, at whatever address.
    pub(super) fn same_cause(&self, other: &Self) -> bool {
        Self { address: other.address, ..*self } == *other
    }
}

/// AT, EXE, PRIV: VT-d 11.4.15. The last two are a PASID's.
fn qualifiers(record: FaultRecord) -> Qualifiers {
    let mut bits = record.address_type() & 3;
    if record.has_pasid() {
        bits |= if record.execute() { Qualifiers::EXECUTE.0 } else { 0 };
        bits |= if record.privileged() { Qualifiers::PRIVILEGED.0 } else { 0 };
    }
    Qualifiers(bits)
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
                write!(f, "device {}: ", self.device)?;
                self.qualifiers.words().try_for_each(|word| f.write_str(word))?;
                write!(f, "{words} at {} blocked", self.address)?;
            }
        }
        if let Some(pasid) = self.pasid {
            write!(f, " (PASID {pasid:#x})")?;
        }
        write!(f, ": {}, by the unit at {}", self.reason, self.unit)
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
        // F, T1, AT = 1, PV, FR, PP, EXE, PRIV: a privileged execute request for translation, with PASID 0x12345.
        let with_pasid = decode(0x5000, 0xd123_4571_e000_0300).unwrap();
        assert_eq!((with_pasid.pasid, with_pasid.access), (Some(0x12345), Access::Read));
        assert_eq!(
            with_pasid.to_string(),
            "device 0000:03:00.0: translation execute privileged read at 0x5000 blocked (PASID 0x12345): \
             not mapped (first-stage entry not present) (reason 0x71), by the unit at 0xfed90000"
        );
    }
}
