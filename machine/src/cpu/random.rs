//! Numbers that nobody can guess: RDSEED, RDRAND (SDM 1, 7.3.17).
#![expect(unsafe_code, reason = "instructions that only some CPUs have")]

use core::arch::asm;

use super::ids;

/// The generator may be empty for a moment (SDM 1, 7.3.17.1).
const TRIES: usize = 10;
/// CPUID leaf 1 ECX: RDRAND.
const RDRAND: u32 = 1 << 30;
/// CPUID leaf 7 EBX: RDSEED.
const RDSEED: u32 = 1 << 18;

/// One try of an instruction that puts a number into a register and sets CF when there was one.
macro_rules! step {
    ($instruction:literal) => {{
        let (value, full): (u64, u8);
        // SAFETY: the caller has asked CPUID whether the instruction is there; it changes the register and the flags.
        unsafe {
            asm!(concat!($instruction, " {}"), "setc {}", out(reg) value, out(reg_byte) full, options(nomem, nostack));
        }
        (full == 1).then_some(value)
    }};
}

/// A number from the CPU's own generator; `None` where it has none, or that stays empty.
#[must_use]
pub fn number() -> Option<u64> {
    let seeds = ids::raw(0, 0).eax >= 7 && ids::raw(7, 0).ebx & RDSEED != 0;
    let seed = if seeds { (0..TRIES).find_map(|_| step!("rdseed")) } else { None };
    let numbers = || ids::raw(1, 0).ecx & RDRAND != 0;
    seed.or_else(|| if numbers() { (0..TRIES).find_map(|_| step!("rdrand")) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ() {
        // A CPU without a generator has nothing to be compared.
        if let (Some(first), Some(second)) = (number(), number()) {
            assert_ne!(first, second);
        }
    }
}
