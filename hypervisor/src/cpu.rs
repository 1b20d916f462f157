//! The few instructions that need more than Rust: safe where they can be.
#![expect(unsafe_code, reason = "instructions without a Rust equivalent")]

use core::arch::asm;

/// Interrupts off; returns whether they were on.
pub fn interrupts_off() -> bool {
    let flags: u64;
    // SAFETY: reading RFLAGS and clearing IF touches no memory that Rust knows of.
    unsafe { asm!("pushfq", "pop {}", "cli", out(reg) flags, options(nomem)) };
    flags & 1 << 9 != 0
}

/// Interrupts on.
pub fn interrupts_on() {
    // SAFETY: the IDT is loaded before anything calls this (trap::init comes first).
    unsafe { asm!("sti", options(nomem, nostack)) };
}

/// Takes what is pending: interrupts on for a moment, then off.
pub fn take_interrupts() {
    // SAFETY: as for `interrupts_on`; the nop lets STI's shadow pass.
    unsafe { asm!("sti", "nop", "nop", "cli", options(nomem, nostack)) };
}

/// Waits for an interrupt, takes it, returns with interrupts off. No wake-up is lost:
/// STI's shadow covers HLT.
pub fn wait_for_interrupt() {
    // SAFETY: as for `interrupts_on`.
    unsafe { asm!("sti", "hlt", "cli", options(nomem, nostack)) };
}

/// Runs `f` with interrupts off.
pub fn without_interrupts<R>(f: impl FnOnce() -> R) -> R {
    let were_on = interrupts_off();
    let result = f();
    if were_on {
        interrupts_on();
    }
    result
}

/// Stops this pCPU for good.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: ends in HLT with interrupts off; nothing continues.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC is there on every x86-64 and has no effect on memory; LFENCE keeps it in order.
    unsafe {
        core::arch::x86_64::_mm_lfence();
        core::arch::x86_64::_rdtsc()
    }
}

/// CPUID: EAX, EBX, ECX, EDX.
pub fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

/// Reads an MSR.
///
/// # Safety
/// The MSR exists on this CPU.
pub unsafe fn read_msr(msr: u32) -> u64 {
    // SAFETY: the caller vouches for the MSR.
    unsafe { x86::msr::rdmsr(msr) }
}

/// Writes an MSR.
///
/// # Safety
/// The MSR exists and the value does not break what Rust relies on.
pub unsafe fn write_msr(msr: u32, value: u64) {
    // SAFETY: the caller vouches for MSR and value.
    unsafe { x86::msr::wrmsr(msr, value) }
}

/// Reads a byte from a port.
///
/// # Safety
/// Reading the port has no effect on memory.
pub unsafe fn in8(port: u16) -> u8 {
    // SAFETY: the caller vouches for the port.
    unsafe { x86::io::inb(port) }
}

/// Reads 4 bytes from a port.
///
/// # Safety
/// Reading the port has no effect on memory.
pub unsafe fn in32(port: u16) -> u32 {
    // SAFETY: the caller vouches for the port.
    unsafe { x86::io::inl(port) }
}

/// Writes a byte to a port.
///
/// # Safety
/// Writing the port has no effect on memory that Rust relies on.
pub unsafe fn out8(port: u16, value: u8) {
    // SAFETY: the caller vouches for the port.
    unsafe { x86::io::outb(port, value) }
}

/// CR3: the physical address of the page tables in force.
pub fn cr3() -> u64 {
    let value: u64;
    // SAFETY: reading CR3 changes nothing.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack)) };
    value
}

/// Loads CR3.
///
/// # Safety
/// The tables map everything that is in use, in particular code and stack, as before.
pub unsafe fn set_cr3(value: u64) {
    // SAFETY: the caller vouches for the tables.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack)) };
}

/// CR2: the address of the last page fault.
pub fn cr2() -> u64 {
    let value: u64;
    // SAFETY: reading CR2 changes nothing.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack)) };
    value
}

/// Drops this pCPU's translation of `address`.
pub fn invalidate_page(address: u64) {
    // SAFETY: INVLPG only drops a cached translation.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack)) };
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
