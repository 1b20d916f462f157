//! The time stamp counter: SDM 3B 18.17.
#![expect(unsafe_code, reason = "RDTSC")]

use core::arch::asm;

/// The counter, read after all earlier instructions have completed.
#[must_use]
pub fn now() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading changes nothing. LFENCE keeps the read from moving up. Not
    // `nomem`: loads of the code that is being timed must not move over it.
    unsafe {
        asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    #[test]
    fn advances() {
        let before = super::now();
        assert!(super::now() > before);
    }
}
