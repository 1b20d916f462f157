//! Arithmetic on memory operands, with the flags it leaves (APM3, ADD and following).

use super::memory::mask;

/// CF.
pub const CF: u64 = 1 << 0;
/// PF.
pub const PF: u64 = 1 << 2;
/// AF.
pub const AF: u64 = 1 << 4;
/// ZF.
pub const ZF: u64 = 1 << 6;
/// SF.
pub const SF: u64 = 1 << 7;
/// OF.
pub const OF: u64 = 1 << 11;
/// The six of them.
pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// An operation of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// ADD.
    Add,
    /// SUB and CMP.
    Sub,
    /// AND and TEST.
    And,
    /// OR.
    Or,
    /// XOR.
    Xor,
}

/// The result of `a op b` on `width` bytes, and the status flags.
#[must_use]
pub const fn apply(operation: Operation, a: u64, b: u64, width: u8) -> (u64, u64) {
    let mask = mask(width);
    let sign = 1u64 << (width as u32 * 8 - 1);
    let (a, b) = (a & mask, b & mask);
    let (result, mut flags) = match operation {
        Operation::Add => {
            let r = a.wrapping_add(b) & mask;
            let carry = if r < a { CF } else { 0 };
            let overflow = if (a ^ r) & (b ^ r) & sign != 0 { OF } else { 0 };
            (r, carry | overflow | (a ^ b ^ r) & AF)
        }
        Operation::Sub => {
            let r = a.wrapping_sub(b) & mask;
            let borrow = if a < b { CF } else { 0 };
            let overflow = if (a ^ b) & (a ^ r) & sign != 0 { OF } else { 0 };
            (r, borrow | overflow | (a ^ b ^ r) & AF)
        }
        // CF and OF are cleared; AF is undefined and cleared here.
        Operation::And => (a & b, 0),
        Operation::Or => (a | b, 0),
        Operation::Xor => (a ^ b, 0),
    };
    if result == 0 {
        flags |= ZF;
    }
    if result & sign != 0 {
        flags |= SF;
    }
    if (result as u8).count_ones().is_multiple_of(2) {
        flags |= PF;
    }
    (result, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_by_hand() {
        assert_eq!(apply(Operation::Add, 0xff, 1, 1), (0, CF | ZF | PF | AF));
        assert_eq!(apply(Operation::Add, 0x7f, 1, 1), (0x80, OF | SF | AF));
        assert_eq!(apply(Operation::Sub, 0, 1, 4), (0xffff_ffff, CF | SF | PF | AF));
        assert_eq!(apply(Operation::Sub, 0x8000, 1, 2), (0x7fff, OF | PF | AF));
        assert_eq!(apply(Operation::Sub, 5, 5, 8), (0, ZF | PF));
        assert_eq!(apply(Operation::And, 0xf0, 0x0f, 1), (0, ZF | PF));
        assert_eq!(apply(Operation::Or, 0x80, 1, 1), (0x81, SF | PF));
        assert_eq!(apply(Operation::Xor, 0x1_0000_0003, 1, 4), (2, 0));
        assert_eq!(apply(Operation::Add, u64::MAX, 1, 8), (0, CF | ZF | PF | AF));
    }
}
