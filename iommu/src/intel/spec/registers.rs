//! The register file: VT-d 11.4.

pub use super::capabilities::{Capability, ExtendedCapability};
use bitfield_struct::bitfield;
use bitflags::bitflags;
use core::fmt;
use machine::addr::HostPhys;

/// Byte offsets of registers from the unit's register base: VT-d 11.4.
pub mod offset {
    /// Architecture version, 32 bits.
    pub const VER: usize = 0x00;
    /// Capability, 64 bits.
    pub const CAP: usize = 0x08;
    /// Extended capability, 64 bits.
    pub const ECAP: usize = 0x10;
    /// Global command, 32 bits, write only.
    pub const GCMD: usize = 0x18;
    /// Global status, 32 bits, read only.
    pub const GSTS: usize = 0x1c;
    /// Root table address, 64 bits.
    pub const RTADDR: usize = 0x20;
    /// Fault status, 32 bits.
    pub const FSTS: usize = 0x34;
    /// Fault event control, 32 bits.
    pub const FECTL: usize = 0x38;
    /// Fault event data, 32 bits.
    pub const FEDATA: usize = 0x3c;
    /// Fault event address, 32 bits.
    pub const FEADDR: usize = 0x40;
    /// Fault event upper address, 32 bits.
    pub const FEUADDR: usize = 0x44;
    /// Protected memory enable, 32 bits. Only with CAP.PLMR or CAP.PHMR.
    pub const PMEN: usize = 0x64;
    /// Invalidation queue head, 64 bits, read only.
    pub const IQH: usize = 0x80;
    /// Invalidation queue tail, 64 bits.
    pub const IQT: usize = 0x88;
    /// Invalidation queue address, 64 bits.
    pub const IQA: usize = 0x90;
    /// Invalidation completion status, 32 bits.
    pub const ICS: usize = 0x9c;
    /// Invalidation event control, 32 bits.
    pub const IECTL: usize = 0xa0;
    /// Invalidation queue error record, 64 bits.
    pub const IQERCD: usize = 0xb0;
    /// Interrupt remapping table address, 64 bits.
    pub const IRTA: usize = 0xb8;
}

/// Bytes that every unit decodes at its register base, whatever else it has.
pub const REGISTER_BYTES: usize = 0x1000;

/// VER: VT-d 11.4.1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Version(pub u32);

impl Version {
    /// Major number, 1 to 6 so far.
    #[must_use]
    pub const fn major(self) -> u32 {
        (self.0 >> 4) & 0xf
    }

    /// Minor number.
    #[must_use]
    pub const fn minor(self) -> u32 {
        self.0 & 0xf
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// IQERCD: why the queue stopped, on units that say so (zero on others). VT-d 11.4.9.9.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct QueueError {
    /// IQEI: valid with FSTS.IQE.
    #[bits(4)]
    pub info: QueueErrorInfo,
    #[bits(28)]
    __: u32,
    /// ITESID: the device that did not answer. Valid with FSTS.ITE.
    pub timeout_source: u16,
    /// ICESID: the device that answered unasked. Valid with FSTS.ICE.
    pub completion_source: u16,
}

/// IQEI: what is wrong with a descriptor, or with the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct QueueErrorInfo(pub u8);

impl QueueErrorInfo {
    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    const fn into_bits(self) -> u8 {
        self.0
    }

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self.0 {
            0 => "the unit does not say why",
            1 => "the tail is outside the queue",
            2 => "the descriptor could not be fetched",
            3 => "its type is unknown",
            4 => "reserved bits are set in it",
            5 => "the queue has the wrong descriptor width",
            6 => "the tail is not aligned to the descriptor width",
            7 => "the root table's mode is invalid",
            _ => "for a reason that VT-d 11.4.9 does not list",
        }
    }
}

bitflags! {
    /// GSTS, and with the same places GCMD: VT-d 11.4.4.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Global: u32 {
        /// Translation enable(d).
        const TE = 1 << 31;
        /// Set root table pointer; status: pointer set. One-shot.
        const SRTP = 1 << 30;
        /// Set fault log. One-shot.
        const SFL = 1 << 29;
        /// Advanced fault logging enable(d).
        const EAFL = 1 << 28;
        /// Write buffer flush; status: under way. One-shot.
        const WBF = 1 << 27;
        /// Queued invalidation enable(d).
        const QIE = 1 << 26;
        /// Interrupt remapping enable(d).
        const IRE = 1 << 25;
        /// Set interrupt remap table pointer; status: pointer set. One-shot.
        const SIRTP = 1 << 24;
        /// Compatibility-format interrupts pass.
        const CFI = 1 << 23;
    }
}

impl Global {
    /// Bits of GCMD that stay what they were written; the others act once. A write
    /// carries these as GSTS shows them, plus at most one change (VT-d 11.4.4.1).
    pub const PERSISTENT: Self = Self::TE.union(Self::EAFL).union(Self::QIE).union(Self::IRE).union(Self::CFI);
}

bitflags! {
    /// FSTS: VT-d 11.4.9. All but PPF are cleared by writing one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FaultStatus: u32 {
        /// Primary fault overflow: faults were lost.
        const PFO = 1 << 0;
        /// Primary pending fault: a recording register holds one. Read only.
        const PPF = 1 << 1;
        /// Advanced fault overflow.
        const AFO = 1 << 2;
        /// Advanced pending fault.
        const APF = 1 << 3;
        /// Invalidation queue error: the descriptor at the head, or the tail, is bad.
        const IQE = 1 << 4;
        /// Invalidation completion error: a device answered what nobody asked.
        const ICE = 1 << 5;
        /// Invalidation time-out: a device did not answer.
        const ITE = 1 << 6;
    }
}

impl FaultStatus {
    /// What can go wrong with the queue.
    pub const QUEUE: Self = Self::IQE.union(Self::ICE).union(Self::ITE);

    /// FRI: the first recording register with a pending fault, of a raw FSTS.
    #[must_use]
    pub const fn first_record(fsts: u32) -> u32 {
        (fsts >> 8) & 0xff
    }
}

/// IM of FECTL and IECTL: the event raises no interrupt (VT-d 11.4.10).
pub const EVENT_MASK: u32 = 1 << 31;
/// IP of FECTL and IECTL: an interrupt is held back. Hardware's own (VT-d 11.4.10).
pub const EVENT_PENDING: u32 = 1 << 30;
/// EPM of PMEN: protected memory regions on (VT-d 11.4.16).
pub const PMEN_ENABLE: u32 = 1 << 31;
/// PRS of PMEN: protected memory regions are on.
pub const PMEN_STATUS: u32 = 1 << 0;

/// Bits of an address register that hold the address.
const FRAME: u64 = !0xfff;

/// RTADDR: VT-d 11.4.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RootTableAddress(pub u64);

impl RootTableAddress {
    /// Legacy mode (TTM = 00b) with the root table at `table`, a frame.
    #[must_use]
    pub const fn legacy(table: HostPhys) -> Self {
        Self(table.0 & FRAME)
    }

    /// Scalable mode (TTM = 01b) with the root table at `table`, a frame.
    #[must_use]
    pub const fn scalable(table: HostPhys) -> Self {
        Self((table.0 & FRAME) | 1 << 10)
    }

    /// TTM, the translation table mode: 0 legacy, 1 scalable, 3 abort.
    #[must_use]
    pub const fn mode(self) -> u8 {
        ((self.0 >> 10) & 3) as u8
    }

    /// The root table.
    #[must_use]
    pub const fn table(self) -> HostPhys {
        HostPhys(self.0 & FRAME)
    }
}

/// IRTA: VT-d 11.4.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptTableAddress(pub u64);

impl InterruptTableAddress {
    /// EIME: destinations are x2APIC ids of 32 bits.
    const EIME: u64 = 1 << 11;

    /// A table at `table` (a frame) of 2^`order` entries, `order` from 1 to 16.
    #[must_use]
    pub const fn new(table: HostPhys, order: u8, x2apic: bool) -> Self {
        let eime = if x2apic { Self::EIME } else { 0 };
        Self((table.0 & FRAME) | eime | (order.saturating_sub(1) as u64 & 0xf))
    }

    /// The table.
    #[must_use]
    pub const fn table(self) -> HostPhys {
        HostPhys(self.0 & FRAME)
    }

    /// Whether destinations are x2APIC ids.
    #[must_use]
    pub const fn x2apic(self) -> bool {
        self.0 & Self::EIME != 0
    }

    /// Log2 of the number of entries (S + 1).
    #[must_use]
    pub const fn order(self) -> u8 {
        (self.0 & 0xf) as u8 + 1
    }
}

/// IQA: VT-d 11.4.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAddress(pub u64);

impl QueueAddress {
    /// DW: descriptors have 256 bits, as scalable mode needs.
    const WIDE: u64 = 1 << 11;

    /// One frame at `queue` (QS = 0): 256 descriptors of 128 bits, or with `wide` 128 of 256 bits.
    #[must_use]
    pub const fn new(queue: HostPhys, wide: bool) -> Self {
        Self((queue.0 & FRAME) | if wide { Self::WIDE } else { 0 })
    }

    /// DW: descriptors of 256 bits.
    #[must_use]
    pub const fn wide(self) -> bool {
        self.0 & Self::WIDE != 0
    }

    /// The queue's first frame.
    #[must_use]
    pub const fn queue(self) -> HostPhys {
        HostPhys(self.0 & FRAME)
    }

    /// QS and what is reserved; zero for the queues that this driver uses.
    #[must_use]
    pub const fn shape(self) -> u64 {
        self.0 & !(FRAME | Self::WIDE)
    }
}

/// Mask of IQH and IQT: bits 18:4 are the offset of a descriptor in the queue (VT-d 11.4.9).
pub const QUEUE_OFFSET_MASK: u64 = 0x7_fff0;

#[cfg(test)]
mod tests {
    use super::*;

    /// VT-d 11.4.4.1 gives the mask of persistent bits: GSTS & 0x96FF_FFFF.
    #[test]
    fn persistent_bits() {
        assert_eq!(Global::PERSISTENT.bits(), 0x96ff_ffff & Global::all().bits());
    }

    /// Linux: IQEI 3:0, ITESID 47:32, ICESID 63:48.
    #[test]
    fn queue_errors() {
        let error = QueueError::from_bits(0x0108_0300_0000_0004);
        assert_eq!(
            (error.completion_source(), error.timeout_source(), error.info()),
            (0x0108, 0x0300, QueueErrorInfo(4))
        );
        assert!(error.info().words().contains("reserved"));
        assert!(QueueErrorInfo(9).words().contains("does not list"));
    }

    /// Linux writes `addr | EIME(1 << 11) | size 0xf` for 65,536 entries.
    #[test]
    fn address_registers() {
        let table = HostPhys(0x1_2345_6000);
        assert_eq!(InterruptTableAddress::new(table, 16, true).0, 0x1_2345_680f);
        assert_eq!(InterruptTableAddress::new(table, 8, false).0, 0x1_2345_6007);
        assert_eq!(InterruptTableAddress(0x1_2345_680f).order(), 16);
        assert!(InterruptTableAddress(0x1_2345_680f).x2apic());
        assert_eq!(RootTableAddress::legacy(table).0, 0x1_2345_6000);
        assert_eq!(RootTableAddress(0x1_2345_6400).mode(), 1);
        assert_eq!(RootTableAddress::scalable(table).0, 0x1_2345_6400);
        assert_eq!(QueueAddress::new(table, false).0, 0x1_2345_6000);
        // Linux: (1 << 11) for 256-bit descriptors.
        assert_eq!(QueueAddress::new(table, true).0, 0x1_2345_6800);
        assert_eq!((QueueAddress(0x1_2345_6801).shape(), QueueAddress(0x1_2345_6801).wide()), (1, true));
    }
}
