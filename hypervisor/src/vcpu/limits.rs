//! What this machine's CPUs allow in a guest, and the check of a foreign state
//! against it: a state that passes cannot make a VM entry fail.

use core::fmt;

use super::event::EventKind;
use super::state::{
    ArchState, CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_LA57, CR4_OSXSAVE, CR4_PAE, EFER_LMA, EFER_LME, EFER_NXE,
    RFLAGS_FIXED, RFLAGS_VM, Segment, SegmentName,
};

/// Bits and widths that a guest may use on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bits of CR4 that may be set.
    pub cr4: u64,
    /// Bits of EFER that a guest may set (LMA included, SVME not).
    pub efer: u64,
    /// Bits of XCR0 that may be set; 0 when there is no XSAVE.
    pub xcr0: u64,
    /// Bits of a physical address.
    pub physical_bits: u8,
}

impl Limits {
    /// The limits that `cpuid(leaf, subleaf)` announces.
    #[must_use]
    pub fn from_cpuid(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> Self {
        let [max, ..] = cpuid(0, 0);
        let [max_extended, ..] = cpuid(0x8000_0000, 0);
        let leaf = |number: u32, limit: u32| {
            if number <= limit { cpuid(number, 0) } else { [0; 4] }
        };
        let [_, _, c1, d1] = leaf(1, max);
        let [_, b7, c7, _] = leaf(7, max);
        let [_, _, c81, d81] = leaf(0x8000_0001, max_extended);
        let [a88, ..] = leaf(0x8000_0008, max_extended);

        // (feature word, its bit, the bit of CR4): SDM 3A 2.5, APM2 3.1.3. CET, PKS, VMX and SMX are not for guests.
        let table = [
            (d1, 1, 0),   // VME
            (d1, 1, 1),   // PVI
            (d1, 4, 2),   // TSD
            (d1, 2, 3),   // DE
            (d1, 3, 4),   // PSE
            (d1, 6, 5),   // PAE
            (d1, 7, 6),   // MCE
            (d1, 13, 7),  // PGE
            (d1, 24, 9),  // OSFXSR
            (d1, 25, 10), // OSXMMEXCPT
            (c7, 2, 11),  // UMIP
            (c7, 16, 12), // LA57
            (b7, 0, 16),  // FSGSBASE
            (c1, 17, 17), // PCIDE
            (c1, 26, 18), // OSXSAVE
            (b7, 7, 20),  // SMEP
            (b7, 20, 21), // SMAP
            (c7, 3, 22),  // PKE
        ];
        let mut cr4 = 1 << 8; // PCE
        for (word, bit, cr4_bit) in table {
            if word >> bit & 1 == 1 {
                cr4 |= 1u64 << cr4_bit;
            }
        }
        let mut efer = 0;
        for (word, bit, mask) in [
            (d81, 11, 1u64),
            (d81, 29, EFER_LME | EFER_LMA),
            (d81, 20, EFER_NXE),
            (d81, 25, 1 << 14),
            (c81, 17, 1 << 15),
        ] {
            if word >> bit & 1 == 1 {
                efer |= mask;
            }
        }
        let xcr0 = if c1 >> 26 & 1 == 1 && max >= 0xd {
            let [low, _, _, high] = cpuid(0xd, 0);
            u64::from(low) | u64::from(high) << 32
        } else {
            0
        };
        let physical_bits = match a88 as u8 {
            bits @ 32..=52 => bits,
            _ => 36,
        };
        Self { cr4, efer, xcr0, physical_bits }
    }

    /// The limits of the CPU this runs on.
    #[must_use]
    pub fn detect() -> Self {
        Self::from_cpuid(super::hw::cpuid)
    }

    /// Whether XSETBV accepts `value` (SDM 1 13.3, APM2 11.5.2).
    #[must_use]
    pub fn xcr0_is_valid(&self, value: u64) -> bool {
        const SSE_AVX: u64 = 0x6;
        const MPX: u64 = 0x18;
        const AVX512: u64 = 0xe0;
        const AMX: u64 = 0x6_0000;
        let whole = |set: u64| value & set == 0 || value & set == set;
        value & 1 == 1
            && value & !(self.xcr0 | 1) == 0
            && (value & 4 == 0 || value & SSE_AVX == SSE_AVX)
            && whole(MPX)
            && whole(AVX512)
            && (value & AVX512 == 0 || value & SSE_AVX == SSE_AVX)
            && whole(AMX)
    }

    /// Whether `address` is canonical for a CPU with `cr4`.
    #[must_use]
    pub const fn is_canonical(&self, address: u64, cr4: u64) -> bool {
        let unused = if cr4 & CR4_LA57 != 0 { 7 } else { 16 };
        ((address << unused) as i64 >> unused) as u64 == address
    }

    /// Checks a whole state (APM2 15.5.1, "canonicalization and consistency checks", and stricter where
    /// a looser state would only fault later).
    ///
    /// # Errors
    /// The first register that is not acceptable.
    pub fn check(&self, state: &ArchState) -> Result<(), InvalidState> {
        let bad = |register: &'static str, value: u64| Err(InvalidState { register, value });
        let s = state;
        let paging = s.cr0 & CR0_PG != 0;
        let long = s.efer & EFER_LME != 0 && paging;

        if s.cr0 >> 32 != 0 || (s.cr0 & CR0_CD == 0 && s.cr0 & CR0_NW != 0) || (paging && s.cr0 & CR0_PE == 0) {
            return bad("CR0", s.cr0);
        }
        if s.cr3 >> self.physical_bits != 0 {
            return bad("CR3", s.cr3);
        }
        if s.cr4 & !self.cr4 != 0 || (long && s.cr4 & CR4_PAE == 0) {
            return bad("CR4", s.cr4);
        }
        if s.cr8 > 15 {
            return bad("CR8", s.cr8);
        }
        if s.efer & !self.efer != 0 || (s.efer & EFER_LMA != 0) != long {
            return bad("EFER", s.efer);
        }
        let xcr0_ok = if self.xcr0 == 0 { s.xcr0 <= 1 } else { self.xcr0_is_valid(s.xcr0) };
        if !xcr0_ok || (s.cr4 & CR4_OSXSAVE != 0 && self.xcr0 == 0) {
            return bad("XCR0", s.xcr0);
        }
        if s.dr6 >> 32 != 0 {
            return bad("DR6", s.dr6);
        }
        if s.dr7 >> 32 != 0 {
            return bad("DR7", s.dr7);
        }
        // Bits 1 fixed, 3, 5, 15 and from 22 up reserved; VM is impossible in long mode.
        if s.rflags & RFLAGS_FIXED == 0 || s.rflags & !0x003f_7fd7 != 0 || (long && s.rflags & RFLAGS_VM != 0) {
            return bad("RFLAGS", s.rflags);
        }
        if !pat_is_valid(s.pat) {
            return bad("PAT", s.pat);
        }
        self.check_segments(s, long)?;
        for (register, value) in [
            ("RIP", if long { s.rip } else { 0 }),
            ("GDTR base", s.gdtr.base),
            ("IDTR base", s.idtr.base),
            ("LSTAR", s.lstar),
            ("CSTAR", s.cstar),
            ("KERNEL_GS_BASE", s.kernel_gs_base),
            ("SYSENTER_ESP", s.sysenter_esp),
            ("SYSENTER_EIP", s.sysenter_eip),
        ] {
            // LA57 is a property of the machine for MSRs: hold them to what both widths allow.
            if !self.is_canonical(value, s.cr4 | self.cr4 & CR4_LA57) {
                return bad(register, value);
            }
        }
        if s.sfmask >> 32 != 0 {
            return bad("SFMASK", s.sfmask);
        }
        if s.tsc_aux >> 32 != 0 {
            return bad("TSC_AUX", s.tsc_aux);
        }
        if let Some(event) = s.pending
            && (!event.is_valid() || (event.kind == EventKind::Interrupt && s.rflags & super::state::RFLAGS_IF == 0))
        {
            return bad("pending event", u64::from(event.vector));
        }
        Ok(())
    }

    fn check_segments(&self, s: &ArchState, long: bool) -> Result<(), InvalidState> {
        const NAMES: [&str; 8] = ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"];
        for (segment, register) in s.segments.iter().zip(NAMES) {
            if segment.attributes & !Segment::ALL != 0 {
                return Err(InvalidState { register, value: u64::from(segment.attributes) });
            }
            if !self.is_canonical(segment.base, s.cr4 | self.cr4 & CR4_LA57) {
                return Err(InvalidState { register, value: segment.base });
            }
        }
        let cs = s.segment(SegmentName::Cs);
        let both = Segment::LONG | Segment::DEFAULT_BIG;
        if long && cs.attributes & both == both {
            return Err(InvalidState { register: "CS", value: u64::from(cs.attributes) });
        }
        Ok(())
    }
}

/// Whether `cpuid(leaf, subleaf)` announces RDTSCP or RDPID, hence TSC_AUX.
pub fn has_tsc_aux(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> bool {
    let rdtscp = cpuid(0x8000_0000, 0)[0] > 0x8000_0000 && cpuid(0x8000_0001, 0)[3] >> 27 & 1 == 1;
    rdtscp || cpuid(0, 0)[0] >= 7 && cpuid(7, 0)[2] >> 22 & 1 == 1
}

/// Whether every entry of a PAT names a memory type (APM2 7.8.1).
#[must_use]
pub fn pat_is_valid(pat: u64) -> bool {
    pat.to_le_bytes().iter().all(|entry| matches!(entry, 0 | 1 | 4..=7))
}

/// A register of a foreign state has a value that this machine cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidState {
    /// The register.
    pub register: &'static str,
    /// Its value (or attributes).
    pub value: u64,
}

impl fmt::Display for InvalidState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "virtual CPU state refused: {} = {:#x} is not possible on this machine; the record is damaged or comes from another CPU model",
            self.register, self.value
        )
    }
}
