//! The interrupt flag and waiting.
#![expect(unsafe_code, reason = "CLI, STI, HLT")]

use core::arch::asm;

/// Whether maskable interrupts are let through (RFLAGS.IF).
#[must_use]
pub fn enabled() -> bool {
    super::control::flags() & 1 << 9 != 0
}

/// Lets maskable interrupts through.
///
/// # Safety
/// The IDT is loaded, its handlers are sound at this point, and no lock is held that they take.
pub unsafe fn enable() {
    // SAFETY: the caller's promise.
    unsafe { asm!("sti", options(nostack, preserves_flags)) }
}

/// Holds maskable interrupts back. NMIs and exceptions still come.
pub fn disable() {
    // SAFETY: holding interrupts back breaks nothing. Memory is clobbered, so that
    // nothing moves out of the protected section.
    unsafe { asm!("cli", options(nostack, preserves_flags)) }
}

/// Runs `section` with maskable interrupts held back, then puts the flag back as it was.
pub fn without<R>(section: impl FnOnce() -> R) -> R {
    let before = enabled();
    disable();
    let result = section();
    if before {
        // SAFETY: they were enabled on entry, and nothing has changed since.
        unsafe { enable() }
    }
    result
}

/// Lets interrupts through and sleeps until one comes. An interrupt that is pending
/// already ends the sleep: STI takes effect after HLT has begun.
///
/// Returns with interrupts enabled.
///
/// # Safety
/// As for [`enable`].
pub unsafe fn enable_and_wait() {
    // SAFETY: the caller's promise.
    unsafe { asm!("sti", "hlt", options(nostack)) }
}

/// Sleeps until an interrupt comes. With interrupts disabled, until an NMI comes.
pub fn wait() {
    // SAFETY: HLT only waits.
    unsafe { asm!("hlt", options(nostack, preserves_flags)) }
}

/// Stops this CPU for good.
pub fn stop() -> ! {
    disable();
    loop {
        wait();
    }
}
