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
            0x30..=0x32 => "scalable mode: the root table address is invalid or its mode forbids the request",
            0x39 => "no device of that half of the bus is assigned (scalable root entry not present)",
            0x41 => "the device is not assigned (scalable context entry not present)",
            0x45 => "the device is not assigned for requests with PASID",
            0x59 => "the PASID leads nowhere (PASID entry not present)",
            0x38..=0x3a => "scalable mode: the root entry is missing or invalid",
            0x40..=0x4b => "scalable mode: the context entry is missing or invalid",
            0x50..=0x52 => "scalable mode: the PASID directory entry is missing or invalid",
            0x58..=0x5d => "scalable mode: the PASID entry is missing or invalid",
            0x70..=0x77 => "scalable mode: a first-stage entry is missing or invalid",
            0x78..=0x7c => "scalable mode: a second-stage entry is missing or invalid",
            0x80..=0x87 => "scalable mode: the access is not permitted",
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
        assert!(Reason(0xff).words().contains("does not list"));
    }
}
