//! Extended state: SDM 1 13, APM2 11.5.
#![expect(unsafe_code, reason = "XGETBV, XSETBV, XSAVE, XRSTOR")]

use core::arch::asm;

/// XCR0: x87.
pub const X87: u64 = 1 << 0;
/// XCR0: SSE.
pub const SSE: u64 = 1 << 1;
/// XCR0: AVX.
pub const AVX: u64 = 1 << 2;

/// Reads XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set; otherwise #UD.
#[must_use]
pub unsafe fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise; reading changes nothing.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set, and `value` is a combination that CPUID leaf 0xD allows
/// (x87 always; AVX only with SSE); otherwise #GP.
pub unsafe fn set_xcr0(value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack, preserves_flags));
    }
}

/// Saves the components in `mask` to `area`, in the standard format.
///
/// # Safety
/// `area` is writable, 64-byte aligned and as large as CPUID leaf 0xD says for
/// the components in XCR0; CR4.OSXSAVE is set.
pub unsafe fn save(area: *mut u8, mask: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xsave64 [{}]", in(reg) area, in("eax") mask as u32, in("edx") (mask >> 32) as u32, options(nostack, preserves_flags));
    }
}

/// Loads the components in `mask` from `area`.
///
/// # Safety
/// `area` holds what [`save`] wrote there (or zeroes with a valid header), is
/// 64-byte aligned; CR4.OSXSAVE is set. The caller's own code uses none of the
/// registers loaded: this crate's target is soft-float.
pub unsafe fn restore(area: *const u8, mask: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) area, in("eax") mask as u32, in("edx") (mask >> 32) as u32, options(nostack, preserves_flags));
    }
}
