//! Root, context, PASID directory and PASID entries of scalable mode: VT-d 9.2, 9.4 to 9.6.

use bitfield_struct::bitfield;
use machine::addr::HostPhys;

/// Entries in a scalable-mode context table: half a bus.
pub const CONTEXTS: u64 = 128;
/// Bytes of a scalable-mode context entry.
pub const CONTEXT_BYTES: u64 = 32;
/// Bytes of a PASID directory entry.
pub const DIRECTORY_ENTRY_BYTES: u64 = 8;
/// Entries in a PASID table, which is one frame.
pub const PASIDS: u64 = 64;
/// Bytes of a PASID entry.
pub const PASID_BYTES: u64 = 64;

/// One half of a scalable-mode root entry, for 16 devices of a bus: VT-d 9.2.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct HalfRootEntry {
    /// LP or UP.
    pub present: bool,
    #[bits(11)]
    pub(crate) reserved: u16,
    /// LCTP or UCTP: frame number of the context table.
    #[bits(52)]
    pub context_frame: u64,
}

impl HalfRootEntry {
    /// A present half that links the context table at `table`, a frame.
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

/// The low 128 bits of a scalable-mode context entry; the high ones are reserved: VT-d 9.4.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct ScalableContextEntry {
    /// P.
    pub present: bool,
    /// FPD: faults of this device are not recorded.
    pub fault_disable: bool,
    /// DTE: the device may have a TLB (ATS). Needs ECAP.DT.
    pub device_tlb: bool,
    /// PASIDE: requests with PASID are looked up, not blocked.
    pub pasids: bool,
    /// PRE: page requests. Never set by this driver.
    pub page_requests: bool,
    #[bits(4)]
    pub(crate) reserved: u8,
    /// PDTS: the directory has 2^(PDTS + 7) entries.
    #[bits(3)]
    pub directory_size: u8,
    /// PASIDDIRPTR: frame number of the PASID directory.
    #[bits(52)]
    pub directory_frame: u64,
    /// RID_PASID: which PASID entry requests without PASID use.
    #[bits(20)]
    pub own_pasid: u32,
    /// RID_PRIV: requests without PASID are privileged.
    pub own_privileged: bool,
    #[bits(43)]
    pub(crate) reserved_high: u64,
}

impl ScalableContextEntry {
    /// A present entry: requests go through the PASID directory at `directory`, one frame
    /// of 512 entries; those without PASID use the entry of PASID 0 (a unit without
    /// ECAP.RPS knows no other).
    #[must_use]
    pub fn directory(directory: HostPhys, device_tlb: bool, pasids: bool) -> Self {
        Self::new()
            .with_present(true)
            .with_device_tlb(device_tlb)
            .with_pasids(pasids)
            .with_directory_size(2)
            .with_directory_frame(directory.pfn().0)
    }
}

/// A PASID directory entry: VT-d 9.5.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct DirectoryEntry {
    /// P.
    pub present: bool,
    /// FPD: faults are not recorded.
    pub fault_disable: bool,
    #[bits(10)]
    pub(crate) reserved: u16,
    /// SMPTBLPTR: frame number of the PASID table.
    #[bits(52)]
    pub table_frame: u64,
}

impl DirectoryEntry {
    /// A present entry that links the PASID table at `table`, a frame.
    #[must_use]
    pub fn link(table: HostPhys) -> Self {
        Self::new().with_present(true).with_table_frame(table.pfn().0)
    }

    /// The PASID table.
    #[must_use]
    pub fn table(self) -> HostPhys {
        HostPhys(self.table_frame() << 12)
    }
}

/// PGTT, which tables a PASID entry leads to: VT-d 9.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation(pub u8);

impl Translation {
    /// The first stage only.
    pub const FIRST_STAGE: Self = Self(0b001);
    /// The second stage only.
    pub const SECOND_STAGE: Self = Self(0b010);
    /// The first stage, whose result the second translates.
    pub const NESTED: Self = Self(0b011);
    /// None.
    pub const PASS_THROUGH: Self = Self(0b100);

    const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    const fn into_bits(self) -> u8 {
        self.0
    }
}

/// Bits 127:0 of a PASID entry: VT-d 9.6.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct PasidLow {
    /// P.
    pub present: bool,
    /// FPD: faults are not recorded.
    pub fault_disable: bool,
    /// AW: second-stage levels, minus two.
    #[bits(3)]
    pub width: u8,
    /// SSEE: the second stage checks execution.
    pub second_execute: bool,
    /// PGTT.
    #[bits(3)]
    pub translation: Translation,
    /// SSADE: the second stage keeps accessed and dirty bits.
    pub second_dirty: bool,
    #[bits(2)]
    pub(crate) reserved: u8,
    /// SSPTPTR: frame number of the second stage's root.
    #[bits(52)]
    pub second_frame: u64,
    /// DID.
    #[bits(16)]
    pub domain: u16,
    #[bits(7)]
    pub(crate) reserved_middle: u8,
    /// PWSNP: page walks snoop. Reserved unless ECAP.SMPWC.
    pub walk_snoop: bool,
    /// PGSNP: requests snoop, whatever they ask for. Reserved unless ECAP.SC.
    pub page_snoop: bool,
    #[bits(39)]
    pub(crate) reserved_high: u64,
}

/// Bits 255:128 of a PASID entry: VT-d 9.6.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct PasidFirst {
    /// SRE: privileged requests are allowed.
    pub supervisor: bool,
    #[bits(1)]
    pub(crate) reserved: u8,
    /// FSPM: 0 is 4 levels, 1 is 5.
    #[bits(2)]
    pub mode: u8,
    /// WPE: privileged requests heed the write permission.
    pub write_protect: bool,
    /// NXE: first-stage entries may forbid execution.
    pub no_execute: bool,
    /// SMEP.
    pub supervisor_execution_prevention: bool,
    /// EAFE: hardware keeps the extended accessed bit. Reserved unless ECAP.EAFS.
    pub extended_accessed: bool,
    #[bits(4)]
    pub(crate) reserved_middle: u8,
    /// FSPTPTR: frame number of the first stage's root; with nesting a guest frame.
    #[bits(52)]
    pub first_frame: u64,
    #[bits(64)]
    pub(crate) reserved_high: u64,
}

/// A PASID entry: 512 bits, of which the upper half is reserved. The constructors are its
/// only legal shapes; requests are unprivileged, and nothing is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PasidEntry {
    /// Bits 127:0, with P.
    pub low: PasidLow,
    /// Bits 255:128.
    pub first: PasidFirst,
}

/// Which caches a unit looks into: as ECAP.SMPWC and ECAP.SC allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Snooping {
    /// PWSNP.
    pub walks: bool,
    /// PGSNP.
    pub pages: bool,
}

impl PasidEntry {
    fn present(domain: u16, translation: Translation, snooping: Snooping) -> PasidLow {
        PasidLow::new()
            .with_present(true)
            .with_translation(translation)
            .with_domain(domain)
            .with_walk_snoop(snooping.walks)
            .with_page_snoop(snooping.pages)
    }

    fn first(root: u64, levels: u8) -> PasidFirst {
        PasidFirst::new().with_mode(levels.saturating_sub(4) & 3).with_first_frame(root >> 12)
    }

    /// The second stage at `root`, of `levels` (3 to 5).
    #[must_use]
    pub fn second_stage(root: HostPhys, levels: u8, domain: u16, snooping: Snooping) -> Self {
        let low = Self::present(domain, Translation::SECOND_STAGE, snooping)
            .with_width(levels.saturating_sub(2) & 7)
            .with_second_frame(root.pfn().0);
        Self { low, first: PasidFirst::new() }
    }

    /// The first stage at `root`, of `levels` (4 or 5).
    #[must_use]
    pub fn first_stage(root: HostPhys, levels: u8, domain: u16, snooping: Snooping) -> Self {
        Self { low: Self::present(domain, Translation::FIRST_STAGE, snooping), first: Self::first(root.0, levels) }
    }

    /// The first stage at `first`, an address that the second stage `second` translates, of `levels` (4 or 5).
    #[must_use]
    pub fn nested(first: u64, levels: u8, second: (HostPhys, u8), domain: u16, snooping: Snooping) -> Self {
        let outer = Self::second_stage(second.0, second.1, domain, snooping);
        Self { low: outer.low.with_translation(Translation::NESTED), first: Self::first(first, levels) }
    }

    /// No translation. `levels`: the most that the unit's second stage has.
    #[must_use]
    pub fn pass_through(levels: u8, domain: u16, snooping: Snooping) -> Self {
        let low = Self::present(domain, Translation::PASS_THROUGH, snooping).with_width(levels.saturating_sub(2) & 7);
        Self { low, first: PasidFirst::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intel::spec::tables::pair;

    fn words(entry: PasidEntry) -> [u64; 4] {
        let ([a, b], [c, d]) = (pair(entry.low.into_bits()), pair(entry.first.into_bits()));
        [a, b, c, d]
    }

    /// By hand from VT-d 9.2 and 9.5, and QEMU's VTD_ROOT_ENTRY_P, VTD_PASID_ENTRY_P: P is bit 0, the pointer bits 63:12.
    #[test]
    fn links() {
        assert_eq!(HalfRootEntry::link(HostPhys(0x8_7654_3000)).into_bits(), 0x8_7654_3001);
        assert_eq!(HalfRootEntry::from_bits(0xabcd_e001).table(), HostPhys(0xabcd_e000));
        assert_eq!(DirectoryEntry::link(HostPhys(0x7000)).into_bits(), 0x7001);
        assert_eq!(DirectoryEntry::from_bits(0x1_2345_6001).table(), HostPhys(0x1_2345_6000));
    }

    /// By hand from VT-d 9.4, Linux's context_set_sm_dte (bit 2), context_set_pasid (bit 3), context_pdts (bits 11:9)
    /// and QEMU's VTD_SM_CONTEXT_ENTRY_RID2PASID_MASK (bits 83:64).
    #[test]
    fn context_vectors() {
        let plain = ScalableContextEntry::directory(HostPhys(0x1_2345_6000), false, false);
        assert_eq!(pair(plain.into_bits()), [0x1_2345_6401, 0]);
        let all = ScalableContextEntry::directory(HostPhys(0x7000), true, true);
        assert_eq!(pair(all.into_bits()), [0x740d, 0]);
        let own = ScalableContextEntry::new().with_own_pasid(0xf_ffff).with_page_requests(true);
        assert_eq!(pair(own.into_bits()), [0x10, 0xf_ffff]);
        // QEMU's VTD_SM_CONTEXT_ENTRY_RSVD_VAL0 and _VAL1 stay clear.
        let extreme = ScalableContextEntry::directory(HostPhys(0x000f_ffff_ffff_f000), true, true);
        let [low, high] = pair(extreme.into_bits());
        assert_eq!((low & 0x1e0, high & 0xffff_ffff_ffe0_0000), (0, 0));
    }

    /// By hand from VT-d 9.6, Linux's pasid.h (AW bits 4:2, PGTT bits 8:6, DID bits 79:64, PWSNP 87, PGSNP 88, FSPM bits
    /// 131:130) and QEMU's VTD_SM_PASID_ENTRY_*: FLT 1, SLT 2, NESTED 3, PT 4 in bits 8:6.
    #[test]
    fn pasid_vectors() {
        let (none, all) = (Snooping::default(), Snooping { walks: true, pages: true });
        let second = PasidEntry::second_stage(HostPhys(0x1_2345_6000), 4, 0x1234, none);
        assert_eq!(words(second), [0x1_2345_6089, 0x1234, 0, 0]);
        let second = PasidEntry::second_stage(HostPhys(0x7000), 3, 1, all);
        assert_eq!(words(second), [0x7085, 0x0180_0001, 0, 0]);
        let first = PasidEntry::first_stage(HostPhys(0x9000), 4, 7, none);
        assert_eq!(words(first), [0x41, 7, 0x9000, 0]);
        let first = PasidEntry::first_stage(HostPhys(0x9000), 5, 7, Snooping { walks: true, pages: false });
        assert_eq!(words(first), [0x41, 0x0080_0007, 0x9004, 0]);
        let nested = PasidEntry::nested(0xabc_d000, 4, (HostPhys(0x7000), 4), 9, none);
        assert_eq!(words(nested), [0x70c9, 9, 0xabc_d000, 0]);
        assert_eq!(words(PasidEntry::pass_through(4, 3, none)), [0x109, 3, 0, 0]);
        assert_eq!(words(PasidEntry::default()), [0; 4]);
    }

    /// PASIDE 3, EAFE 135, SRE 128, SSADE 9, as Linux's pasid.c sets them.
    #[test]
    fn single_bits() {
        assert_eq!(PasidLow::new().with_second_dirty(true).into_bits(), 1 << 9);
        assert_eq!(PasidFirst::new().with_supervisor(true).into_bits(), 1);
        assert_eq!(PasidFirst::new().with_extended_accessed(true).into_bits(), 1 << 7);
        assert_eq!(PasidFirst::new().with_write_protect(true).into_bits(), 1 << 4);
    }
}
