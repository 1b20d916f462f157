//! MSRs and CPUID: which are there does not change, whatever Baton runs; what is not announced raises #GP(0), and so do values that the
//! manuals reserve.
#![expect(unsafe_code, reason = "MSRs")]

use core::ops::Range;

use bareguest::trial::{self, Registers};
use bareguest::trials;
use machine::cpu::ids;

use crate::Matrix as Passes;
use crate::checks::Checks;

/// All that a guest might look for.
const RANGES: [Range<u64>; 5] =
    [0..0x2000, 0xc000_0000..0xc000_2000, 0xc001_0000..0xc001_2000, 0x4000_0000..0x4000_0200, 0x4b56_4d00..0x4b56_4d20];
/// Not announced: TSC_ADJUST, VMX, XSS, TSC_RATIO, VM_CR, VM_HSAVE_PA, and what nobody has.
const MISSING: [u64; 8] = [0x3b, 0x480, 0xda0, 0xc000_0104, 0xc001_0114, 0xc001_0117, 0x1fff, 0x9999];
/// Values that are reserved (SDM 4; APM2 3.1.7, 7.8.1): of EFER bits 1 and 12, of PAT types 2 and 3,
/// an APIC base elsewhere, a task priority of more than 8 bits.
const RESERVED: [(u64, u64); 6] = [
    (0xc000_0080, 0xd02),
    (0xc000_0080, 0x1d00),
    (0x277, 0x0007_0406_0007_0402),
    (0x277, 0x0307_0406_0007_0406),
    (0x1b, 0xfed0_0d00),
    (0x808, 0x100),
];
/// Leaves of CPUID.
const LEAVES: [Range<u32>; 4] = [0..0x21, 0x4000_0000..0x4000_0011, 0x8000_0000..0x8000_0023, 0xffff_fff0..0xffff_ffff];
const SUBLEAVES: u32 = 4;

trials! { accesses: "rdmsr", "wrmsr" }

/// What an MSR access raises, if anything.
fn access(write: bool, number: u64, value: u64) -> Option<(u8, u64)> {
    let mut registers = Registers::new();
    (registers.gprs[0], registers.gprs[1], registers.gprs[2]) = (value & 0xffff_ffff, number, value >> 32);
    let one = accesses().get(usize::from(write))?;
    // SAFETY: reading changes nothing that the guest relies on; what is written is refused, or the case fails.
    unsafe { trial::run(one.code(), &mut registers) }.map(|trap| (trap.vector, trap.error))
}

/// A number for all of `values` in their order.
fn digest(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, |sum: u64, value| (sum.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn cpuid() -> u64 {
    let each = LEAVES.into_iter().flatten().flat_map(|leaf| (0..SUBLEAVES).map(move |subleaf| ids::raw(leaf, subleaf)));
    digest(each.flat_map(|it| [it.eax, it.ebx, it.ecx, it.edx]).map(u64::from))
}

/// The matrix.
pub fn new() -> Passes {
    let mut checks = Checks::default();
    let (announced, mut known) = (cpuid(), None);
    alloc::boxed::Box::new(move || {
        checks.same("CPUID", cpuid(), announced);
        let mut readable = 0;
        let there = digest(RANGES.into_iter().flatten().filter(|number| {
            let raised = access(false, *number, 0);
            checks.same("what RDMSR raises", raised.is_none_or(|raised| raised == (13, 0)), true);
            readable += u64::from(raised.is_none());
            raised.is_none()
        }));
        checks.same("MSRs that are there", there, *known.get_or_insert(there));
        for number in MISSING {
            checks.same("an MSR that is not announced", (number, access(false, number, 0)), (number, Some((13, 0))));
            checks.same("a write to it", (number, access(true, number, 0)), (number, Some((13, 0))));
        }
        for (number, value) in RESERVED {
            checks.same("a reserved value", (number, access(true, number, value)), (number, Some((13, 0))));
        }
        alloc::vec![("checks", checks.end()), ("readable", readable)]
    })
}
