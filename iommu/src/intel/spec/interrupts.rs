//! Interrupt remapping: table entries (VT-d 9.10) and remappable messages (VT-d 5.1.5).

use bitfield_struct::bitfield;
use machine::addr::HostPhys;

/// Bytes of a remapping table entry.
pub const ENTRY_BYTES: u64 = 16;

/// SVT: how much of the requester id is verified (VT-d 9.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceValidation(pub u8);

impl SourceValidation {
    /// Nothing is verified: any device may raise the interrupt.
    pub const NONE: Self = Self(0b00);
    /// SID is compared with the requester id, as SQ qualifies (0: all 16 bits).
    pub const SOURCE: Self = Self(0b01);
    /// The bus of the requester id lies between SID's two bytes.
    pub const BUS: Self = Self(0b10);

    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    const fn into_bits(self) -> u8 {
        self.0
    }
}

/// DLM: the delivery mode (VT-d 9.10; values as in SDM 3A 11.11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryMode(pub u8);

impl DeliveryMode {
    /// To the processor named.
    pub const FIXED: Self = Self(0b000);
    /// To the one of several with the lowest priority.
    pub const LOWEST_PRIORITY: Self = Self(0b001);
    /// SMI.
    pub const SMI: Self = Self(0b010);
    /// NMI; the vector is ignored.
    pub const NMI: Self = Self(0b100);
    /// INIT.
    pub const INIT: Self = Self(0b101);
    /// As from an 8259.
    pub const EXTINT: Self = Self(0b111);

    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    const fn into_bits(self) -> u8 {
        self.0
    }
}

/// A remapped-format interrupt remapping table entry: VT-d 9.10.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct InterruptEntry {
    /// P.
    pub present: bool,
    /// FPD: faults of this entry are not recorded.
    pub fault_disable: bool,
    /// DM: the destination is logical.
    pub logical: bool,
    /// RH: redirection hint.
    pub redirection_hint: bool,
    /// TM: level triggered.
    pub level: bool,
    /// DLM.
    #[bits(3)]
    pub delivery: DeliveryMode,
    /// AVAIL: software's own.
    #[bits(4)]
    pub available: u8,
    #[bits(3)]
    pub(crate) reserved: u8,
    /// IM: the entry is in posted format; everything else here then means something else.
    pub posted: bool,
    /// V: the vector.
    pub vector: u8,
    #[bits(8)]
    pub(crate) reserved_vector: u8,
    /// DST: an x2APIC id, or with EIME = 0 an APIC id in bits 15:8.
    #[bits(32)]
    pub destination: u32,
    /// SID.
    #[bits(16)]
    pub source: u16,
    /// SQ: which bits of the source id count; 0 is all.
    #[bits(2)]
    pub source_qualifier: u8,
    /// SVT.
    #[bits(2)]
    pub validation: SourceValidation,
    #[bits(44)]
    pub(crate) reserved_high: u64,
}

/// The same 16 bytes in posted format (IM = 1): the interrupt is noted in a descriptor in memory. VT-d 9.11.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct PostedEntry {
    /// P.
    pub present: bool,
    /// FPD: faults of this entry are not recorded.
    pub fault_disable: bool,
    #[bits(6)]
    pub(crate) reserved: u8,
    /// AVAIL: software's own.
    #[bits(4)]
    pub available: u8,
    #[bits(2)]
    pub(crate) reserved_middle: u8,
    /// URG: notifies even while notifications are suppressed.
    pub urgent: bool,
    /// IM: set.
    pub posted: bool,
    /// VV: the virtual vector, a bit of the descriptor's PIR.
    pub vector: u8,
    #[bits(14)]
    pub(crate) reserved_low: u16,
    /// PDAL: bits 31:6 of the descriptor's address.
    #[bits(26)]
    pub descriptor_low: u32,
    /// SID, as in remapped format.
    #[bits(16)]
    pub source: u16,
    /// SQ.
    #[bits(2)]
    pub source_qualifier: u8,
    /// SVT.
    #[bits(2)]
    pub validation: SourceValidation,
    #[bits(12)]
    pub(crate) reserved_high: u16,
    /// PDAH: bits 63:32 of the descriptor's address.
    #[bits(32)]
    pub descriptor_high: u32,
}

impl PostedEntry {
    /// The same source; everything else as for a present entry that notes `vector` in `descriptor`.
    #[must_use]
    pub fn of(entry: InterruptEntry, descriptor: HostPhys, vector: u8, urgent: bool) -> Self {
        Self::new()
            .with_present(true)
            .with_posted(true)
            .with_urgent(urgent)
            .with_vector(vector)
            .with_descriptor_low((descriptor.0 >> 6) as u32 & 0x3ff_ffff)
            .with_descriptor_high((descriptor.0 >> 32) as u32)
            .with_source(entry.source())
            .with_source_qualifier(entry.source_qualifier())
            .with_validation(entry.validation())
    }

    /// The descriptor.
    #[must_use]
    pub fn descriptor(self) -> HostPhys {
        HostPhys(u64::from(self.descriptor_high()) << 32 | u64::from(self.descriptor_low()) << 6)
    }
}

/// The interrupt address range: VT-d 3.14, 5.1.2.
pub const MESSAGE_BASE: u64 = 0xfee0_0000;
/// Bits of an address that say whether it is in the interrupt range.
pub const MESSAGE_RANGE_MASK: u64 = !0xf_ffff;

/// The address of a message in remappable format: VT-d 5.1.5.2.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct MessageAddress {
    #[bits(2)]
    __: u8,
    /// Handle bit 15.
    pub handle_high: bool,
    /// SHV: the data's low half is added to the handle.
    pub subhandle_valid: bool,
    /// Interrupt format: remappable.
    pub remappable: bool,
    /// Handle bits 14:0.
    #[bits(15)]
    pub handle_low: u16,
    /// 0xFEE.
    #[bits(12)]
    pub base: u16,
}

impl MessageAddress {
    /// The address that leads to entry `handle` plus the data of the message.
    #[must_use]
    pub fn remapped(handle: u16) -> Self {
        Self::new()
            .with_base(0xfee)
            .with_remappable(true)
            .with_subhandle_valid(true)
            .with_handle_low(handle & 0x7fff)
            .with_handle_high(handle & 0x8000 != 0)
    }

    /// The handle.
    #[must_use]
    pub fn handle(self) -> u16 {
        self.handle_low() | (self.handle_high() as u16) << 15
    }
}

/// An IOAPIC redirection table entry in remappable format: VT-d 5.1.5.1.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RedirectionEntry {
    /// The same vector as in the remapping table entry: the IOAPIC matches EOIs by it.
    pub vector: u8,
    #[bits(3)]
    __: u8,
    /// Handle bit 15.
    pub handle_high: bool,
    /// Delivery status. Hardware's own.
    pub pending: bool,
    /// Polarity: active low.
    pub active_low: bool,
    /// Remote IRR. Hardware's own.
    pub remote_irr: bool,
    /// Level triggered; the same as in the remapping table entry.
    pub level: bool,
    /// Masked.
    pub masked: bool,
    #[bits(31)]
    __: u32,
    /// Interrupt format: remappable.
    pub remappable: bool,
    /// Handle bits 14:0.
    #[bits(15)]
    pub handle_low: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intel::spec::tables::{pair, unpair};

    /// By hand from VT-d 9.10 and Linux's `struct irte`: P 0, FPD 1, DM 2, RH 3, TM 4, DLM 7:5,
    /// V 23:16, DST 63:32, SID 79:64, SQ 81:80, SVT 83:82.
    #[test]
    fn entry_vectors() {
        let entry = InterruptEntry::new()
            .with_present(true)
            .with_vector(0x41)
            .with_destination(0x0000_0300)
            .with_source(0x0108)
            .with_validation(SourceValidation::SOURCE);
        assert_eq!(pair(entry.into_bits()), [0x0000_0300_0041_0001, 0x4_0108]);
        let entry = InterruptEntry::from_bits(unpair([0x1234_5678_00ef_003d, 0x9_fff8]));
        assert!(entry.present() && entry.logical() && entry.redirection_hint() && entry.level());
        assert!(!entry.fault_disable() && !entry.posted());
        assert_eq!(entry.delivery(), DeliveryMode::LOWEST_PRIORITY);
        assert_eq!((entry.vector(), entry.destination()), (0xef, 0x1234_5678));
        assert_eq!((entry.source(), entry.source_qualifier()), (0xfff8, 1));
        assert_eq!(entry.validation(), SourceValidation::BUS);
        assert!(InterruptEntry::from_bits(1 << 15).posted());
    }

    /// By hand from VT-d 9.11 and Linux's `struct irte` (p_urgent 14, p_pst 15, p_vector 23:16, pda_l 63:38,
    /// sid 79:64, sq 81:80, svt 83:82, pda_h 127:96).
    #[test]
    fn posted_vector() {
        let bound = InterruptEntry::from_bits(unpair([0, 0x6_0108]));
        let entry = PostedEntry::of(bound, HostPhys(0x0000_0012_3456_7fc0), 0x41, true);
        assert_eq!(pair(entry.into_bits()), [0x3456_7fc0_0041_c001, 0x0000_0012_0006_0108]);
        assert_eq!(entry.descriptor(), HostPhys(0x12_3456_7fc0));
        assert_eq!(InterruptEntry::from_bits(entry.into_bits()).source(), 0x0108);
    }

    /// Linux's `x86_msi_addr_lo` in its DMAR form: handle 14:0 at bit 5, format bit 4, SHV bit 3, handle 15 at bit 2.
    #[test]
    fn message_vectors() {
        assert_eq!(MessageAddress::remapped(0).into_bits(), 0xfee0_0018);
        assert_eq!(MessageAddress::remapped(1).into_bits(), 0xfee0_0038);
        assert_eq!(MessageAddress::remapped(0x8000).into_bits(), 0xfee0_001c);
        assert_eq!(MessageAddress::remapped(0xffff).into_bits(), 0xfeef_fffc);
        assert_eq!(MessageAddress::from_bits(0xfeef_fffc).handle(), 0xffff);
    }

    /// Linux's `IO_APIC_route_entry` in its remapped form: format bit 48, index 14:0 at 49, index 15 at bit 11.
    #[test]
    fn redirection_vector() {
        let entry = RedirectionEntry::new()
            .with_vector(0x30)
            .with_level(true)
            .with_active_low(true)
            .with_remappable(true)
            .with_handle_low(5)
            .with_handle_high(true);
        assert_eq!(entry.into_bits(), 0x000b_0000_0000_a830);
    }
}
