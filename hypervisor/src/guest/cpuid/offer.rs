//! Whether what a guest was told still holds: features can't be taken back from a guest that runs.

use core::fmt;

use super::{CpuidEntry, CpuidTable};

/// The words of the table that are features, one bit each: leaf, sub-leaf, register (EAX, EBX, ECX, EDX).
const FEATURES: [(u32, u32, usize); 15] = [
    (1, 0, 2),
    (1, 0, 3),
    (6, 0, 0),
    (7, 0, 1),
    (7, 0, 2),
    (7, 0, 3),
    (7, 1, 0),
    // States that XCR0 can enable.
    (0xD, 0, 0),
    (0xD, 0, 3),
    (0xD, 1, 0),
    (0x4000_0001, 0, 0),
    (0x8000_0001, 0, 2),
    (0x8000_0001, 0, 3),
    (0x8000_0007, 0, 3),
    (0x8000_0008, 0, 1),
];

/// Features that a guest was told of and that are not offered any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOffered {
    /// EAX of the question.
    pub leaf: u32,
    /// ECX of the question.
    pub subleaf: u32,
    /// Which register of the answer, from EAX on.
    pub register: usize,
    /// The bits.
    pub bits: u32,
}

impl fmt::Display for NotOffered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let register = ["EAX", "EBX", "ECX", "EDX"].get(self.register).copied().unwrap_or("?");
        // A reason has little room on its way out of the sandbox.
        let Self { leaf, subleaf, bits, .. } = self;
        write!(
            f,
            "it has CPUID {leaf:#x}.{subleaf} {register} bits {bits:#x}, which this image lacks: power it off, or use another image"
        )
    }
}

/// Compares what a guest was `told` with what a new guest would be `offered`.
///
/// # Errors
/// The first word with features that are missing.
pub fn check(told: &[CpuidEntry], offered: &CpuidTable) -> Result<(), NotOffered> {
    for (leaf, subleaf, register) in FEATURES {
        let word = |values: Option<[u32; 4]>| values.and_then(|values| values.get(register).copied()).unwrap_or(0);
        let known = told.iter().find(|entry| (entry.leaf, entry.subleaf) == (leaf, subleaf));
        let bits = word(known.map(|entry| entry.values)) & !word(offered.get(leaf, subleaf));
        if bits != 0 {
            return Err(NotOffered { leaf, subleaf, register, bits });
        }
    }
    Ok(())
}
