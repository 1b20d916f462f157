//! What SVM has on this CPU (CPUID 8000_000A, APM3 E.4.9). Each is used when there, none is required.

use bitflags::bitflags;

use super::super::hw;
use super::super::limits::has_tsc_aux;

bitflags! {
    /// CPUID 8000_000A, EDX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SvmFeatures: u32 {
        /// Nested paging.
        const NESTED_PAGING = 1 << 0;
        /// VM exits say where the next instruction starts.
        const NEXT_RIP = 1 << 3;
        /// VMCB clean bits.
        const CLEAN_BITS = 1 << 5;
        /// TLB entries of one guest can be flushed.
        const FLUSH_BY_ASID = 1 << 6;
        /// VM exits carry instruction bytes.
        const DECODE_ASSISTS = 1 << 7;
        /// A virtual global interrupt flag.
        const VGIF = 1 << 16;
    }
}

/// SVM as CPUID describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvmInfo {
    /// Optional features.
    pub features: SvmFeatures,
    /// Address space identifiers, 0 (the host's) included.
    pub asids: u32,
    /// INVLPGB and TLBSYNC exist, and must be kept from guests.
    pub invlpgb: bool,
    /// RDTSCP or RDPID exists, hence TSC_AUX.
    pub tsc_aux: bool,
}

impl SvmInfo {
    /// What `cpuid(leaf, subleaf)` says; `None` without SVM.
    #[must_use]
    pub fn from_cpuid(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> Option<Self> {
        let [max, ..] = cpuid(0x8000_0000, 0);
        // SVM is defined from family 0Fh on, where leaf 8000_000A exists with it.
        if max < 0x8000_000a {
            return None;
        }
        let [_, _, c1, _] = cpuid(0x8000_0001, 0);
        if c1 >> 2 & 1 == 0 {
            return None;
        }
        let [_, asids, _, features] = cpuid(0x8000_000a, 0);
        let [_, b8, ..] = cpuid(0x8000_0008, 0);
        Some(Self {
            features: SvmFeatures::from_bits_truncate(features),
            asids,
            invlpgb: b8 >> 3 & 1 == 1,
            tsc_aux: has_tsc_aux(cpuid),
        })
    }

    /// SVM of the CPU this runs on.
    #[must_use]
    pub fn detect() -> Option<Self> {
        Self::from_cpuid(hw::cpuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// QEMU 10, -cpu max under TCG.
    fn qemu(leaf: u32, _: u32) -> [u32; 4] {
        match leaf {
            0 => [0xd, 0, 0, 0],
            7 => [0, 0, 1 << 22, 0],
            0x8000_0000 => [0x8000_000a, 0, 0, 0],
            0x8000_0001 => [0, 0, 0x0000_0065, 0x2c10_0800],
            0x8000_000a => [1, 16, 0, 0x1001_0001],
            _ => [0; 4],
        }
    }

    #[test]
    fn qemu_has_little() {
        let info = SvmInfo::from_cpuid(qemu).unwrap();
        assert_eq!(info.features, SvmFeatures::NESTED_PAGING | SvmFeatures::VGIF);
        assert_eq!(info.asids, 16);
        assert!(info.tsc_aux && !info.invlpgb);
    }

    #[test]
    fn no_svm() {
        assert_eq!(SvmInfo::from_cpuid(|_, _| [0; 4]), None);
        assert_eq!(SvmInfo::from_cpuid(|leaf, s| if leaf == 0x8000_0001 { [0; 4] } else { qemu(leaf, s) }), None);
    }
}
