//! Which instructions of two operands are emulated. By the decoder's codes: its tables of mnemonics, operand counts and
//! memory sizes would take as much of the image as the rest of it.

use iced_x86::{Code, OpKind};

use super::alu::Operation;

/// What an instruction does with its operands, one of which may be in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// MOV.
    Move,
    /// MOVZX, MOVSX and MOVSXD: the source has `from` bytes.
    Extend {
        /// Bytes of the source.
        from: u8,
        /// The sign is extended.
        signed: bool,
    },
    /// XCHG.
    Exchange,
    /// Arithmetic that leaves its result and the flags.
    Change(Operation),
    /// Arithmetic that leaves the flags only: CMP and TEST.
    Compare(Operation),
    /// BT and its relatives: a bit goes to CF, and something becomes of it.
    Bit {
        /// What becomes of it.
        change: BitChange,
        /// Bytes of the operand in memory.
        width: u8,
    },
}

/// What becomes of a bit that was copied to CF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitChange {
    /// BT.
    Keep,
    /// BTS.
    Set,
    /// BTR.
    Reset,
    /// BTC.
    Complement,
}

const fn bit(change: BitChange, width: u8) -> Action {
    Action::Bit { change, width }
}

/// What an instruction does that has a form with an operand in memory and is emulated.
#[must_use]
pub const fn of(code: Code) -> Option<Action> {
    Some(match code {
        Code::Mov_rm8_r8
        | Code::Mov_rm16_r16
        | Code::Mov_rm32_r32
        | Code::Mov_rm64_r64
        | Code::Mov_r8_rm8
        | Code::Mov_r16_rm16
        | Code::Mov_r32_rm32
        | Code::Mov_r64_rm64
        | Code::Mov_AL_moffs8
        | Code::Mov_AX_moffs16
        | Code::Mov_EAX_moffs32
        | Code::Mov_RAX_moffs64
        | Code::Mov_moffs8_AL
        | Code::Mov_moffs16_AX
        | Code::Mov_moffs32_EAX
        | Code::Mov_moffs64_RAX
        | Code::Mov_rm8_imm8
        | Code::Mov_rm16_imm16
        | Code::Mov_rm32_imm32
        | Code::Mov_rm64_imm32 => Action::Move,
        Code::Movzx_r16_rm8 | Code::Movzx_r32_rm8 | Code::Movzx_r64_rm8 => Action::Extend { from: 1, signed: false },
        Code::Movzx_r16_rm16 | Code::Movzx_r32_rm16 | Code::Movzx_r64_rm16 => Action::Extend { from: 2, signed: false },
        Code::Movsx_r16_rm8 | Code::Movsx_r32_rm8 | Code::Movsx_r64_rm8 => Action::Extend { from: 1, signed: true },
        Code::Movsx_r16_rm16 | Code::Movsx_r32_rm16 | Code::Movsx_r64_rm16 | Code::Movsxd_r16_rm16 => {
            Action::Extend { from: 2, signed: true }
        }
        Code::Movsxd_r32_rm32 | Code::Movsxd_r64_rm32 => Action::Extend { from: 4, signed: true },
        Code::Xchg_rm8_r8 | Code::Xchg_rm16_r16 | Code::Xchg_rm32_r32 | Code::Xchg_rm64_r64 => Action::Exchange,
        Code::Add_rm8_r8
        | Code::Add_rm16_r16
        | Code::Add_rm32_r32
        | Code::Add_rm64_r64
        | Code::Add_r8_rm8
        | Code::Add_r16_rm16
        | Code::Add_r32_rm32
        | Code::Add_r64_rm64
        | Code::Add_rm8_imm8
        | Code::Add_rm16_imm16
        | Code::Add_rm32_imm32
        | Code::Add_rm64_imm32
        | Code::Add_rm8_imm8_82
        | Code::Add_rm16_imm8
        | Code::Add_rm32_imm8
        | Code::Add_rm64_imm8 => Action::Change(Operation::Add),
        Code::Or_rm8_r8
        | Code::Or_rm16_r16
        | Code::Or_rm32_r32
        | Code::Or_rm64_r64
        | Code::Or_r8_rm8
        | Code::Or_r16_rm16
        | Code::Or_r32_rm32
        | Code::Or_r64_rm64
        | Code::Or_rm8_imm8
        | Code::Or_rm16_imm16
        | Code::Or_rm32_imm32
        | Code::Or_rm64_imm32
        | Code::Or_rm8_imm8_82
        | Code::Or_rm16_imm8
        | Code::Or_rm32_imm8
        | Code::Or_rm64_imm8 => Action::Change(Operation::Or),
        Code::And_rm8_r8
        | Code::And_rm16_r16
        | Code::And_rm32_r32
        | Code::And_rm64_r64
        | Code::And_r8_rm8
        | Code::And_r16_rm16
        | Code::And_r32_rm32
        | Code::And_r64_rm64
        | Code::And_rm8_imm8
        | Code::And_rm16_imm16
        | Code::And_rm32_imm32
        | Code::And_rm64_imm32
        | Code::And_rm8_imm8_82
        | Code::And_rm16_imm8
        | Code::And_rm32_imm8
        | Code::And_rm64_imm8 => Action::Change(Operation::And),
        Code::Sub_rm8_r8
        | Code::Sub_rm16_r16
        | Code::Sub_rm32_r32
        | Code::Sub_rm64_r64
        | Code::Sub_r8_rm8
        | Code::Sub_r16_rm16
        | Code::Sub_r32_rm32
        | Code::Sub_r64_rm64
        | Code::Sub_rm8_imm8
        | Code::Sub_rm16_imm16
        | Code::Sub_rm32_imm32
        | Code::Sub_rm64_imm32
        | Code::Sub_rm8_imm8_82
        | Code::Sub_rm16_imm8
        | Code::Sub_rm32_imm8
        | Code::Sub_rm64_imm8 => Action::Change(Operation::Sub),
        Code::Xor_rm8_r8
        | Code::Xor_rm16_r16
        | Code::Xor_rm32_r32
        | Code::Xor_rm64_r64
        | Code::Xor_r8_rm8
        | Code::Xor_r16_rm16
        | Code::Xor_r32_rm32
        | Code::Xor_r64_rm64
        | Code::Xor_rm8_imm8
        | Code::Xor_rm16_imm16
        | Code::Xor_rm32_imm32
        | Code::Xor_rm64_imm32
        | Code::Xor_rm8_imm8_82
        | Code::Xor_rm16_imm8
        | Code::Xor_rm32_imm8
        | Code::Xor_rm64_imm8 => Action::Change(Operation::Xor),
        Code::Cmp_rm8_r8
        | Code::Cmp_rm16_r16
        | Code::Cmp_rm32_r32
        | Code::Cmp_rm64_r64
        | Code::Cmp_r8_rm8
        | Code::Cmp_r16_rm16
        | Code::Cmp_r32_rm32
        | Code::Cmp_r64_rm64
        | Code::Cmp_rm8_imm8
        | Code::Cmp_rm16_imm16
        | Code::Cmp_rm32_imm32
        | Code::Cmp_rm64_imm32
        | Code::Cmp_rm8_imm8_82
        | Code::Cmp_rm16_imm8
        | Code::Cmp_rm32_imm8
        | Code::Cmp_rm64_imm8 => Action::Compare(Operation::Sub),
        Code::Test_rm8_r8
        | Code::Test_rm16_r16
        | Code::Test_rm32_r32
        | Code::Test_rm64_r64
        | Code::Test_rm8_imm8
        | Code::Test_rm8_imm8_F6r1
        | Code::Test_rm16_imm16
        | Code::Test_rm32_imm32
        | Code::Test_rm64_imm32
        | Code::Test_rm16_imm16_F7r1
        | Code::Test_rm32_imm32_F7r1
        | Code::Test_rm64_imm32_F7r1 => Action::Compare(Operation::And),
        Code::Bt_rm16_imm8 | Code::Bt_rm16_r16 => bit(BitChange::Keep, 2),
        Code::Bt_rm32_imm8 | Code::Bt_rm32_r32 => bit(BitChange::Keep, 4),
        Code::Bt_rm64_imm8 | Code::Bt_rm64_r64 => bit(BitChange::Keep, 8),
        Code::Bts_rm16_imm8 | Code::Bts_rm16_r16 => bit(BitChange::Set, 2),
        Code::Bts_rm32_imm8 | Code::Bts_rm32_r32 => bit(BitChange::Set, 4),
        Code::Bts_rm64_imm8 | Code::Bts_rm64_r64 => bit(BitChange::Set, 8),
        Code::Btr_rm16_imm8 | Code::Btr_rm16_r16 => bit(BitChange::Reset, 2),
        Code::Btr_rm32_imm8 | Code::Btr_rm32_r32 => bit(BitChange::Reset, 4),
        Code::Btr_rm64_imm8 | Code::Btr_rm64_r64 => bit(BitChange::Reset, 8),
        Code::Btc_rm16_imm8 | Code::Btc_rm16_r16 => bit(BitChange::Complement, 2),
        Code::Btc_rm32_imm8 | Code::Btc_rm32_r32 => bit(BitChange::Complement, 4),
        Code::Btc_rm64_imm8 | Code::Btc_rm64_r64 => bit(BitChange::Complement, 8),
        _ => return None,
    })
}

/// Bytes of the operation that an immediate operand takes part in.
#[must_use]
pub const fn immediate_width(kind: OpKind) -> Option<u8> {
    Some(match kind {
        OpKind::Immediate8 => 1,
        OpKind::Immediate16 | OpKind::Immediate8to16 => 2,
        OpKind::Immediate32 | OpKind::Immediate8to32 => 4,
        OpKind::Immediate64 | OpKind::Immediate8to64 | OpKind::Immediate32to64 => 8,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use iced_x86::Mnemonic;
    use std::format;

    fn of_bits(name: &str, change: BitChange) -> Option<Action> {
        let width =
            [("_rm16", 2), ("_rm32", 4), ("_rm64", 8)].into_iter().find(|(operand, _)| name.contains(operand))?.1;
        Some(Action::Bit { change, width })
    }

    /// The decoder's own table of mnemonics says the same; what is left out has no operand in memory, or one that is no
    /// general register.
    #[test]
    fn complete_by_mnemonic() {
        for code in Code::values() {
            let name = format!("{code:?}");
            let expected = match code.mnemonic() {
                Mnemonic::Mov => Some(Action::Move),
                Mnemonic::Xchg => Some(Action::Exchange),
                Mnemonic::Add => Some(Action::Change(Operation::Add)),
                Mnemonic::Sub => Some(Action::Change(Operation::Sub)),
                Mnemonic::And => Some(Action::Change(Operation::And)),
                Mnemonic::Or => Some(Action::Change(Operation::Or)),
                Mnemonic::Xor => Some(Action::Change(Operation::Xor)),
                Mnemonic::Cmp => Some(Action::Compare(Operation::Sub)),
                Mnemonic::Test => Some(Action::Compare(Operation::And)),
                Mnemonic::Bt => of_bits(&name, BitChange::Keep),
                Mnemonic::Bts => of_bits(&name, BitChange::Set),
                Mnemonic::Btr => of_bits(&name, BitChange::Reset),
                Mnemonic::Btc => of_bits(&name, BitChange::Complement),
                Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd => {
                    let from = match name.rsplit_once("_rm").map(|(_, bits)| bits) {
                        Some("8") => 1,
                        Some("16") => 2,
                        _ => 4,
                    };
                    Some(Action::Extend { from, signed: code.mnemonic() != Mnemonic::Movzx })
                }
                _ => None,
            };
            let operands: std::vec::Vec<&str> = name.split('_').skip(1).collect();
            let memory = operands.iter().any(|operand| operand.starts_with("rm") || operand.starts_with("moffs"));
            let general = !operands.iter().any(|operand| ["Sreg", "cr", "dr", "tr"].contains(operand));
            assert_eq!(of(code), expected.filter(|_| memory && general), "{name}");
        }
    }
}
