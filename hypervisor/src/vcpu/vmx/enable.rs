//! VMX on, per pCPU (SDM 3C 24.7).
#![expect(unsafe_code, reason = "MSRs and control registers that change what the CPU does")]

use machine::addr::PAGE_SIZE;
use machine::cpu::control;
use x86::msr::IA32_FEATURE_CONTROL;

use super::super::frames::FrameSource;
use super::super::hw;
use super::capabilities::{VmxInfo, VmxUnavailable};
use super::vmcs;

/// IA32_FEATURE_CONTROL: locked; VMX outside SMX.
const LOCKED: u64 = 1 << 0;
const OUTSIDE_SMX: u64 = 1 << 2;
/// CR4.VMXE.
pub const CR4_VMXE: u64 = 1 << 13;

/// Enables VMX on the pCPU this runs on. `inherited`: the image before this one ran here, and CR4.VMXE says whether it had VMX on; its
/// VMCSs are all inactive.
///
/// # Errors
/// Why it cannot be.
///
/// # Safety
/// CPL is 0. The frame that is taken is never given back.
pub unsafe fn enable(info: &VmxInfo, inherited: bool, frames: &mut dyn FrameSource) -> Result<(), VmxUnavailable> {
    // SAFETY: CPUID announces VMX, hence the MSR.
    let control = unsafe { hw::rdmsr(IA32_FEATURE_CONTROL) };
    if control & LOCKED == 0 {
        // SAFETY: as above; unlocked, and these are the bits that VMXON wants (SDM 3C 24.7).
        unsafe { hw::wrmsr(IA32_FEATURE_CONTROL, control | LOCKED | OUTSIDE_SMX) };
    } else if control & OUTSIDE_SMX == 0 {
        return Err(VmxUnavailable::DisabledByFirmware);
    }
    let region = frames.frame().ok_or(VmxUnavailable::OutOfFrames)?;
    let pointer = core::ptr::with_exposed_provenance_mut::<u8>(region.get() as usize);
    // SAFETY: the frame is ours and mapped at its physical address (contract of FrameSource).
    unsafe {
        pointer.write_bytes(0, PAGE_SIZE as usize);
        pointer.cast::<u32>().write(info.revision);
    }
    // SAFETY: what VMX operation wants set is PE, PG and NE of CR0, set in this image, and VMXE. The image before used VMX if VMXE says so, by
    // the contract of this function.
    unsafe {
        if inherited && control::cr4() & CR4_VMXE != 0 {
            vmcs::vmxoff();
        }
        control::set_cr0(control::cr0() | info.fixed[0]);
        control::set_cr4(control::cr4() | info.fixed[1]);
        if vmcs::vmxon(region) { Ok(()) } else { Err(VmxUnavailable::Busy) }
    }
}
