//! CPUID: SDM 2A, APM3 appendix E.

use core::arch::x86_64::{__cpuid_count, CpuidResult};

/// Who made the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// "GenuineIntel".
    Intel,
    /// "AuthenticAMD" or "HygonGenuine".
    Amd,
    /// Anyone else, by the name CPUID gives.
    Other([u8; 12]),
}

/// CPUID of `leaf` and `subleaf`; all zero for a leaf above the highest one (where
/// hardware would answer with another leaf's data).
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let highest = raw(leaf & 0x8000_0000, 0).eax;
    if leaf > highest || (leaf ^ highest) & 0x8000_0000 != 0 {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    raw(leaf, subleaf)
}

/// CPUID without a look at the highest leaf, for leaves in ranges of their own (0x4000_0000).
#[must_use]
pub fn raw(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// Who made the CPU.
#[must_use]
pub fn vendor() -> Vendor {
    let id = raw(0, 0);
    let mut name = [0; 12];
    for (part, register) in name.chunks_exact_mut(4).zip([id.ebx, id.edx, id.ecx]) {
        part.copy_from_slice(&register.to_le_bytes());
    }
    match &name {
        b"GenuineIntel" => Vendor::Intel,
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Other(name),
    }
}

/// This CPU's APIC id: the 32-bit one where leaf 0xB or 0x1F has it, else the 8-bit one.
#[must_use]
pub fn apic_id() -> u32 {
    for leaf in [0x1f, 0xb] {
        let topology = cpuid(leaf, 0);
        // EBX is zero where the leaf is not implemented (SDM 2A).
        if topology.ebx != 0 {
            return topology.edx;
        }
    }
    raw(1, 0).ebx >> 24
}

/// Bits in a physical address, at most 52.
#[must_use]
pub fn physical_bits() -> u8 {
    match (cpuid(0x8000_0008, 0).eax & 0xff) as u8 {
        0 => 36,
        bits => bits.min(52),
    }
}

/// Whether 1 GiB leaves are understood by the CPU's own walker.
#[must_use]
pub fn gigabyte_pages() -> bool {
    cpuid(0x8000_0001, 0).edx & 1 << 26 != 0
}

/// Whether the CPU has x2APIC mode.
#[must_use]
pub fn x2apic() -> bool {
    raw(1, 0).ecx & 1 << 21 != 0
}

/// Whether the CPU has XSAVE.
#[must_use]
pub fn xsave() -> bool {
    raw(1, 0).ecx & 1 << 26 != 0
}

/// Whether the CPU has SVM (APM2 15.4).
#[must_use]
pub fn svm() -> bool {
    cpuid(0x8000_0001, 0).ecx & 1 << 2 != 0
}

/// Whether the CPU has VMX (SDM 3C 24.6).
#[must_use]
pub fn vmx() -> bool {
    raw(1, 0).ecx & 1 << 5 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_answers() {
        let highest = raw(0, 0).eax;
        let beyond = cpuid(highest + 1, 0);
        assert_eq!((beyond.eax, beyond.ebx, beyond.ecx, beyond.edx), (0, 0, 0, 0));
        // Long mode, without which this would not run.
        assert_ne!(cpuid(0x8000_0001, 0).edx & 1 << 29, 0);
        assert!((32..=52).contains(&physical_bits()));
    }
}
