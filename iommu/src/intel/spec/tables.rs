//! Root and context entries of legacy mode: VT-d 9.1, 9.3.

use bitfield_struct::bitfield;
use machine::addr::HostPhys;

/// Entries in a root table (one per bus) and in a context table (one per function).
pub const ENTRIES: u64 = 256;
/// Bytes of an entry of either.
pub const ENTRY_BYTES: u64 = 16;

/// A root entry: VT-d 9.1.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct RootEntry {
    /// P.
    pub present: bool,
    #[bits(11)]
    pub(crate) reserved: u16,
    /// CTP: frame number of the context table.
    #[bits(52)]
    pub context_frame: u64,
    #[bits(64)]
    pub(crate) reserved_high: u64,
}

impl RootEntry {
    /// A present entry that links the context table at `table`, a frame.
    #[must_use]
    pub fn link(table: HostPhys) -> Self {
        Self::new().with_present(true).with_context_frame(table.pfn().0)
    }

    /// The context table.
    #[must_use]
    pub fn table(self) -> HostPhys {
        HostPhys(self.context_frame() << 12)
    }
}

/// TT, the translation type of a context entry: VT-d 9.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranslationType(pub u8);

impl TranslationType {
    /// Untranslated requests go through the second stage; others are blocked.
    pub const SECOND_STAGE: Self = Self(0b00);
    /// Likewise, and the device may have a TLB (ATS). Needs ECAP.DT.
    pub const DEVICE_TLB: Self = Self(0b01);
    /// Untranslated requests pass as they are. Needs ECAP.PT.
    pub const PASS_THROUGH: Self = Self(0b10);

    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    const fn into_bits(self) -> u8 {
        self.0
    }
}

/// A context entry: VT-d 9.3.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct ContextEntry {
    /// P.
    pub present: bool,
    /// FPD: faults of this device are not recorded.
    pub fault_disable: bool,
    /// TT.
    #[bits(2)]
    pub translation: TranslationType,
    #[bits(8)]
    pub(crate) reserved: u8,
    /// SSPTPTR: frame number of the second stage's root.
    #[bits(52)]
    pub root_frame: u64,
    /// AW: 1 is 3 levels, 2 is 4 levels, 3 is 5 levels.
    #[bits(3)]
    pub width: u8,
    #[bits(4)]
    pub(crate) ignored: u8,
    #[bits(1)]
    pub(crate) reserved_high: u8,
    /// DID.
    #[bits(16)]
    pub domain: u16,
    #[bits(40)]
    pub(crate) reserved_top: u64,
}

impl ContextEntry {
    /// A present entry: requests go through the second stage at `root`, of `levels`
    /// (3 to 5), and are tagged with `domain`.
    #[must_use]
    pub fn second_stage(root: HostPhys, levels: u8, domain: u16, translation: TranslationType) -> Self {
        Self::new()
            .with_present(true)
            .with_translation(translation)
            .with_root_frame(root.pfn().0)
            .with_width(levels.saturating_sub(2) & 7)
            .with_domain(domain)
    }

    /// A present entry: requests pass as they are, tagged with `domain`. `levels`: the most that
    /// the unit has.
    #[must_use]
    pub fn pass_through(levels: u8, domain: u16) -> Self {
        Self::second_stage(HostPhys(0), levels, domain, TranslationType::PASS_THROUGH)
    }

    /// The second stage's root.
    #[must_use]
    pub fn root(self) -> HostPhys {
        HostPhys(self.root_frame() << 12)
    }

    /// Levels of the second stage.
    #[must_use]
    pub fn levels(self) -> u8 {
        self.width() + 2
    }
}

/// A 128-bit entry as the pair `[low, high]` that memory holds.
#[must_use]
pub const fn pair(entry: u128) -> [u64; 2] {
    [entry as u64, (entry >> 64) as u64]
}

/// The pair `[low, high]` as one entry.
#[must_use]
pub const fn unpair(pair: [u64; 2]) -> u128 {
    pair[0] as u128 | (pair[1] as u128) << 64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand from VT-d 9.1 and QEMU's VTD_ROOT_ENTRY_P / _CTP: P is bit 0, CTP bits 63:12.
    #[test]
    fn root_vector() {
        let entry = RootEntry::link(HostPhys(0x0000_0008_7654_3000));
        assert_eq!(pair(entry.into_bits()), [0x0000_0008_7654_3001, 0]);
        assert_eq!(RootEntry::from_bits(0xabcd_e001).table(), HostPhys(0xabcd_e000));
    }

    /// By hand from VT-d 9.3 and QEMU's VTD_CONTEXT_ENTRY_*: P bit 0, TT bits 3:2, SSPTPTR 63:12;
    /// AW bits 66:64, DID bits 87:72.
    #[test]
    fn context_vectors() {
        let four = ContextEntry::second_stage(HostPhys(0x1_2345_6000), 4, 0x1234, TranslationType::SECOND_STAGE);
        assert_eq!(pair(four.into_bits()), [0x1_2345_6001, 0x12_3402]);
        let three = ContextEntry::second_stage(HostPhys(0x7000), 3, 1, TranslationType::DEVICE_TLB);
        assert_eq!(pair(three.into_bits()), [0x7005, 0x101]);
        assert_eq!(three.levels(), 3);
        let through = ContextEntry::pass_through(4, 7);
        assert_eq!(pair(through.into_bits()), [0x9, 0x702]);
        assert_eq!(ContextEntry::from_bits(unpair([0x7005, 0x101])).root(), HostPhys(0x7000));
    }
}
