//! The LAPIC's registers as MSRs (SDM 3A 11.12.1.2, table 11-6).

use super::{
    BASE_ADDRESS, BASE_BSP, BASE_EN, BASE_EXTD, ESR_SEND_ILLEGAL, LVT_BITS, LVT_LINT0, LVT_LINT1, LVT_MASKED,
    LVT_TIMER, Lapic, Mode, SVR_BITS, SVR_ENABLED,
};
use crate::guest::message::{DeliveryMode, Destination, InterruptMessage};
use crate::vcpu::bus::GeneralProtection;

/// `IA32_APIC_BASE`.
pub(crate) const MSR_BASE: u32 = 0x1B;
/// `IA32_TSC_DEADLINE`.
pub(crate) const MSR_DEADLINE: u32 = 0x6E0;
const MSR_FIRST: u32 = 0x800;
const MSR_LAST: u32 = 0x83F;

const ID: u32 = 0x802;
const VERSION: u32 = 0x803;
const TPR: u32 = 0x808;
const PPR: u32 = 0x80A;
const EOI: u32 = 0x80B;
const LDR: u32 = 0x80D;
const SVR: u32 = 0x80F;
const ISR: u32 = 0x810;
const ISR_END: u32 = 0x817;
const TMR: u32 = 0x818;
const TMR_END: u32 = 0x81F;
const IRR: u32 = 0x820;
const IRR_END: u32 = 0x827;
const ESR: u32 = 0x828;
const ICR: u32 = 0x830;
const LVT: u32 = 0x832;
const LVT_END: u32 = 0x837;
const INITIAL_COUNT: u32 = 0x838;
const CURRENT_COUNT: u32 = 0x839;
const DIVIDE: u32 = 0x83E;
const SELF_IPI: u32 = 0x83F;

/// Integrated APIC 0x14, six LVT entries, no suppression of EOI broadcasts (SDM 3A figure 11-7).
const VERSION_VALUE: u64 = 0x0005_0014;

const ICR_RESERVED: u64 = 0xFFF0_0000 | 0x3_0000 | 1 << 13;
const ICR_BUSY: u64 = 1 << 12;
const ICR_LOGICAL: u64 = 1 << 11;
const ICR_ASSERT: u64 = 1 << 14;
const ICR_LEVEL: u64 = 1 << 15;

/// What a register write asks of the rest of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an effect that is dropped is an interrupt lost"]
pub enum Effect {
    /// Nothing.
    None,
    /// Send this to the other LAPICs (and this one).
    Ipi(InterruptMessage),
    /// A level-triggered interrupt of this vector ended: tell the IOAPIC.
    Eoi(u8),
}

/// Whether `base` is an `IA32_APIC_BASE` that the CPU with `own` can have.
pub(super) const fn base_is_possible(base: u64, own: u64) -> bool {
    base & !(BASE_EN | BASE_EXTD) == BASE_ADDRESS | own & BASE_BSP && base & (BASE_EN | BASE_EXTD) != BASE_EXTD
}

impl Lapic {
    /// Whether `msr` is one of the LAPIC's.
    #[must_use]
    pub const fn owns_msr(msr: u32) -> bool {
        matches!(msr, MSR_BASE | MSR_DEADLINE | MSR_FIRST..=MSR_LAST)
    }

    /// RDMSR at guest TSC `now`.
    ///
    /// # Errors
    /// Not a readable register of a LAPIC in its present mode.
    pub fn msr_read(&mut self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        match msr {
            MSR_BASE => return Ok(self.base),
            MSR_DEADLINE if self.timer_mode() == Mode::Deadline => {
                // A deadline in the past has fired: the register reads zero (SDM 3A 11.5.4.1).
                let _due = self.expire(now);
                return Ok(self.timer.tsc_deadline());
            }
            MSR_DEADLINE => return Ok(0),
            _ if !self.is_x2apic() => return Err(GeneralProtection),
            _ => {}
        }
        self.synchronize();
        let word = |first: u32| (msr - first) as usize;
        let value = match msr {
            ID => self.id,
            VERSION => return Ok(VERSION_VALUE),
            TPR => u32::from(self.task_priority),
            PPR => u32::from(self.processor_priority()),
            LDR => (self.id >> 4) << 16 | 1 << (self.id & 15),
            SVR => self.spurious,
            ISR..=ISR_END => self.isr.word(word(ISR)),
            TMR..=TMR_END => self.tmr.word(word(TMR)),
            IRR..=IRR_END => self.irr.word(word(IRR)),
            ESR => self.error_status,
            ICR => return Ok(self.icr),
            LVT..=LVT_END => self.lvt.get(word(LVT)).copied().unwrap_or(LVT_MASKED),
            INITIAL_COUNT if self.timer_mode() == Mode::Deadline => 0,
            INITIAL_COUNT => self.timer.initial(),
            CURRENT_COUNT => {
                let _due = self.expire(now);
                self.timer.current(self.timer_mode(), now)
            }
            DIVIDE => self.timer.divide(),
            _ => return Err(GeneralProtection),
        };
        Ok(u64::from(value))
    }

    /// WRMSR at guest TSC `now`.
    ///
    /// # Errors
    /// Not a writable register of a LAPIC in its present mode, or a reserved bit is set.
    pub fn msr_write(&mut self, msr: u32, value: u64, now: u64) -> Result<Effect, GeneralProtection> {
        if matches!(msr, MSR_DEADLINE | SVR | LVT | INITIAL_COUNT | DIVIDE) {
            // What was due before the write fires as it was set before the write.
            let _due = self.expire(now);
        }
        match msr {
            MSR_BASE => return self.write_base(value),
            MSR_DEADLINE => {
                if self.timer_mode() == Mode::Deadline {
                    self.timer.set_tsc_deadline(value);
                    let _due = self.expire(now);
                }
                return Ok(Effect::None);
            }
            _ if !self.is_x2apic() => return Err(GeneralProtection),
            ICR => return self.write_icr(value),
            _ => {}
        }
        let value = u32::try_from(value).map_err(|_| GeneralProtection)?;
        self.synchronize();
        match msr {
            TPR => self.task_priority = u8::try_from(value).map_err(|_| GeneralProtection)?,
            EOI if value == 0 => return Ok(self.end_of_interrupt()),
            SVR => self.write_spurious(value),
            ESR if value == 0 => self.error_status = core::mem::take(&mut self.errors),
            LVT..=LVT_END => self.write_lvt((msr - LVT) as usize, value)?,
            INITIAL_COUNT => {
                let mode = self.timer_mode();
                if mode != Mode::Deadline {
                    self.timer.set_initial(value, mode, now);
                }
            }
            DIVIDE if value & !0b1011 == 0 => {
                let mode = self.timer_mode();
                self.timer.set_divide(value, mode, now);
            }
            SELF_IPI => return self.self_ipi(value),
            _ => return Err(GeneralProtection),
        }
        Ok(Effect::None)
    }

    /// Modes may change as figure 11-23 of SDM 3A allows; the page may not move.
    fn write_base(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        let modes = BASE_EN | BASE_EXTD;
        let legal = base_is_possible(value, self.base)
            && match (self.base & modes, value & modes) {
                (old, new) if old == new => true,
                // x2APIC mode is left only by disabling, entered only from xAPIC mode.
                (old, new) if old == modes => new == 0,
                (0, new) => new == BASE_EN,
                (_, _) => true,
            };
        if !legal {
            return Err(GeneralProtection);
        }
        if value & BASE_EN == 0 && self.base & BASE_EN != 0 {
            self.reset();
        }
        self.base = value;
        Ok(Effect::None)
    }

    fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.isr.highest() else {
            return Effect::None;
        };
        self.isr.remove(vector);
        if self.tmr.contains(vector) { Effect::Eoi(vector) } else { Effect::None }
    }

    fn write_spurious(&mut self, value: u32) {
        self.spurious = value & SVR_BITS;
        if self.spurious & SVR_ENABLED == 0 {
            for entry in &mut self.lvt {
                *entry |= LVT_MASKED;
            }
        }
    }

    fn write_lvt(&mut self, entry: usize, value: u32) -> Result<(), GeneralProtection> {
        let (Some(register), Some(bits)) = (self.lvt.get_mut(entry), LVT_BITS.get(entry)) else {
            return Err(GeneralProtection);
        };
        // Delivery status (and remote IRR of the LINT pins) are read-only: Linux writes back what it read.
        let read_only = 1 << 12 | if matches!(entry, LVT_LINT0 | LVT_LINT1) { 1 << 14 } else { 0 };
        if value & !(bits | read_only) != 0 {
            return Err(GeneralProtection);
        }
        let old = *register;
        *register = value & bits & !read_only;
        if self.spurious & SVR_ENABLED == 0 {
            *register |= LVT_MASKED;
        }
        let new = *register;
        if entry == LVT_TIMER {
            self.timer.change_mode(Mode::of_lvt(old), Mode::of_lvt(new));
        }
        Ok(())
    }

    fn self_ipi(&mut self, value: u32) -> Result<Effect, GeneralProtection> {
        let vector = u8::try_from(value).map_err(|_| GeneralProtection)?;
        if vector < 16 {
            self.raise_error(ESR_SEND_ILLEGAL);
        } else if self.accepts_vectors() {
            self.irr.insert(vector);
            self.tmr.remove(vector);
        }
        Ok(Effect::None)
    }

    /// Sends an IPI (SDM 3A 11.12.9).
    fn write_icr(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        if value & ICR_RESERVED != 0 {
            return Err(GeneralProtection);
        }
        self.icr = value & !ICR_BUSY;
        let vector = value as u8;
        let Some(mode) = DeliveryMode::from_bits((value >> 8) as u32) else {
            return Ok(Effect::None);
        };
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < 16 => {
                self.raise_error(ESR_SEND_ILLEGAL);
                return Ok(Effect::None);
            }
            // INIT level de-assert is a relic that modern CPUs ignore (SDM 3A 11.6.1).
            DeliveryMode::Init if value & (ICR_LEVEL | ICR_ASSERT) == ICR_LEVEL => {
                return Ok(Effect::None);
            }
            DeliveryMode::Smi | DeliveryMode::ExtInt => return Ok(Effect::None),
            _ => {}
        }
        let target = (value >> 32) as u32;
        let destination = match value >> 18 & 3 {
            0 if value & ICR_LOGICAL != 0 => Destination::Logical(target),
            0 => Destination::Physical(target),
            1 => Destination::Physical(self.id),
            2 => Destination::All,
            _ => Destination::AllBut(self.id),
        };
        Ok(Effect::Ipi(InterruptMessage { vector, mode, destination, level: false }))
    }
}
