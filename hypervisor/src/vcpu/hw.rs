//! The instructions of the host that this module needs, each in one line.
#![expect(unsafe_code, reason = "privileged instructions")]

use core::arch::asm;

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [r.eax, r.ebx, r.ecx, r.edx]
}

/// The time stamp counter.
pub fn rdtsc() -> u64 {
    // SAFETY: reads a counter; CR4.TSD is clear on the host and CPL is 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Reads an MSR.
///
/// # Safety
/// CPL is 0 and the MSR exists.
pub unsafe fn rdmsr(msr: u32) -> u64 {
    // SAFETY: by contract.
    unsafe { x86::msr::rdmsr(msr) }
}

/// Writes an MSR.
///
/// # Safety
/// CPL is 0, the MSR exists, and the value does not break what the running code depends on.
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: by contract.
    unsafe { x86::msr::wrmsr(msr, value) }
}

/// Reads XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set.
pub unsafe fn xgetbv0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register; XGETBV is there by contract.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(low) | u64::from(high) << 32
}

/// Writes XCR0.
///
/// # Safety
/// CPL is 0, CR4.OSXSAVE is set, and the value is one that XSETBV accepts.
pub unsafe fn xsetbv0(value: u64) {
    // SAFETY: by contract; the host's code uses no state that XCR0 governs.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nomem, nostack, preserves_flags));
    };
}

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

/// Reads CR4.
///
/// # Safety
/// CPL is 0.
pub unsafe fn read_cr4() -> u64 {
    let value;
    // SAFETY: reads a register at CPL 0.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes CR4.
///
/// # Safety
/// CPL is 0, every bit set is one that the CPU has, and the change does not alter translation.
pub unsafe fn write_cr4(value: u64) {
    // SAFETY: by contract.
    unsafe { asm!("mov cr4, {}", in(reg) value, options(nostack, preserves_flags)) };
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
