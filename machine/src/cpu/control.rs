//! Control registers: SDM 3A 2.5, APM2 3.1. Their bits are in the `x86` crate's `controlregs`.
#![expect(unsafe_code, reason = "moves to and from control registers")]

use core::arch::asm;

macro_rules! register {
    ($($name:literal, $read:ident, $write:ident: $what:literal, $safety:literal;)+) => {$(
        #[doc = concat!("Reads ", $what, ". Faults outside ring 0.")]
        #[must_use]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: reading changes nothing.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags)) }
            value
        }

        #[doc = concat!("Writes ", $what, ".")]
        ///
        /// # Safety
        #[doc = $safety]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's promise. Memory is clobbered, since mappings may change.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) }
        }
    )+};
}

register! {
    "cr0", cr0, set_cr0: "CR0", "Paging and protection stay on, and the code that runs stays valid under the new bits.";
    "cr2", cr2, set_cr2: "CR2, the address of the last page fault", "Nobody is about to read the address of a fault that just happened.";
    "cr3", cr3, set_cr3: "CR3, the root of the page tables", "The new tables map the code, stack and data in use as before.";
    "cr4", cr4, set_cr4: "CR4", "No reserved bit is set (see CPUID), and the code that runs stays valid under the new bits.";
    "cr8", cr8, set_cr8: "CR8, the task priority", "Interrupts that the new priority lets through are handled.";
}

/// Reads RFLAGS.
#[must_use]
pub fn flags() -> u64 {
    let value;
    // SAFETY: PUSHFQ and POP use the stack they give back.
    unsafe { asm!("pushfq", "pop {}", out(reg) value, options(nomem, preserves_flags)) }
    value
}
