//! Which feature bits a guest may see. Data only.
//!
//! Left out on purpose, besides what is unknown: VMX, SVM, SMX; MONITOR, MWAITX; performance counters, DS,
//! IBS, LBR; thermal and power management; SGX, PT, TSX, MPX, CET, UINTR, PKS, AMX, key locker, MBM and CAT;
//! XSAVES, XFD; `TSC_ADJUST`; LA57; SEV. Each needs an MSR or an instruction that is not handled.

/// Leaf 1 ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CX16, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
pub(super) const LEAF1_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// Always there: x2APIC, TSC deadline timer, hypervisor.
pub(super) const LEAF1_ECX_FORCED: u32 = bits(&[21, 24, 31]);
/// Leaf 1 EDX: FPU, VME, DE, PSE, TSC, MSR, PAE, MCE, CX8, APIC, SEP, MTRR, PGE, MCA, CMOV, PAT, PSE36, CLFSH, MMX,
/// FXSR, SSE, SSE2, SS.
pub(super) const LEAF1_EDX: u32 =
    bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26, 27]);
/// Several logical CPUs in the package.
pub(super) const LEAF1_EDX_HTT: u32 = 1 << 28;
pub(super) const LEAF1_ECX_XSAVE: u32 = 1 << 26;
pub(super) const LEAF1_ECX_AVX: u32 = bits(&[12, 28, 29]);

/// Leaf 6 EAX: the APIC timer always runs (the emulated one does).
pub(super) const LEAF6_ARAT: u32 = 1 << 2;

/// Leaf 7 EBX: FSGSBASE, BMI1, AVX2, FDP_EXCPTN_ONLY, SMEP, BMI2, ERMS, INVPCID, ZERO_FCS_FDS, AVX512F, AVX512DQ, RDSEED, ADX,
/// SMAP, AVX512IFMA, CLFLUSHOPT, CLWB, AVX512PF, AVX512ER, AVX512CD, SHA, AVX512BW, AVX512VL.
pub(super) const LEAF7_EBX: u32 =
    bits(&[0, 3, 5, 6, 7, 8, 9, 10, 13, 16, 17, 18, 19, 20, 21, 23, 24, 26, 27, 28, 29, 30, 31]);
pub(super) const LEAF7_EBX_AVX2: u32 = 1 << 5;
pub(super) const LEAF7_EBX_AVX512: u32 = bits(&[16, 17, 21, 26, 27, 28, 30, 31]);
/// Leaf 7 ECX: PREFETCHWT1, AVX512VBMI, UMIP, PKU, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID, CLDEMOTE,
/// MOVDIRI, MOVDIR64B.
pub(super) const LEAF7_ECX: u32 = bits(&[0, 1, 2, 3, 6, 8, 9, 10, 11, 12, 14, 22, 25, 27, 28]);
pub(super) const LEAF7_ECX_PKU: u32 = 1 << 3;
pub(super) const LEAF7_ECX_AVX: u32 = bits(&[9, 10]);
pub(super) const LEAF7_ECX_AVX512: u32 = bits(&[1, 6, 11, 12, 14]);
/// Leaf 7 EDX: FSRM, AVX512_VP2INTERSECT, MD_CLEAR, SERIALIZE, AVX512_FP16.
pub(super) const LEAF7_EDX: u32 = bits(&[4, 8, 10, 14, 23]);
pub(super) const LEAF7_EDX_AVX512: u32 = bits(&[8, 23]);
/// SPEC_CTRL, STIBP, SSBD.
pub(super) const LEAF7_EDX_SPECULATION: u32 = bits(&[26, 27, 31]);
/// Leaf 7.1 EAX: AVX_VNNI, AVX512_BF16, FZRM, FSRS, FSRCS, AVX_IFMA.
pub(super) const LEAF7_1_EAX: u32 = bits(&[4, 5, 10, 11, 12, 23]);
pub(super) const LEAF7_1_EAX_AVX: u32 = bits(&[4, 23]);
pub(super) const LEAF7_1_EAX_AVX512: u32 = 1 << 5;

/// Leaf 0xD.1 EAX: XSAVEOPT, XSAVEC, XGETBV with ECX = 1.
pub(super) const LEAF_D_1_EAX: u32 = bits(&[0, 1, 2]);
pub(super) const XSAVEC: u32 = 1 << 1;

/// Extended leaf 1 ECX: LAHF, CR8 legacy, ABM, SSE4A, misaligned SSE, PREFETCHW, XOP, FMA4, TBM, topology extensions.
pub(super) const EXTENDED1_ECX: u32 = bits(&[0, 4, 5, 6, 7, 8, 11, 16, 21, 22]);
pub(super) const EXTENDED1_ECX_CMP_LEGACY: u32 = 1 << 1;
pub(super) const EXTENDED1_ECX_AVX: u32 = bits(&[11, 16]);
/// Extended leaf 1 EDX, own bits: SYSCALL, NX, MMXEXT, FXSR_OPT, 1 GiB pages, RDTSCP, LM.
pub(super) const EXTENDED1_EDX: u32 = bits(&[11, 20, 22, 25, 26, 27, 29]);
/// Extended leaf 1 EDX, copies of leaf 1 on AMD: all of that but SEP, CLFSH, SSE, SSE2, SS.
pub(super) const EXTENDED1_EDX_COPIES: u32 = LEAF1_EDX & !bits(&[11, 19, 25, 26, 27]);
/// Extended leaf 7 EDX: invariant TSC.
pub(super) const EXTENDED7_EDX: u32 = 1 << 8;
/// Extended leaf 8 EBX: CLZERO, XSAVEERPTR, WBNOINVD.
pub(super) const EXTENDED8_EBX: u32 = bits(&[0, 2, 9]);
/// IBPB, IBRS, STIBP, SSBD.
pub(super) const EXTENDED8_EBX_SPECULATION: u32 = bits(&[12, 14, 15, 24]);
/// Extended leaf 0x21 EAX: LFENCE serializes, null selector clears base, automatic IBRS is not given.
pub(super) const EXTENDED21_EAX: u32 = bits(&[2, 6]);

/// "KVMKVMKVM\0\0\0" in EBX, ECX, EDX (Linux Documentation/virt/kvm/x86/cpuid.rst).
pub(super) const KVM_SIGNATURE: [u32; 3] = [0x4B4D_564B, 0x564B_4D56, 0x0000_004D];
/// CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, CLOCKSOURCE_STABLE.
pub(super) const KVM_FEATURES: u32 = bits(&[0, 1, 3, 24]);

/// XCR0: x87, SSE; AVX; the three of AVX-512; PKRU.
pub(super) const XCR0_BASE: u64 = 3;
pub(super) const XCR0_AVX: u64 = 1 << 2;
pub(super) const XCR0_AVX512: u64 = 7 << 5;
pub(super) const XCR0_PKRU: u64 = 1 << 9;

const fn bits(positions: &[u32]) -> u32 {
    let mut mask = 0;
    let mut index = 0;
    while index < positions.len() {
        mask |= 1 << positions[index];
        index += 1;
    }
    mask
}
