//! Reading an MSR that may not be there although CPUID says so: the #GP is answered here and ends nothing.
#![expect(unsafe_code, reason = "RDMSR, with a place to go on for its fault")]

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".section .text.baton_probe, \"ax\"",
    // edi: the MSR, rsi: where its value goes.
    "baton_probe:",
    "mov ecx, edi",
    "baton_probe_read:",
    "rdmsr",
    "shl rdx, 32",
    "or rax, rdx",
    "mov [rsi], rax",
    "mov eax, 1",
    "ret",
    "baton_probe_failed:",
    "xor eax, eax",
    "ret",
);

#[cfg(target_os = "none")]
unsafe extern "sysv64" {
    fn baton_probe(msr: u32, value: *mut u64) -> u64;
    fn baton_probe_read();
    fn baton_probe_failed();
}

/// Where to go on after a #GP at `rip`, if it was a probe's.
pub fn recover(rip: u64) -> Option<u64> {
    #[cfg(target_os = "none")]
    {
        (rip == baton_probe_read as *const () as u64).then_some(baton_probe_failed as *const () as u64)
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = rip;
        None
    }
}

/// Reads an MSR; `None` if there is none. On a pCPU that has this image's descriptor tables.
///
/// # Safety
/// Reading it has no side effect.
pub unsafe fn read_msr(msr: u32) -> Option<u64> {
    #[cfg(target_os = "none")]
    {
        let mut value = 0;
        // SAFETY: by contract; a fault goes on behind the instruction.
        let there = unsafe { baton_probe(msr, &raw mut value) };
        (there == 1).then_some(value)
    }
    #[cfg(not(target_os = "none"))]
    {
        let _ = msr;
        None
    }
}
