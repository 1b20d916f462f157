//! General registers as instruction operands.

use iced_x86::Register;

use super::super::cpu::VirtualCpu;
use super::memory::mask;

/// A general register, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpr {
    /// The number in instruction encodings.
    pub index: u8,
    /// Bytes.
    pub width: u8,
    /// AH, CH, DH or BH.
    pub high: bool,
}

impl Gpr {
    /// From the decoder's name; `None` for what is no general register.
    #[must_use]
    pub fn from_iced(register: Register) -> Option<Self> {
        let number = register as u32;
        let within = |first: Register, last: Register| {
            (first as u32..=last as u32).contains(&number).then(|| (number - first as u32) as u8)
        };
        let gpr = |index, width| Some(Self { index, width, high: false });
        if let Some(i) = within(Register::AL, Register::BL) {
            gpr(i, 1)
        } else if let Some(i) = within(Register::AH, Register::BH) {
            Some(Self { index: i, width: 1, high: true })
        } else if let Some(i) = within(Register::SPL, Register::R15L) {
            gpr(i + 4, 1)
        } else if let Some(i) = within(Register::AX, Register::R15W) {
            gpr(i, 2)
        } else if let Some(i) = within(Register::EAX, Register::R15D) {
            gpr(i, 4)
        } else if let Some(i) = within(Register::RAX, Register::R15) {
            gpr(i, 8)
        } else {
            None
        }
    }

    /// A low part of register `index`.
    #[must_use]
    pub const fn low(index: u8, width: u8) -> Self {
        Self { index, width, high: false }
    }

    /// The value, zero-extended.
    pub fn read<C: VirtualCpu + ?Sized>(self, cpu: &C) -> u64 {
        let value = cpu.gpr(self.index);
        (if self.high { value >> 8 } else { value }) & mask(self.width)
    }

    /// Writes it; 32-bit writes clear the upper half, narrower ones keep the rest (APM1 3.1.2).
    pub fn write<C: VirtualCpu + ?Sized>(self, cpu: &mut C, value: u64) {
        let old = cpu.gpr(self.index);
        let mask = mask(self.width);
        let new = match (self.width, self.high) {
            (4 | 8, _) => value & mask,
            (_, true) => old & !0xff00 | (value & 0xff) << 8,
            _ => old & !mask | value & mask,
        };
        cpu.set_gpr(self.index, new);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::FakeCpu;
    use super::*;

    #[test]
    fn names() {
        assert_eq!(Gpr::from_iced(Register::BL), Some(Gpr::low(3, 1)));
        assert_eq!(Gpr::from_iced(Register::CH), Some(Gpr { index: 1, width: 1, high: true }));
        assert_eq!(Gpr::from_iced(Register::SIL), Some(Gpr::low(6, 1)));
        assert_eq!(Gpr::from_iced(Register::R9W), Some(Gpr::low(9, 2)));
        assert_eq!(Gpr::from_iced(Register::R15D), Some(Gpr::low(15, 4)));
        assert_eq!(Gpr::from_iced(Register::RSP), Some(Gpr::low(4, 8)));
        assert_eq!(Gpr::from_iced(Register::XMM0), None);
        assert_eq!(Gpr::from_iced(Register::RIP), None);
    }

    #[test]
    fn partial_writes() {
        let mut cpu = FakeCpu::long_mode();
        cpu.state.gprs[1] = 0x1122_3344_5566_7788;
        Gpr { index: 1, width: 1, high: true }.write(&mut cpu, 0xaa);
        assert_eq!(cpu.state.gprs[1], 0x1122_3344_5566_aa88);
        Gpr::low(1, 2).write(&mut cpu, 0xffff_1234);
        assert_eq!(cpu.state.gprs[1], 0x1122_3344_5566_1234);
        Gpr::low(1, 4).write(&mut cpu, 0xffff_ffff_8000_0000);
        assert_eq!(cpu.state.gprs[1], 0x8000_0000);
    }
}
