//! MSR policy: what becomes of the MSRs that neither the vCPU module, the LAPIC nor the clock answers.
//! What is not in the table raises #GP, which Linux's safe accessors expect.

use crate::vcpu::bus::GeneralProtection;

/// What happens on an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// Reads give this, writes raise #GP.
    Constant(u64),
    /// Reads give this, writes are dropped.
    Ignore(u64),
    /// #GP either way; listed to say why.
    Fault,
    /// A register of [`MsrState`].
    Emulate(Register),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Microcode,
    MiscEnable,
    Hwcr,
    MtrrDefault,
    MtrrFixed(usize),
    MtrrVariable,
}

/// One range of MSRs.
struct Rule {
    first: u32,
    last: u32,
    name: &'static str,
    policy: Policy,
}

const fn rule(first: u32, last: u32, name: &'static str, policy: Policy) -> Rule {
    Rule { first, last, name, policy }
}

use Policy::{Constant, Emulate, Fault, Ignore};
use Register::{Hwcr, Microcode, MiscEnable, MtrrDefault, MtrrFixed, MtrrVariable};

/// Ascending by number. The reason stands above each group.
const RULES: &[Rule] = &[
    // Machine check of the Pentium: Linux clears it nowhere, old guests read it.
    rule(0x00, 0x01, "P5_MC_ADDR, P5_MC_TYPE", Ignore(0)),
    // Read to find the right microcode: none is offered.
    rule(0x17, 0x17, "IA32_PLATFORM_ID", Constant(0)),
    // Bus frequencies of old Intel CPUs.
    rule(0x2A, 0x2A, "EBL_CR_POWERON", Ignore(0)),
    // No SMM.
    rule(0x34, 0x34, "SMI_COUNT", Constant(0)),
    // Locked with VMX and SGX off.
    rule(0x3A, 0x3A, "IA32_FEATURE_CONTROL", Constant(1)),
    // CPUID does not announce it.
    rule(0x3B, 0x3B, "IA32_TSC_ADJUST", Fault),
    // Passed by the vCPU module or not announced.
    rule(0x48, 0x49, "IA32_SPEC_CTRL, IA32_PRED_CMD", Fault),
    // Microcode belongs to the host; the revision is shown so that a guest can judge its mitigations.
    rule(0x79, 0x79, "IA32_BIOS_UPDT_TRIG", Ignore(0)),
    rule(0x8B, 0x8B, "IA32_BIOS_SIGN_ID, PATCH_LEVEL", Emulate(Microcode)),
    // No turbo, no CPUID faulting.
    rule(0xCE, 0xCE, "MSR_PLATFORM_INFO", Constant(0)),
    // Eight variable ranges, fixed ranges, write combining. The ranges are remembered and have no effect: the type
    // of guest memory comes from the nested page table and the guest's PAT.
    rule(0xFE, 0xFE, "IA32_MTRRCAP", Constant(0x508)),
    // Not announced.
    rule(0x10A, 0x10B, "IA32_ARCH_CAPABILITIES, IA32_FLUSH_CMD", Fault),
    rule(0x122, 0x122, "IA32_TSX_CTRL", Fault),
    rule(0x140, 0x140, "MISC_FEATURES_ENABLES", Fault),
    // Machine check without banks: nothing to report, nothing to configure.
    rule(0x179, 0x179, "IA32_MCG_CAP", Constant(0)),
    rule(0x17A, 0x17A, "IA32_MCG_STATUS", Ignore(0)),
    // No performance counters, no frequency or thermal control.
    rule(0x186, 0x189, "IA32_PERFEVTSEL", Fault),
    rule(0x198, 0x19C, "IA32_PERF_STATUS to IA32_THERM_STATUS", Fault),
    // Fast strings on; branch trace and PEBS unavailable.
    rule(0x1A0, 0x1A0, "IA32_MISC_ENABLE", Emulate(MiscEnable)),
    rule(0x1B0, 0x1B2, "IA32_ENERGY_PERF_BIAS, package thermal", Fault),
    // No last branch record; Linux writes 0 at boot.
    rule(0x1D9, 0x1D9, "IA32_DEBUGCTL", Ignore(0)),
    rule(0x200, 0x20F, "IA32_MTRR_PHYSBASE, IA32_MTRR_PHYSMASK", Emulate(MtrrVariable)),
    rule(0x250, 0x250, "IA32_MTRR_FIX64K", Emulate(MtrrFixed(0))),
    rule(0x258, 0x259, "IA32_MTRR_FIX16K", Emulate(MtrrFixed(1))),
    rule(0x268, 0x26F, "IA32_MTRR_FIX4K", Emulate(MtrrFixed(3))),
    rule(0x2FF, 0x2FF, "IA32_MTRR_DEF_TYPE", Emulate(MtrrDefault)),
    // PDCM is not announced.
    rule(0x345, 0x345, "IA32_PERF_CAPABILITIES", Fault),
    rule(0x38D, 0x390, "IA32_FIXED_CTR_CTRL to IA32_PERF_GLOBAL_OVF_CTRL", Fault),
    rule(0x480, 0x491, "IA32_VMX capabilities", Fault),
    rule(0x606, 0x64F, "RAPL", Fault),
    // XSAVES is not announced.
    rule(0xDA0, 0xDA0, "IA32_XSS", Fault),
    // No TSC scaling for guests.
    rule(0xC000_0104, 0xC000_0104, "TSC_RATIO", Fault),
    // Not announced: legacy counters are not probed by a guest that reads CPUID.
    rule(0xC001_0000, 0xC001_0007, "PERF_EVT_SEL, PERF_CTR", Fault),
    // Linux reads it for memory encryption and MTRR extensions: all off.
    rule(0xC001_0010, 0xC001_0010, "SYSCFG", Ignore(0)),
    rule(0xC001_0015, 0xC001_0015, "HWCR", Emulate(Hwcr)),
    // I/O ranges and top of memory: chipset matters of which a guest has none.
    rule(0xC001_0016, 0xC001_0019, "IORR", Ignore(0)),
    rule(0xC001_001A, 0xC001_001D, "TOP_MEM to TOP_MEM2", Ignore(0)),
    // Extended CF8 configuration, which Linux turns on: it is.
    rule(0xC001_001F, 0xC001_001F, "NB_CFG", Ignore(1 << 46)),
    // Microcode, as 0x79.
    rule(0xC001_0020, 0xC001_0020, "PATCH_LOADER", Ignore(0)),
    // C1E is off (Linux: erratum 400).
    rule(0xC001_0055, 0xC001_0055, "INT_PENDING", Ignore(0)),
    // ECAM is told by ACPI.
    rule(0xC001_0058, 0xC001_0058, "MMIO_CONF_BASE", Ignore(0)),
    rule(0xC001_0062, 0xC001_0063, "PSTATE_CTL, PSTATE_STAT", Fault),
    rule(0xC001_0114, 0xC001_0117, "VM_CR to VM_HSAVE_PA", Fault),
    rule(0xC001_0140, 0xC001_0141, "OSVW", Fault),
    // One node.
    rule(0xC001_100C, 0xC001_100C, "NODE_ID", Constant(0)),
    // Errata bits: read as not set, Linux may set some.
    rule(0xC001_1020, 0xC001_1023, "LS_CFG, IC_CFG, DC_CFG, BU_CFG", Ignore(0)),
    // LFENCE serializes (bit 1): true of every CPU with SVM and NPT in long mode after Linux or firmware set it; the
    // host sets it, a guest finds it set.
    rule(0xC001_1029, 0xC001_1029, "DE_CFG", Ignore(2)),
    rule(0xC001_102A, 0xC001_102B, "BU_CFG2", Ignore(0)),
    rule(0xC001_1030, 0xC001_103D, "IBS", Fault),
];

const FIXED_RANGES: usize = 11;
const VARIABLE_REGISTERS: usize = 16;
const WRITE_BACK: u64 = 6;
/// Fixed ranges and MTRRs enabled, default write-back.
const MTRR_DEFAULT_RESET: u64 = 0xC00 | WRITE_BACK;
/// Fast strings; BTS and PEBS unavailable.
const MISC_ENABLE_RESET: u64 = 1 | 1 << 11 | 1 << 12;
/// TSC counts at the rate of P0 (Linux warns if not).
const HWCR_RESET: u64 = 1 << 24;
/// Bits of HWCR a guest may set without effect: TLB cache off, flush filter off, IGNNE, machine check write, P0 rate.
const HWCR_WRITABLE: u64 = 1 << 3 | 1 << 6 | 1 << 8 | 1 << 18 | 1 << 24;
/// Bits of these that stick.
const HWCR_KEPT: u64 = 1 << 18 | 1 << 24;

/// The registers of one vCPU that are emulated here. Numbers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrState {
    /// `IA32_BIOS_SIGN_ID` as the host has it.
    pub microcode: u64,
    /// `IA32_MISC_ENABLE`.
    pub misc_enable: u64,
    /// `HWCR`.
    pub hwcr: u64,
    /// `IA32_MTRR_DEF_TYPE`.
    pub mtrr_default: u64,
    /// The fixed-range MTRRs in ascending order.
    pub mtrr_fixed: [u64; FIXED_RANGES],
    /// Base and mask of each variable-range MTRR.
    pub mtrr_variable: [u64; VARIABLE_REGISTERS],
}

/// The emulated MSRs of one vCPU.
#[derive(Clone, Copy, Debug)]
pub struct Msrs {
    state: MsrState,
}

impl Msrs {
    /// After reset, on a host with this `IA32_BIOS_SIGN_ID`.
    #[must_use]
    pub const fn new(microcode: u64) -> Self {
        Self {
            state: MsrState {
                microcode,
                misc_enable: MISC_ENABLE_RESET,
                hwcr: HWCR_RESET,
                mtrr_default: MTRR_DEFAULT_RESET,
                mtrr_fixed: [WRITE_BACK * 0x0101_0101_0101_0101; FIXED_RANGES],
                mtrr_variable: [0; VARIABLE_REGISTERS],
            },
        }
    }

    /// The rule for `msr` and its place in the rule's range.
    fn find(msr: u32) -> Option<(&'static Rule, usize)> {
        let at = RULES.partition_point(|rule| rule.last < msr);
        let rule = RULES.get(at).filter(|rule| rule.first <= msr)?;
        Some((rule, (msr - rule.first) as usize))
    }

    /// The name of `msr`, if the table has it; for logs of guests that fault on it.
    #[must_use]
    pub fn name(msr: u32) -> Option<&'static str> {
        Self::find(msr).map(|(rule, _)| rule.name)
    }

    fn register(&mut self, register: Register, index: usize) -> Option<&mut u64> {
        let state = &mut self.state;
        match register {
            Microcode => Some(&mut state.microcode),
            MiscEnable => Some(&mut state.misc_enable),
            Hwcr => Some(&mut state.hwcr),
            MtrrDefault => Some(&mut state.mtrr_default),
            MtrrFixed(first) => state.mtrr_fixed.get_mut(first + index),
            MtrrVariable => state.mtrr_variable.get_mut(index),
        }
    }

    /// RDMSR.
    ///
    /// # Errors
    /// The guest has no such MSR.
    pub fn read(&mut self, msr: u32) -> Result<u64, GeneralProtection> {
        match Self::find(msr) {
            Some((Rule { policy: Constant(value) | Ignore(value), .. }, _)) => Ok(*value),
            Some((Rule { policy: Emulate(register), .. }, index)) => {
                self.register(*register, index).map(|value| *value).ok_or(GeneralProtection)
            }
            _ => Err(GeneralProtection),
        }
    }

    /// WRMSR.
    ///
    /// # Errors
    /// The guest has no such MSR, it is read-only, or the value has reserved bits.
    pub fn write(&mut self, msr: u32, value: u64) -> Result<(), GeneralProtection> {
        let (rule, index) = Self::find(msr).ok_or(GeneralProtection)?;
        let register = match rule.policy {
            Ignore(_) => return Ok(()),
            Constant(_) | Fault => return Err(GeneralProtection),
            Emulate(register) => register,
        };
        let kept = match register {
            // The protocol of an update: write 0, CPUID, read (SDM 3A 10.11.7.1).
            Microcode => return Ok(()),
            MiscEnable => value & !(1 << 11 | 1 << 12) | MISC_ENABLE_RESET & (1 << 11 | 1 << 12),
            Hwcr if value & !HWCR_WRITABLE == 0 => value & HWCR_KEPT,
            MtrrDefault if value & !0xCFF == 0 && is_memory_type(value) => value,
            MtrrFixed(_) if value.to_le_bytes().iter().all(|byte| is_memory_type(u64::from(*byte))) => value,
            // Base: a type and a page number; mask: a valid bit and a page number.
            MtrrVariable if index & 1 == 0 && value & 0xF00 == 0 && is_memory_type(value) => value,
            MtrrVariable if index & 1 == 1 && value & 0x7FF == 0 => value,
            _ => return Err(GeneralProtection),
        };
        *self.register(register, index).ok_or(GeneralProtection)? = kept;
        Ok(())
    }

    /// All registers.
    #[must_use]
    pub const fn save(&self) -> MsrState {
        self.state
    }

    /// Continues from `state`; values only the guest itself sees.
    pub const fn restore(&mut self, state: &MsrState) {
        self.state = *state;
    }
}

/// Whether bits 7:0 are a memory type of an MTRR (SDM 3A table 12-8): UC, WC, WT, WP, WB.
const fn is_memory_type(value: u64) -> bool {
    matches!(value & 0xFF, 0 | 1 | 4 | 5 | 6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_is_in_order() {
        for pair in RULES.windows(2) {
            assert!(pair[0].last < pair[1].first, "{}", pair[1].name);
        }
        assert!(RULES.iter().all(|rule| rule.first <= rule.last && !rule.name.is_empty()));
    }

    #[test]
    fn linux_boot_on_amd() {
        let mut msrs = Msrs::new(0x0A20_120A);
        for (msr, value) in [
            (0x8B, 0x0A20_120A),
            (0xFE, 0x508),
            (0x2FF, 0xC06),
            (0x250, 0x0606_0606_0606_0606),
            (0x26F, 0x0606_0606_0606_0606),
            (0x200, 0),
            (0x179, 0),
            (0xC001_0010, 0),
            (0xC001_0015, 1 << 24),
            (0xC001_001A, 0),
            (0xC001_0055, 0),
            (0xC001_1029, 2),
        ] {
            assert_eq!(msrs.read(msr), Ok(value), "{msr:#x}");
        }
        // init_amd_k8(): HWCR bit 6; init_amd(): DE_CFG bit 1.
        assert_eq!(msrs.write(0xC001_0015, 1 << 24 | 1 << 6), Ok(()));
        assert_eq!(msrs.read(0xC001_0015), Ok(1 << 24));
        assert_eq!(msrs.write(0xC001_1029, 2), Ok(()));
        assert_eq!(msrs.write(0xC001_0015, 1 << 4), Err(GeneralProtection));
        assert_eq!(msrs.write(0x8B, 0), Ok(()));
        assert_eq!(msrs.read(0x8B), Ok(0x0A20_120A));
    }

    #[test]
    fn linux_boot_on_intel() {
        let mut msrs = Msrs::new(0x25 << 32);
        for (msr, value) in
            [(0x17, 0), (0x34, 0), (0x3A, 1), (0x8B, 0x25 << 32), (0xCE, 0), (0x1A0, 0x1801), (0x1D9, 0)]
        {
            assert_eq!(msrs.read(msr), Ok(value), "{msr:#x}");
        }
        for msr in [0x3B, 0x48, 0x10A, 0x140, 0x186, 0x345, 0x480, 0x606, 0xDA0, 0xC000_0104, 0x9999] {
            assert_eq!(msrs.read(msr), Err(GeneralProtection), "{msr:#x}");
            assert_eq!(msrs.write(msr, 0), Err(GeneralProtection), "{msr:#x}");
        }
        assert_eq!(msrs.write(0x3A, 5), Err(GeneralProtection));
        assert_eq!(Msrs::name(0x3B), Some("IA32_TSC_ADJUST"));
        assert_eq!(Msrs::name(0x9999), None);
    }

    #[test]
    fn memory_type_ranges_are_remembered_and_checked() {
        let mut msrs = Msrs::new(0);
        for (msr, value) in
            [(0x200, 0xC000_0000), (0x201, 0xFF_C000_0800), (0x2FF, 0xC00), (0x268, 0x0505_0505_0505_0505)]
        {
            assert_eq!(msrs.write(msr, value), Ok(()), "{msr:#x}");
            assert_eq!(msrs.read(msr), Ok(value), "{msr:#x}");
        }
        for (msr, value) in [(0x200, 2), (0x200, 0x100), (0x201, 0x400), (0x2FF, 0x1000), (0x2FF, 3), (0x250, 0x02)] {
            assert_eq!(msrs.write(msr, value), Err(GeneralProtection), "{msr:#x}");
        }
        let mut new = Msrs::new(0);
        new.restore(&msrs.save());
        assert_eq!(new.read(0x201), Ok(0xFF_C000_0800));
    }

    proptest! {
        #[test]
        fn no_access_panics(msr in any::<u32>(), near in 0usize..RULES.len(), step in 0u32..4, value in any::<u64>()) {
            let mut msrs = Msrs::new(0);
            for msr in [msr, RULES[near].first.wrapping_sub(step), RULES[near].last.wrapping_add(step)] {
                let _ = msrs.write(msr, value);
                let _ = msrs.read(msr);
            }
        }
    }
}
