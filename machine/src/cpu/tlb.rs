//! The CPU's own translation caches: SDM 3A 4.10. Other CPUs are reached by IPI, by the caller.
#![expect(unsafe_code, reason = "INVLPG")]

use super::control;
use core::arch::asm;

/// CR4.PGE: global pages.
const PGE: u64 = 1 << 7;

/// Drops what this CPU caches about the page at `address`.
pub fn invalidate(address: u64) {
    // SAFETY: dropping a cached translation is always sound.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) }
}

/// Drops what this CPU caches, except global pages.
pub fn flush() {
    // SAFETY: the root stays the same.
    unsafe { control::set_cr3(control::cr3()) }
}

/// Drops all that this CPU caches, global pages included.
pub fn flush_global() {
    let cr4 = control::cr4();
    // SAFETY: changing PGE drops everything (SDM 3A 4.10.4.1); the value comes back at once.
    unsafe {
        control::set_cr4(cr4 ^ PGE);
        control::set_cr4(cr4);
    }
}
