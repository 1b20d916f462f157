//! Making the table from the host's CPUID.

use alloc::vec::Vec;

use super::features::*;
use super::{CpuidConfig, CpuidEntry};
use crate::vcpu::bus::CpuidResult;

/// The highest basic leaf shown: extended state. What follows is monitoring, SGX, PT, frequencies.
const LAST_BASIC: u32 = 0xD;
/// The highest extended leaf shown.
const LAST_EXTENDED: u32 = 0x8000_0021;
/// "Auth" of AuthenticAMD, "Hygo" of HygonGenuine, in EBX of leaf 0.
const AMD_LIKE: [u32; 2] = [0x6874_7541, 0x6F67_7948];
/// A cache list without end is broken.
const MOST_CACHES: u32 = 8;

struct Builder<'a> {
    config: &'a CpuidConfig,
    host: &'a dyn Fn(u32, u32) -> CpuidResult,
    amd: bool,
    last_basic: u32,
    last_extended: u32,
    /// Extended states the guest can enable.
    xcr0: u64,
    entries: Vec<CpuidEntry>,
}

pub(super) fn build(config: &CpuidConfig, host: &dyn Fn(u32, u32) -> CpuidResult) -> Vec<CpuidEntry> {
    let [last_basic, vendor, ..] = host(0, 0);
    let [last_extended, ..] = host(0x8000_0000, 0);
    let last_extended = if last_extended >> 16 == 0x8000 { last_extended } else { 0 };
    let mut builder = Builder {
        config,
        host,
        amd: AMD_LIKE.contains(&vendor),
        last_basic,
        last_extended: last_extended.min(LAST_EXTENDED),
        xcr0: 0,
        entries: Vec::new(),
    };
    builder.xcr0 = builder.extended_states();
    builder.basic();
    builder.extended_state();
    builder.hypervisor();
    builder.extended();
    builder.entries.sort_unstable_by_key(|entry| (entry.leaf, entry.subleaf));
    builder.entries
}

/// The bits of an APIC id that tell `n` CPUs apart.
const fn id_bits(n: u32) -> u32 {
    u32::BITS - n.saturating_sub(1).leading_zeros()
}

impl Builder<'_> {
    fn host(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        (self.host)(leaf, subleaf)
    }

    fn add(&mut self, leaf: u32, subleaf: u32, values: CpuidResult) {
        self.entries.push(CpuidEntry { leaf, subleaf, values });
    }

    fn has(&self, state: u64) -> bool {
        self.xcr0 & state == state
    }

    /// Bits of XCR0 a guest may set: those of the host that the vCPU module saves, whole groups only.
    fn extended_states(&self) -> u64 {
        let [_, _, features, _] = self.host(1, 0);
        if self.last_basic < 0xD || features & LEAF1_ECX_XSAVE == 0 {
            return 0;
        }
        let [low, _, _, high] = self.host(0xD, 0);
        let mut states = (u64::from(low) | u64::from(high) << 32) & self.config.xcr0;
        if states & XCR0_BASE != XCR0_BASE {
            return 0;
        }
        if states & XCR0_AVX == 0 || states & XCR0_AVX512 != XCR0_AVX512 {
            states &= !XCR0_AVX512;
        }
        states & (XCR0_BASE | XCR0_AVX | XCR0_AVX512 | XCR0_PKRU)
    }

    /// The number of CPUs rounded up to what APIC id bits can tell apart.
    fn rounded(&self) -> u32 {
        1u32.checked_shl(id_bits(self.config.vcpus)).unwrap_or(u32::MAX)
    }

    fn basic(&mut self) {
        let [_, vendor_b, vendor_c, vendor_d] = self.host(0, 0);
        let last = self.last_basic.clamp(0xB, LAST_BASIC);
        self.add(0, 0, [last, vendor_b, vendor_c, vendor_d]);

        let [version, misc, ecx, edx] = self.host(1, 0);
        let mut ecx = ecx & LEAF1_ECX | LEAF1_ECX_FORCED;
        if self.xcr0 == 0 {
            ecx &= !LEAF1_ECX_XSAVE;
        }
        if !self.has(XCR0_AVX) {
            ecx &= !LEAF1_ECX_AVX;
        }
        let mut edx = edx & LEAF1_EDX;
        if self.config.vcpus > 1 {
            edx |= LEAF1_EDX_HTT;
        }
        // The query adds the APIC id.
        let count = self.rounded().min(0xFF) << 16;
        self.add(1, 0, [version, misc & 0xFFFF | count, ecx, edx]);

        if self.last_basic >= 2 && !self.amd {
            let values = self.host(2, 0);
            self.add(2, 0, values);
        }
        if self.last_basic >= 4 && !self.amd {
            self.caches(4);
        }
        self.add(6, 0, [LEAF6_ARAT, 0, 0, 0]);
        if self.last_basic >= 7 {
            self.features();
        }
        // One thread per core, all cores in one package (SDM 3A 9.9).
        let threads = 1 << 8;
        let cores = 1 | 2 << 8;
        self.add(0xB, 0, [0, 1, threads, 0]);
        self.add(0xB, 1, [id_bits(self.config.vcpus), self.config.vcpus, cores, 0]);
    }

    /// Leaf 7, without what needs a state that XCR0 does not offer.
    fn features(&mut self) {
        let [last, mut ebx, mut ecx, mut edx] = self.host(7, 0);
        ebx &= LEAF7_EBX;
        ecx &= LEAF7_ECX;
        edx &= LEAF7_EDX | if self.config.speculation_control { LEAF7_EDX_SPECULATION } else { 0 };
        let [eax_1, ..] = if last >= 1 { self.host(7, 1) } else { [0; 4] };
        let mut eax_1 = eax_1 & LEAF7_1_EAX;
        if !self.has(XCR0_AVX) {
            ebx &= !LEAF7_EBX_AVX2;
            ecx &= !LEAF7_ECX_AVX;
            eax_1 &= !LEAF7_1_EAX_AVX;
        }
        if !self.has(XCR0_AVX512) {
            ebx &= !LEAF7_EBX_AVX512;
            ecx &= !LEAF7_ECX_AVX512;
            edx &= !LEAF7_EDX_AVX512;
            eax_1 &= !LEAF7_1_EAX_AVX512;
        }
        if !self.has(XCR0_PKRU) {
            ecx &= !LEAF7_ECX_PKU;
        }
        self.add(7, 0, [last.min(1), ebx, ecx, edx]);
        if last >= 1 {
            self.add(7, 1, [eax_1, 0, 0, 0]);
        }
    }

    /// Leaf 4 or 0x8000_001D: the host's caches, the last level shared by all vCPUs.
    fn caches(&mut self, leaf: u32) {
        for index in 0..MOST_CACHES {
            let [eax, ebx, ecx, edx] = self.host(leaf, index);
            let (kind, level) = (eax & 0x1F, eax >> 5 & 7);
            if kind == 0 {
                break;
            }
            let sharing = if level >= 3 { self.rounded() - 1 } else { 0 };
            let cores = if leaf == 4 { (self.rounded() - 1).min(0x3F) } else { 0 };
            let eax = eax & 0x3FFF | sharing.min(0xFFF) << 14 | cores << 26;
            self.add(leaf, index, [eax, ebx, ecx, edx]);
        }
    }

    /// Leaf 0xD; sizes that depend on XCR0 are computed by the query.
    fn extended_state(&mut self) {
        if self.xcr0 == 0 {
            return;
        }
        let mut largest = super::XSAVE_HEADER_END;
        for index in 2..63 {
            if self.xcr0 & 1 << index != 0 {
                let [size, offset, flags, _] = self.host(0xD, index);
                largest = largest.max(offset.saturating_add(size));
                self.add(0xD, index, [size, offset, flags & super::XSAVE_ALIGNED, 0]);
            }
        }
        let states = self.xcr0;
        self.add(0xD, 0, [states as u32, 0, largest, (states >> 32) as u32]);
        let [eax, ..] = self.host(0xD, 1);
        let hidden = if self.config.hide_xsavec { XSAVEC } else { 0 };
        self.add(0xD, 1, [eax & LEAF_D_1_EAX & !hidden, 0, 0, 0]);
    }

    fn hypervisor(&mut self) {
        let [b, c, d] = KVM_SIGNATURE;
        self.add(0x4000_0000, 0, [0x4000_0010, b, c, d]);
        self.add(0x4000_0001, 0, [KVM_FEATURES, 0, 0, 0]);
        // TSC and LAPIC timer in kHz, as VMware began it.
        self.add(0x4000_0010, 0, [self.config.tsc_khz, self.config.tsc_khz, 0, 0]);
    }

    fn extended(&mut self) {
        let last = self.last_extended;
        if last < 0x8000_0001 {
            return;
        }
        let [_, vendor_b, vendor_c, vendor_d] = self.host(0x8000_0000, 0);
        self.add(0x8000_0000, 0, [last, vendor_b, vendor_c, vendor_d]);

        let [version, brand, mut ecx, edx] = self.host(0x8000_0001, 0);
        ecx &= EXTENDED1_ECX;
        if !self.has(XCR0_AVX) {
            ecx &= !EXTENDED1_ECX_AVX;
        }
        if self.amd && self.config.vcpus > 1 {
            ecx |= EXTENDED1_ECX_CMP_LEGACY;
        }
        let copies = if self.amd { EXTENDED1_EDX_COPIES } else { 0 };
        self.add(0x8000_0001, 0, [version, brand, ecx, edx & (EXTENDED1_EDX | copies)]);

        // Brand string, caches and TLBs as they are.
        for leaf in [0x8000_0002, 0x8000_0003, 0x8000_0004, 0x8000_0005, 0x8000_0006, 0x8000_0019, 0x8000_001A] {
            if last >= leaf {
                let values = self.host(leaf, 0);
                self.add(leaf, 0, values);
            }
        }
        if last >= 0x8000_0007 {
            let [.., edx] = self.host(0x8000_0007, 0);
            self.add(0x8000_0007, 0, [0, 0, 0, edx & EXTENDED7_EDX]);
        }
        if last >= 0x8000_0008 {
            self.address_sizes();
        }
        if last >= 0x8000_001D && self.amd {
            self.caches(0x8000_001D);
        }
        if last >= 0x8000_001E && self.amd {
            // The query adds the ids; one thread per core, one node.
            self.add(0x8000_001E, 0, [0; 4]);
        }
        if last >= 0x8000_0021 && self.amd {
            let [eax, ..] = self.host(0x8000_0021, 0);
            self.add(0x8000_0021, 0, [eax & EXTENDED21_EAX, 0, 0, 0]);
        }
    }

    fn address_sizes(&mut self) {
        let [eax, ebx, ..] = self.host(0x8000_0008, 0);
        // No LA57: at most 48 bits of a linear address.
        let linear = (eax >> 8 & 0xFF).clamp(32, 48);
        let speculation = if self.config.speculation_control { EXTENDED8_EBX_SPECULATION } else { 0 };
        let ecx = if self.amd {
            (self.config.vcpus.saturating_sub(1)).min(0xFF) | id_bits(self.config.vcpus) << 12
        } else {
            0
        };
        let eax = u32::from(self.config.physical_bits) | linear << 8;
        self.add(0x8000_0008, 0, [eax, ebx & (EXTENDED8_EBX | speculation), ecx, 0]);
    }
}
