//! SVM on and off, per pCPU (APM2 15.4).
#![expect(unsafe_code, reason = "MSRs that change what the CPU does")]

use core::fmt;

use machine::addr::{HostPhys, PAGE_SIZE};

use super::super::frames::FrameSource;
use super::super::hw;
use super::super::state::EFER_SVME;
use super::features::{SvmFeatures, SvmInfo};
use crate::trap::probe;

/// VM_CR (APM2 15.30.1).
const VM_CR: u32 = 0xc001_0114;
/// VM_CR.LOCK.
const VM_CR_LOCK: u64 = 1 << 3;
/// VM_CR.SVMDIS.
const VM_CR_SVMDIS: u64 = 1 << 4;
/// VM_HSAVE_PA (APM2 15.30.4).
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// SVM, enabled on one pCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SvmPcpu {
    /// What this CPU has.
    pub info: SvmInfo,
    /// The frame where VMRUN keeps the host's state; the caller's again after [`disable`](Self::disable).
    pub host_save: HostPhys,
}

/// Why guests cannot run on this pCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SvmUnavailable {
    /// CPUID does not announce SVM.
    Absent,
    /// There is no nested paging.
    NoNestedPaging,
    /// The firmware has disabled SVM.
    DisabledByFirmware {
        /// A key could unlock it again.
        locked: bool,
    },
    /// No frame for the host save area.
    OutOfFrames,
}

impl fmt::Display for SvmUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "this CPU has no SVM: use an AMD CPU with AMD-V (QEMU: -cpu max)",
            Self::NoNestedPaging => "this CPU's SVM has no nested paging: a CPU of family 10h or newer is needed",
            Self::DisabledByFirmware { .. } => {
                "SVM is disabled by the firmware (VM_CR.SVMDIS): enable SVM or AMD-V in its setup"
            }
            Self::OutOfFrames => "no memory left for the host save area of SVM",
        })
    }
}

/// Enables SVM on the pCPU this runs on. Idempotent in effect: the latest host save area counts.
///
/// # Errors
/// Why it cannot be.
///
/// # Safety
/// CPL is 0.
pub unsafe fn enable(frames: &mut dyn FrameSource) -> Result<SvmPcpu, SvmUnavailable> {
    let info = SvmInfo::detect().ok_or(SvmUnavailable::Absent)?;
    if !info.features.contains(SvmFeatures::NESTED_PAGING) {
        return Err(SvmUnavailable::NoNestedPaging);
    }
    // SAFETY: CPL 0 by contract; reading it changes nothing. CPUID announces it with SVM, and Bochs does without.
    let vm_cr = unsafe { probe::read_msr(VM_CR) }.unwrap_or(0);
    if vm_cr & VM_CR_SVMDIS != 0 {
        return Err(SvmUnavailable::DisabledByFirmware { locked: vm_cr & VM_CR_LOCK != 0 });
    }
    let host_save = frames.frame().ok_or(SvmUnavailable::OutOfFrames)?;
    let pointer = core::ptr::with_exposed_provenance_mut::<u8>(host_save.get() as usize);
    // SAFETY: the frame is ours and mapped at its physical address (contract of FrameSource).
    unsafe { pointer.write_bytes(0, PAGE_SIZE as usize) };
    // SAFETY: SVME enables instructions only; the host save area is a frame of our own.
    unsafe {
        hw::wrmsr(x86::msr::IA32_EFER, hw::rdmsr(x86::msr::IA32_EFER) | EFER_SVME);
        hw::wrmsr(VM_HSAVE_PA, host_save.get());
    }
    Ok(SvmPcpu { info, host_save })
}

impl SvmPcpu {
    /// Disables SVM on the pCPU this runs on, so that its host save area can be given away.
    ///
    /// # Safety
    /// CPL is 0, GIF is 1, and no virtual CPU is entered on this pCPU afterwards.
    pub unsafe fn disable(self) -> HostPhys {
        // SAFETY: no VMRUN follows by contract, so nothing uses the host save area.
        unsafe {
            hw::wrmsr(VM_HSAVE_PA, 0);
            hw::wrmsr(x86::msr::IA32_EFER, hw::rdmsr(x86::msr::IA32_EFER) & !EFER_SVME);
        }
        self.host_save
    }
}
