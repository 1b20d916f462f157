//! Model-specific registers: SDM 4, APM2 appendix A. Their numbers are in the `x86` crate's `msr`.
#![expect(unsafe_code, reason = "RDMSR, WRMSR")]

use core::arch::asm;

/// Reads an MSR.
///
/// # Safety
/// The CPU has it (CPUID says so, or it is architectural); otherwise #GP is raised, and
/// the caller's handler must cope. Reading has no side effect on any register used here.
#[must_use]
pub unsafe fn read(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR.
///
/// # Safety
/// The CPU has it, no reserved bit is set, and what the write changes (paging, entry
/// points, interrupt delivery) leaves the running code sound.
pub unsafe fn write(msr: u32, value: u64) {
    // SAFETY: the caller's promise. Memory is clobbered: an ICR or EFER write must not be reordered.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}
