//! What VMX has on this CPU (SDM 3D appendix A), and the controls that guests run with: each one asked for is checked, what is
//! missing is named.

use core::fmt;

use x86::msr;
use x86::vmx::vmcs::control::{EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls};

use super::super::hw;

/// Why guests cannot run on this CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmxUnavailable {
    /// The firmware has disabled VMX and locked that.
    DisabledByFirmware,
    /// It is in use by somebody who does not say so.
    Busy,
    /// It lacks this.
    Missing(&'static str),
    /// No frame for a structure of VMX.
    OutOfFrames,
}

impl fmt::Display for VmxUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DisabledByFirmware => {
                f.write_str("VMX is disabled by the firmware (IA32_FEATURE_CONTROL): enable VT-x in its setup")
            }
            Self::Busy => f.write_str(
                "VMX can't be switched on (VMXON failed): something before Baton left it on, boot without that",
            ),
            Self::Missing(what) => {
                write!(f, "this CPU's VMX has no {what}: use a newer CPU, or enable it in the machine below")
            }
            Self::OutOfFrames => f.write_str("no memory left for the structures of VMX"),
        }
    }
}

/// VMX as its capability MSRs describe it, and the controls that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmxInfo {
    /// VMCS revision identifier.
    pub revision: u32,
    /// Pin-based controls.
    pub pin: u32,
    /// Primary processor-based controls.
    pub primary: u32,
    /// Secondary processor-based controls.
    pub secondary: u32,
    /// VM-exit controls.
    pub exit: u32,
    /// VM-entry controls; IA-32e mode comes on top.
    pub entry: u32,
    /// Bits of CR0 and CR4 that are set in VMX operation.
    pub fixed: [u64; 2],
    /// Exits of INS and OUTS say how wide addresses are.
    pub string_info: bool,
    /// EPT leaves of 1 GiB exist.
    pub gigabyte_leaves: bool,
    /// RDTSCP or RDPID exists, hence TSC_AUX.
    pub tsc_aux: bool,
}

/// A control: its bit, and its name in the manual.
type Named = (u32, &'static str);

const PIN: [Named; 3] = [
    (PinbasedControls::EXTERNAL_INTERRUPT_EXITING.bits(), "external-interrupt exiting"),
    (PinbasedControls::NMI_EXITING.bits(), "NMI exiting"),
    (PinbasedControls::VIRTUAL_NMIS.bits(), "virtual NMIs"),
];
const PRIMARY: [Named; 12] = [
    (PrimaryControls::INTERRUPT_WINDOW_EXITING.bits(), "interrupt-window exiting"),
    (PrimaryControls::NMI_WINDOW_EXITING.bits(), "NMI-window exiting"),
    (PrimaryControls::USE_TSC_OFFSETTING.bits(), "TSC offsetting"),
    (PrimaryControls::HLT_EXITING.bits(), "HLT exiting"),
    (PrimaryControls::MWAIT_EXITING.bits(), "MWAIT exiting"),
    (PrimaryControls::RDPMC_EXITING.bits(), "RDPMC exiting"),
    (PrimaryControls::CR8_LOAD_EXITING.bits(), "CR8-load exiting"),
    (PrimaryControls::CR8_STORE_EXITING.bits(), "CR8-store exiting"),
    (PrimaryControls::UNCOND_IO_EXITING.bits(), "unconditional I/O exiting"),
    (PrimaryControls::USE_MSR_BITMAPS.bits(), "MSR bitmaps"),
    (PrimaryControls::MONITOR_EXITING.bits(), "MONITOR exiting"),
    (PrimaryControls::SECONDARY_CONTROLS.bits(), "secondary controls"),
];
const SECONDARY: [Named; 3] = [
    (SecondaryControls::ENABLE_EPT.bits(), "EPT"),
    (SecondaryControls::ENABLE_VPID.bits(), "VPID"),
    (SecondaryControls::UNRESTRICTED_GUEST.bits(), "unrestricted guest"),
];
/// Taken where they are there: without them the instructions do not exist for a guest, or do no harm.
const SECONDARY_OPTIONAL: SecondaryControls =
    SecondaryControls::ENABLE_RDTSCP.union(SecondaryControls::ENABLE_INVPCID).union(SecondaryControls::WBINVD_EXITING);
const EXIT: [Named; 6] = [
    (ExitControls::SAVE_DEBUG_CONTROLS.bits(), "saving of debug controls"),
    (ExitControls::HOST_ADDRESS_SPACE_SIZE.bits(), "64-bit host"),
    (ExitControls::SAVE_IA32_PAT.bits(), "saving of PAT"),
    (ExitControls::LOAD_IA32_PAT.bits(), "loading of PAT at exits"),
    (ExitControls::SAVE_IA32_EFER.bits(), "saving of EFER"),
    (ExitControls::LOAD_IA32_EFER.bits(), "loading of EFER at exits"),
];
const ENTRY: [Named; 3] = [
    (EntryControls::LOAD_DEBUG_CONTROLS.bits(), "loading of debug controls"),
    (EntryControls::LOAD_IA32_PAT.bits(), "loading of PAT at entries"),
    (EntryControls::LOAD_IA32_EFER.bits(), "loading of EFER at entries"),
];
/// IA32_VMX_EPT_VPID_CAP (SDM 3D A.10).
const EPT: [(u64, &str); 6] = [
    (1 << 6, "EPT of 4 levels"),
    (1 << 14, "EPT in write-back memory"),
    (1 << 16, "EPT leaves of 2 MiB"),
    (1 << 20 | 1 << 26, "INVEPT of all contexts"),
    (1 << 32, "INVVPID"),
    (1 << 42, "INVVPID of all contexts"),
];
const EPT_1G: u64 = 1 << 17;
/// IA32_VMX_BASIC: INS and OUTS are described; the TRUE MSRs exist.
const BASIC_STRING_INFO: u64 = 1 << 54;
const BASIC_TRUE_CONTROLS: u64 = 1 << 55;
/// What the CPU may force on that guests would not survive: exits at every CR3 access.
const CR3_EXITING: u32 = PrimaryControls::CR3_LOAD_EXITING.bits() | PrimaryControls::CR3_STORE_EXITING.bits();

/// Controls with everything of `wanted`: the low half of a capability MSR is what must be set, the high half what may be
/// (SDM 3D A.2).
fn adjust(capability: u64, wanted: &[Named]) -> Result<u32, VmxUnavailable> {
    let (must, may) = (capability as u32, (capability >> 32) as u32);
    match wanted.iter().find(|(bit, _)| may & bit == 0) {
        Some((_, name)) => Err(VmxUnavailable::Missing(name)),
        None => Ok(wanted.iter().fold(must, |all, (bit, _)| all | bit)),
    }
}

impl VmxInfo {
    /// Whether `cpuid(leaf, subleaf)` announces VMX.
    pub fn is_announced(cpuid: impl Fn(u32, u32) -> [u32; 4]) -> bool {
        cpuid(1, 0)[2] >> 5 & 1 == 1
    }

    /// What the capability MSRs say, which `read` reads.
    ///
    /// # Errors
    /// What is missing, by name.
    pub fn from_msrs(read: impl Fn(u32) -> u64, tsc_aux: bool) -> Result<Self, VmxUnavailable> {
        let basic = read(msr::IA32_VMX_BASIC);
        if basic & BASIC_TRUE_CONTROLS == 0 {
            return Err(VmxUnavailable::Missing("choice about exits at CR3 accesses"));
        }
        let primary = adjust(read(msr::IA32_VMX_TRUE_PROCBASED_CTLS), &PRIMARY)?;
        if primary & CR3_EXITING != 0 {
            return Err(VmxUnavailable::Missing("choice about exits at CR3 accesses"));
        }
        let may = read(msr::IA32_VMX_PROCBASED_CTLS2);
        let secondary = adjust(may, &SECONDARY)? | (may >> 32) as u32 & SECONDARY_OPTIONAL.bits();
        let ept = read(msr::IA32_VMX_EPT_VPID_CAP);
        if let Some((_, name)) = EPT.iter().find(|(bits, _)| ept & bits != *bits) {
            return Err(VmxUnavailable::Missing(name));
        }
        Ok(Self {
            revision: basic as u32 & 0x7fff_ffff,
            pin: adjust(read(msr::IA32_VMX_TRUE_PINBASED_CTLS), &PIN)?,
            // The windows are opened when there is something to come through.
            primary: primary & !(PRIMARY[0].0 | PRIMARY[1].0),
            secondary,
            exit: adjust(read(msr::IA32_VMX_TRUE_EXIT_CTLS), &EXIT)?,
            entry: adjust(read(msr::IA32_VMX_TRUE_ENTRY_CTLS), &ENTRY)?,
            fixed: [read(msr::IA32_VMX_CR0_FIXED0), read(msr::IA32_VMX_CR4_FIXED0)],
            string_info: basic & BASIC_STRING_INFO != 0,
            gigabyte_leaves: ept & EPT_1G != 0,
            tsc_aux,
        })
    }

    /// VMX of the CPU this runs on; nothing where CPUID does not announce it.
    #[expect(unsafe_code, reason = "MSRs are read")]
    pub fn detect(tsc_aux: bool) -> Option<Result<Self, VmxUnavailable>> {
        // SAFETY: CPUID announces VMX, hence the MSRs from 480h on; those of the secondary controls and of EPT are there where the MSR
        // before them says so, and zero is read for those that are not (SDM 3D A.3, A.10).
        let read = |number| unsafe { hw::rdmsr(number) };
        Self::is_announced(hw::cpuid).then(|| {
            let primary = read(msr::IA32_VMX_PROCBASED_CTLS) >> 32 & 1 << 31 != 0;
            let secondary = if primary { read(msr::IA32_VMX_PROCBASED_CTLS2) >> 32 } else { 0 };
            let is_there = |number| match number {
                msr::IA32_VMX_PROCBASED_CTLS2 => primary,
                msr::IA32_VMX_EPT_VPID_CAP => secondary & u64::from(SECONDARY[0].0 | SECONDARY[1].0) != 0,
                _ => true,
            };
            Self::from_msrs(|number| if is_there(number) { read(number) } else { 0 }, tsc_aux)
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use alloc::string::ToString;

    use super::*;

    /// The MSRs of an Intel Core of the fourth generation (Haswell), as its owners have published them.
    pub fn haswell(number: u32) -> u64 {
        match number {
            0x480 => 0x00da_0400_0000_0012,
            0x481 | 0x48d => 0x0000_007f_0000_0016,
            0x482 => 0xfff9_fffe_0401_e172,
            0x483 => 0x007f_ffff_0003_6dff,
            0x484 => 0x0000_ffff_0000_11ff,
            0x486 => 0x8000_0021,
            0x488 => 0x2000,
            0x48b => 0x0000_7cff_0000_0000,
            0x48c => 0x0000_0f01_0633_4141,
            0x48e => 0xfff9_fffe_0400_6172,
            0x48f => 0x007f_ffff_0003_6dfb,
            0x490 => 0x0000_ffff_0000_11fb,
            other => panic!("{other:#x} was not asked for"),
        }
    }

    #[test]
    fn controls_of_a_haswell() {
        let info = VmxInfo::from_msrs(haswell, true).unwrap();
        assert_eq!(info.revision, 0x12);
        // SDM 3C tables 25-5 to 25-14: what is asked for, on what must be set.
        assert_eq!(info.pin, 0x3f);
        assert_eq!(info.primary, 0xb518_6dfa);
        assert_eq!(info.secondary, 0x10ea, "EPT, RDTSCP, VPID, WBINVD exiting, unrestricted guest, INVPCID");
        assert_eq!(info.exit, 0x003f_6fff);
        assert_eq!(info.entry, 0xd1ff);
        assert!(info.string_info && info.gigabyte_leaves);
    }

    #[test]
    fn what_is_missing_is_named() {
        let without = |number: u32, bits: u64| {
            VmxInfo::from_msrs(|asked| haswell(asked) & if asked == number { !bits } else { u64::MAX }, true)
                .map_err(|error| error.to_string())
        };
        for (number, bits, name) in [
            (0x48b, 1 << 33, "EPT"),
            (0x48b, 1 << 37, "VPID"),
            (0x48b, 1 << 39, "unrestricted guest"),
            (0x48e, 1 << 63, "secondary controls"),
            (0x48e, 1 << 39, "HLT exiting"),
            (0x48d, 1 << 37, "virtual NMIs"),
            (0x490, 1 << 47, "loading of EFER at entries"),
            (0x48c, 1 << 20, "INVEPT"),
            (0x480, 1 << 55, "CR3"),
        ] {
            let error = without(number, bits).unwrap_err();
            assert!(error.contains(name), "{number:#x} without {bits:#x}: {error}");
        }
        let forced = |asked| haswell(asked) | if asked == 0x48e { 1 << 15 } else { 0 };
        assert!(VmxInfo::from_msrs(forced, true).is_err(), "exits at every write to CR3");
    }
}
