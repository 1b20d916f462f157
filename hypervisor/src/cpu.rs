//! `machine::cpu` as the hypervisor uses it: safe where this image's start has made it so.
#![expect(unsafe_code, reason = "interrupts are enabled, and taken, on purpose")]

use core::arch::asm;

use machine::cpu;
pub use machine::cpu::interrupts::stop as halt_forever;
pub use machine::cpu::interrupts::without as without_interrupts;
pub use machine::cpu::tsc::now as tsc;
pub use machine::cpu::{control, msr, port, tlb};

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = cpu::ids::cpuid(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Interrupts off.
pub fn interrupts_off() {
    cpu::interrupts::disable();
}

/// Takes what is pending: interrupts on for a moment, then off.
pub fn take_interrupts() {
    // SAFETY: only pCPU loops call this, which begin after the IDT was loaded (`pcpu::enlist`); the nop lets STI's shadow pass.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nostack)) };
}

/// Waits for an interrupt, takes it, returns with interrupts off. No wake-up is lost:
/// STI's shadow covers HLT.
pub fn wait_for_interrupt() {
    // SAFETY: as for `take_interrupts`.
    unsafe { cpu::interrupts::enable_and_wait() };
    cpu::interrupts::disable();
}

/// Spins at most until `ticks` of the TSC have passed or `condition` holds. Returns whether it held.
#[must_use]
pub fn spin_until(ticks: u64, mut condition: impl FnMut() -> bool) -> bool {
    let start = tsc();
    loop {
        if condition() {
            return true;
        }
        if tsc().wrapping_sub(start) > ticks {
            return condition();
        }
        core::hint::spin_loop();
    }
}
