//! Posted interrupt descriptors: VT-d 9.12. 64 bytes in memory, aligned to that.

use bitfield_struct::bitfield;

/// Bytes of a descriptor, and its alignment.
pub const DESCRIPTOR_BYTES: u64 = 64;
/// 64-bit words of PIR, the requested vectors: the descriptor's first 32 bytes.
pub const REQUEST_WORDS: u64 = 4;
/// Offset of the control word.
pub const CONTROL_OFFSET: u64 = 32;

/// Bits 319:256 of a descriptor.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PostedControl {
    /// ON: a notification is outstanding. Set by hardware, cleared by software.
    pub outstanding: bool,
    /// SN: only urgent interrupts notify.
    pub suppress: bool,
    #[bits(14)]
    __: u16,
    /// NV: the vector of notifications, on the host.
    pub vector: u8,
    #[bits(8)]
    __: u8,
    /// NDST: whom to notify: an x2APIC id, or an APIC id in bits 15:8.
    pub destination: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand from VT-d 9.12 and Linux's `struct pi_desc`: ON 256, SN 257, NV 279:272, NDST 319:288.
    #[test]
    fn control_vector() {
        let control = PostedControl::new().with_suppress(true).with_vector(0xf2).with_destination(0x0000_0301);
        assert_eq!(control.into_bits(), 0x0000_0301_00f2_0002);
        assert!(PostedControl::from_bits(1).outstanding());
    }
}
