//! The instructions of the host that this module needs: `machine::cpu`'s, and a few that nobody else wants.
#![expect(unsafe_code, reason = "privileged instructions")]

use core::arch::asm;

pub use machine::cpu::control::{cr4 as read_cr4, set_cr4 as write_cr4};
pub use machine::cpu::msr::{read as rdmsr, write as wrmsr};
pub use machine::cpu::tsc::now as rdtsc;
pub use machine::cpu::xsave::{set_xcr0 as xsetbv0, xcr0 as xgetbv0};

pub use crate::cpu::cpuid;

/// Reads DR0 to DR3.
///
/// # Safety
/// CPL is 0.
pub unsafe fn read_dr() -> [u64; 4] {
    let (a, b, c, d);
    // SAFETY: reads registers at CPL 0; the host never sets DR7.GD.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b, out(reg) c, out(reg) d,
            options(nomem, nostack, preserves_flags));
    };
    [a, b, c, d]
}

/// Writes DR0 to DR3.
///
/// # Safety
/// CPL is 0, and DR7 enables none of them.
pub unsafe fn write_dr(dr: [u64; 4]) {
    let [a, b, c, d] = dr;
    // SAFETY: by contract no breakpoint comes to life.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) a, in(reg) b, in(reg) c, in(reg) d,
            options(nomem, nostack, preserves_flags));
    };
}

/// Reads DR6.
///
/// # Safety
/// CPL is 0.
pub unsafe fn read_dr6() -> u64 {
    let value;
    // SAFETY: by contract; the host never sets DR7.GD.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes DR6.
///
/// # Safety
/// CPL is 0; the upper half of the value is 0.
pub unsafe fn write_dr6(value: u64) {
    // SAFETY: by contract; the register only tells what has happened.
    unsafe { asm!("mov dr6, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
}

/// Clears CR0.TS and CR0.EM and sets CR0.MP, so that x87 and SSE state can be saved and loaded.
///
/// # Safety
/// CPL is 0.
pub unsafe fn allow_fpu() {
    // SAFETY: changes nothing but whether FPU instructions fault, and the host's code has none of its own.
    unsafe {
        asm!("mov {0}, cr0", "and {0}, {1}", "or {0}, 2", "mov cr0, {0}", out(reg) _, in(reg) !0xcu64, options(nostack));
    };
}

/// XSAVE of everything in XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set; `area` is 64-byte aligned, writable, and as large as CPUID 0xD says for XCR0.
pub unsafe fn xsave(area: *mut u8) {
    // SAFETY: by contract.
    unsafe {
        asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags))
    };
}

/// XRSTOR of everything in XCR0.
///
/// # Safety
/// As for [`xsave`], readable, and the header and MXCSR of the area are valid for XCR0.
pub unsafe fn xrstor(area: *const u8) {
    // SAFETY: by contract; the host's code uses no state that is loaded here.
    unsafe {
        asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX, options(nostack, preserves_flags))
    };
}

/// FXSAVE.
///
/// # Safety
/// CR4.OSFXSR is set; `area` is 16-byte aligned, writable, 512 bytes.
pub unsafe fn fxsave(area: *mut u8) {
    // SAFETY: by contract.
    unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
}

/// FXRSTOR.
///
/// # Safety
/// As for [`fxsave`], readable, and MXCSR in the area has no reserved bit.
pub unsafe fn fxrstor(area: *const u8) {
    // SAFETY: by contract; the host's code uses no state that is loaded here.
    unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
}
