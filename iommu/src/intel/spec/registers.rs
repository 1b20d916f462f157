//! The register file: VT-d 11.4.

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

/// CAP: VT-d 11.4.2.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Capability {
    /// ND: the unit has 2^(4 + 2 ND) domain ids; 7 is reserved.
    #[bits(3)]
    pub domains: u8,
    /// AFL: advanced fault logging.
    pub advanced_faults: bool,
    /// RWBF: the write buffer must be flushed after a change to a structure in memory.
    pub write_buffer: bool,
    /// PLMR: protected low memory region.
    pub protected_low: bool,
    /// PHMR: protected high memory region.
    pub protected_high: bool,
    /// CM: not-present and erroneous entries are cached too.
    pub caching_mode: bool,
    /// SAGAW: bit 1 is 3 levels (39 bits), bit 2 is 4 levels (48), bit 3 is 5 levels (57).
    #[bits(5)]
    pub widths: u8,
    #[bits(3)]
    __: u8,
    /// MGAW: the widest address a device may send, in bits, minus one.
    #[bits(6)]
    pub max_width: u8,
    /// ZLR: zero-length reads of write-only pages work.
    pub zero_length_reads: bool,
    /// ISOCH: the unit serves isochronous devices. Deprecated.
    pub isochronous: bool,
    /// FRO: offset of the first fault recording register, in units of 16 bytes.
    #[bits(10)]
    pub fault_offset: u16,
    /// SLLPS: bit 0 is 2 MiB leaves, bit 1 is 1 GiB leaves.
    #[bits(4)]
    pub large_pages: u8,
    __: bool,
    /// PSI: page-selective invalidation.
    pub page_selective: bool,
    /// NFR: fault recording registers, minus one.
    #[bits(8)]
    pub fault_records: u8,
    /// MAMV: the largest address mask of a page-selective invalidation, log2 of pages.
    #[bits(6)]
    pub max_mask: u8,
    /// DWD: invalidations can drain writes.
    pub drain_writes: bool,
    /// DRD: invalidations can drain reads.
    pub drain_reads: bool,
    /// FS1GP: 1 GiB leaves in the first stage.
    pub first_stage_1g: bool,
    #[bits(2)]
    __: u8,
    /// PI: posted interrupts.
    pub posted_interrupts: bool,
    /// FS5LP: five levels in the first stage.
    pub first_stage_5: bool,
    /// ECMDS: enhanced commands.
    pub enhanced_commands: bool,
    /// ESIRTPS: SIRTP invalidates the interrupt entry cache by itself.
    pub enhanced_sirtp: bool,
    /// ESRTPS: SRTP invalidates context cache and IOTLB by itself.
    pub enhanced_srtp: bool,
}

/// ECAP: VT-d 11.4.3.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedCapability {
    /// C: the unit snoops the CPU's caches when it walks structures in memory.
    pub coherent: bool,
    /// QI: queued invalidation.
    pub queued_invalidation: bool,
    /// DT: device TLBs (ATS).
    pub device_tlb: bool,
    /// IR: interrupt remapping.
    pub interrupt_remapping: bool,
    /// EIM: x2APIC destinations.
    pub extended_interrupts: bool,
    __: bool,
    /// PT: pass-through.
    pub pass_through: bool,
    /// SC: snoop control in second-stage leaves.
    pub snoop_control: bool,
    /// IRO: offset of the IOTLB registers, in units of 16 bytes.
    #[bits(10)]
    pub iotlb_offset: u16,
    #[bits(2)]
    __: u8,
    /// MHMV: the largest index mask of an interrupt entry cache invalidation.
    #[bits(4)]
    pub max_index_mask: u8,
    __: bool,
    /// MTS: memory types in first-stage and extended memory-type fields.
    pub memory_types: bool,
    /// NEST: nested translation.
    pub nested: bool,
    #[bits(2)]
    __: u8,
    /// PRS: page requests.
    pub page_requests: bool,
    /// ERS: execute requests.
    pub execute_requests: bool,
    /// SRS: supervisor requests.
    pub supervisor_requests: bool,
    __: bool,
    /// NWFS: the no-write flag of translation requests counts.
    pub no_write_flag: bool,
    /// EAFS: the extended-accessed bit of first-stage entries.
    pub extended_accessed: bool,
    /// PSS: PASIDs have so many bits, minus one.
    #[bits(5)]
    pub pasid_size: u8,
    /// PASID: requests with PASID.
    pub pasid: bool,
    /// DIT: device-TLB invalidations are throttled by physical function (PFSID counts).
    pub invalidation_throttle: bool,
    /// PDS: wait descriptors can drain page requests.
    pub page_request_drain: bool,
    /// SMTS: scalable mode.
    pub scalable_mode: bool,
    /// VCS: virtual commands.
    pub virtual_commands: bool,
    /// SSADS: accessed and dirty bits in the second stage.
    pub second_stage_dirty: bool,
    /// SSTS: second stage in scalable mode.
    pub second_stage: bool,
    /// FSTS: first stage in scalable mode.
    pub first_stage: bool,
    /// SMPWCS: the unit snoops when it walks what PASID table entries lead to.
    pub scalable_coherent: bool,
    /// RPS: the RID_PASID field of scalable context entries counts.
    pub rid_pasid: bool,
    __: bool,
    /// PMS: performance monitoring.
    pub performance: bool,
    /// ADMS: abort-DMA mode of the root table address.
    pub abort_mode: bool,
    /// RPRIVS: the RID_PRIV field of scalable context entries counts.
    pub rid_privileged: bool,
    #[bits(10)]
    __: u16,
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

    /// What QEMU 10.0's unit reports (aw-bits=48, intremap=on, eim=on).
    #[test]
    fn capabilities_of_qemu() {
        let cap = Capability::from_bits(0x00d2_008c_222f_0606);
        assert_eq!(cap.domains(), 6);
        assert_eq!(cap.widths(), 0b0110);
        assert_eq!(cap.max_width() + 1, 48);
        assert_eq!(cap.fault_offset() * 16, 0x220);
        assert_eq!(cap.large_pages(), 0b11);
        assert!(cap.page_selective() && !cap.caching_mode() && !cap.write_buffer());
        assert_eq!(cap.fault_records(), 0);
        assert_eq!(cap.max_mask(), 18);
        assert!(cap.drain_reads() && cap.drain_writes());
        assert!(!cap.posted_interrupts() && !cap.enhanced_srtp() && !cap.enhanced_sirtp());

        let ecap = ExtendedCapability::from_bits(0x00f0_0f5a);
        assert!(ecap.queued_invalidation() && ecap.interrupt_remapping() && ecap.extended_interrupts());
        assert!(!ecap.coherent() && !ecap.device_tlb() && !ecap.snoop_control() && !ecap.scalable_mode());
        assert_eq!(ecap.iotlb_offset() * 16, 0xf0);
        assert_eq!(ecap.max_index_mask(), 15);
    }

    /// Places of the high flags as Linux and QEMU have them: CAP.CM 7, CAP.RWBF 4,
    /// CAP.PI 59, CAP.ESRTPS 63, CAP.ESIRTPS 62, ECAP.SC 7, ECAP.SMTS 43.
    #[test]
    fn single_bits() {
        assert!(Capability::from_bits(1 << 7).caching_mode());
        assert!(Capability::from_bits(1 << 4).write_buffer());
        assert!(Capability::from_bits(1 << 59).posted_interrupts());
        assert!(Capability::from_bits(1 << 63).enhanced_srtp());
        assert!(Capability::from_bits(1 << 62).enhanced_sirtp());
        assert!(ExtendedCapability::from_bits(1).coherent());
        assert!(ExtendedCapability::from_bits(1 << 2).device_tlb());
        assert!(ExtendedCapability::from_bits(1 << 7).snoop_control());
        assert!(ExtendedCapability::from_bits(1 << 43).scalable_mode());
        // Linux's ecap_*(): each flag and its bit.
        type Flag = fn(&ExtendedCapability) -> bool;
        let flags: [(Flag, u32); 22] = [
            (ExtendedCapability::memory_types, 25),
            (ExtendedCapability::nested, 26),
            (ExtendedCapability::page_requests, 29),
            (ExtendedCapability::execute_requests, 30),
            (ExtendedCapability::supervisor_requests, 31),
            (ExtendedCapability::no_write_flag, 33),
            (ExtendedCapability::extended_accessed, 34),
            (ExtendedCapability::pasid, 40),
            (ExtendedCapability::invalidation_throttle, 41),
            (ExtendedCapability::page_request_drain, 42),
            (ExtendedCapability::scalable_mode, 43),
            (ExtendedCapability::virtual_commands, 44),
            (ExtendedCapability::second_stage_dirty, 45),
            (ExtendedCapability::second_stage, 46),
            (ExtendedCapability::first_stage, 47),
            (ExtendedCapability::scalable_coherent, 48),
            (ExtendedCapability::rid_pasid, 49),
            (ExtendedCapability::performance, 51),
            (ExtendedCapability::abort_mode, 52),
            (ExtendedCapability::rid_privileged, 53),
            (ExtendedCapability::pass_through, 6),
            (ExtendedCapability::queued_invalidation, 1),
        ];
        for (flag, bit) in flags {
            assert!(
                flag(&ExtendedCapability::from_bits(1 << bit)) && !flag(&ExtendedCapability::from_bits(!(1 << bit)))
            );
        }
        assert_eq!(ExtendedCapability::from_bits(0x13 << 35).pasid_size(), 0x13);
    }

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
