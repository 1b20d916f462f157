//! Fault records (VT-d 11.4.15) and their reasons (VT-d 7.1).

use bitfield_struct::bitfield;
use core::fmt;

/// Bytes of a fault recording register.
pub const RECORD_BYTES: usize = 16;
/// Offset of the record's last 32 bits, which hold F.
pub const RECORD_FLAG_OFFSET: usize = 12;
/// F in the record's last 32 bits: a fault is recorded; written as one, it is cleared.
pub const RECORD_FLAG: u32 = 1 << 31;

/// A fault recording register: VT-d 11.4.15.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct FaultRecord {
    #[bits(12)]
    __: u16,
    /// FI: the page that was accessed; for interrupts, the index in bits 51:36.
    #[bits(52)]
    pub information: u64,
    /// SID: who asked.
    #[bits(16)]
    pub source: u16,
    #[bits(12)]
    __: u16,
    /// T2: with T1, the kind of request.
    pub type2: bool,
    /// PRIV: a privileged request with PASID.
    pub privileged: bool,
    /// EXE: an execute request with PASID.
    pub execute: bool,
    /// PP: PV holds a PASID.
    pub has_pasid: bool,
    /// FR: the reason.
    #[bits(8)]
    pub reason: Reason,
    /// PV: the PASID.
    #[bits(20)]
    pub pasid: u32,
    /// AT: the address type of the request (0 untranslated, 1 translation request, 2 translated).
    #[bits(2)]
    pub address_type: u8,
    /// T1: a read (without T2), a write (clear, without T2).
    pub type1: bool,
    /// F: there is a fault here.
    pub fault: bool,
}

/// What a request was, beyond read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Qualifiers(pub u8);

impl Qualifiers {
    /// AT: the device asked for a translation (ATS).
    pub const TRANSLATION: Self = Self(1);
    /// AT: the device had translated the address itself (ATS).
    pub const TRANSLATED: Self = Self(2);
    /// EXE: to execute.
    pub const EXECUTE: Self = Self(4);
    /// PRIV: with supervisor privilege.
    pub const PRIVILEGED: Self = Self(8);

    /// In words, each followed by a blank.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        let all = [(1, "translation "), (2, "translated "), (4, "execute "), (8, "privileged ")];
        all.into_iter().filter(move |(bit, _)| self.0 & bit != 0).map(|(_, word)| word)
    }
}

/// FR: why a request was blocked. VT-d 7.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason(pub u8);

impl Reason {
    /// The root entry of the bus is not present.
    pub const ROOT_NOT_PRESENT: Self = Self(0x01);
    /// The context entry of the function is not present: the device is not assigned.
    pub const CONTEXT_NOT_PRESENT: Self = Self(0x02);
    /// The context entry makes no sense.
    pub const CONTEXT_INVALID: Self = Self(0x03);
    /// The address is above what the unit or the domain translates.
    pub const ADDRESS_TOO_WIDE: Self = Self(0x04);
    /// No write permission, or not mapped.
    pub const WRITE: Self = Self(0x05);
    /// No read permission, or not mapped.
    pub const READ: Self = Self(0x06);
    /// A request of a kind that the context entry blocks.
    pub const TYPE_BLOCKED: Self = Self(0x0d);
    /// The message is not in the form it claims.
    pub const INTERRUPT_RESERVED: Self = Self(0x20);
    /// The index is outside the remapping table.
    pub const INTERRUPT_INDEX: Self = Self(0x21);
    /// The remapping table entry is not present.
    pub const INTERRUPT_NOT_PRESENT: Self = Self(0x22);
    /// A compatibility-format interrupt while those are blocked.
    pub const INTERRUPT_COMPATIBILITY: Self = Self(0x25);
    /// The entry belongs to another source.
    pub const INTERRUPT_SOURCE: Self = Self(0x26);

    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    const fn into_bits(self) -> u8 {
        self.0
    }

    /// Whether an interrupt was blocked, not a memory access.
    #[must_use]
    pub const fn is_interrupt(self) -> bool {
        matches!(self.0, 0x20..=0x2f)
    }

    /// The reason in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self.0 {
            0x01 => "no device of that bus is assigned (root entry not present)",
            0x02 => "the device is not assigned (context entry not present)",
            0x03 => "the context entry is invalid",
            0x04 => "the address is beyond the domain's width",
            0x05 => "no write permission",
            0x06 => "no read permission",
            0x07 => "a page table could not be read",
            0x08 => "the root table could not be read",
            0x09 => "the context table could not be read",
            0x0a => "reserved bits are set in the root entry",
            0x0b => "reserved bits are set in the context entry",
            0x0c => "reserved bits are set in a paging entry",
            0x0d => "requests of that type are blocked for the device",
            0x0e => "the address is in the interrupt range and the request is not an interrupt",
            0x0f => "the root table address is invalid",
            0x20 => "reserved bits are set in the interrupt message",
            0x21 => "the interrupt index is outside the remapping table",
            0x22 => "the interrupt remapping entry is not present",
            0x23 => "the interrupt remapping table could not be read",
            0x24 => "reserved bits are set in the interrupt remapping entry",
            0x25 => "interrupts in compatibility format are blocked",
            0x26 => "the interrupt remapping entry belongs to another source",
            0x27 => "the posted interrupt descriptor could not be read",
            0x28 => "reserved bits are set in the posted interrupt descriptor",
            0x30 => "scalable: the root table address is invalid",
            0x31 => "a request with PASID, but the mode is legacy",
            0x32 => "a page request, but the mode is legacy",
            0x38 => "scalable: the root entry could not be read",
            0x39 => "scalable: no device of that bus is assigned (root entry not present)",
            0x3a => "scalable: reserved bits are set in the root entry",
            0x40 => "scalable: the context entry could not be read",
            0x41 => "scalable: the device is not assigned (context entry not present)",
            0x42 => "scalable: reserved bits are set in the context entry",
            0x43 => "scalable: the context entry is invalid",
            0x44 => "scalable: the device may not use a TLB (DTE clear)",
            0x45 => "scalable: the device may not use PASIDs (PASIDE clear)",
            0x46 => "scalable: the PASID is beyond the directory",
            0x47 => "scalable: the device may not send page requests (PRE clear)",
            0x48 => "scalable: RID_PASID is beyond the directory",
            0x50 => "the PASID directory entry could not be read",
            0x51 => "the PASID directory entry is not present",
            0x52 => "reserved bits are set in the PASID directory entry",
            0x58 => "the PASID table entry could not be read",
            0x59 => "the PASID is not attached (table entry not present)",
            0x5a => "reserved bits are set in the PASID table entry",
            0x5b => "the PASID table entry is invalid",
            0x5c => "execute requests are off for the PASID (ERE clear)",
            0x5d => "supervisor requests are off for the PASID (SRE clear)",
            0x70 => "a first-stage entry could not be read",
            0x71 => "not mapped (first-stage entry not present)",
            0x72 => "reserved bits are set in a first-stage entry",
            0x73 => "the first-stage root could not be read",
            0x74 => "a first-stage table is beyond the second stage's width",
            0x75 => "the second stage forbids reading the first-stage root",
            0x76 => "the second stage forbids reading a first-stage table",
            0x77 => "the second stage forbids writing a first-stage table",
            0x78 => "a second-stage entry could not be read",
            0x79 => "the second stage does not permit it",
            0x7a => "reserved bits are set in a second-stage entry",
            0x7b => "the second-stage root is invalid",
            0x7c => "a second-stage entry's accessed or dirty bit could not be set",
            0x80 => "the address is not canonical",
            0x81 => "a user request to a supervisor page",
            0x82 => "no execute permission in the first stage",
            0x83 => "the address is beyond the unit's width",
            0x84 => "the address is beyond the second stage's width",
            0x85 => "no write permission in the first stage",
            0x86 => "no read permission in the first stage",
            0x87 => "the address is in the interrupt range and the request is not an interrupt",
            0x90 => "a first-stage entry's accessed or dirty bit could not be set",
            _ => "a reason that VT-d 7.1 does not list",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (reason {:#04x})", self.words(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intel::spec::tables::unpair;

    /// By hand from VT-d 11.4.15, Linux's dma_frcd_* and QEMU's VTD_FRCD_*: F 127, T1 126, FR 103:96, SID 79:64, FI 63:12.
    #[test]
    fn record_vector() {
        let record = FaultRecord::from_bits(unpair([0x0000_0001_2345_6000, 0xc000_0005_0000_0108]));
        assert!(record.fault() && record.type1() && !record.type2() && !record.has_pasid());
        assert_eq!(record.information() << 12, 0x1_2345_6000);
        assert_eq!(record.source(), 0x0108);
        assert_eq!(record.reason(), Reason::WRITE);
        let record = FaultRecord::from_bits(unpair([0, 0x8123_4502_9000_ffff]));
        assert!(record.fault() && !record.type1() && record.type2() && record.has_pasid());
        assert_eq!((record.pasid(), record.reason().0, record.source()), (0x12345, 2, 0xffff));
    }

    /// VT-d 7.1.3: 20h to 28h are the interrupt remapping faults.
    #[test]
    fn reasons() {
        assert!(Reason(0x26).is_interrupt() && !Reason(0x0d).is_interrupt() && !Reason(0x30).is_interrupt());
        assert!(Reason(0x02).words().contains("not assigned"));
        // Codes in use, as Linux's three tables of strings have them (and posted descriptors, VT-d 7.1.3).
        let used = [0x01..=0x0f, 0x20..=0x28, 0x30..=0x32, 0x38..=0x3a, 0x40..=0x48, 0x50..=0x52, 0x58..=0x5d];
        let used = used.into_iter().chain([0x70..=0x7c, 0x80..=0x87, 0x90..=0x90]).flatten();
        let used: alloc::collections::BTreeSet<u8> = used.collect();
        for code in 0..=u8::MAX {
            assert_eq!(Reason(code).words().contains("does not list"), !used.contains(&code), "{code:#x}");
        }
    }
}
