//! The virtual local APIC in x2APIC mode (SDM 3A chapter 11).
//!
//! - [`Lapic`]: owned by the vCPU's thread: registers, priorities, timer.
//! - [`PendingVectors`]: the mailbox others post to, lock-free.
//! - `timer`: one-shot, periodic and TSC-deadline.
//! - `registers`: the MSRs 0x800-0x83F, 0x1B and 0x6E0.
//!
//! Guests find x2APIC mode already enabled; the MMIO page is an empty bus.

mod pending;
mod registers;
mod state;
mod timer;
mod vectors;

use alloc::sync::Arc;

pub use self::pending::{PendingVectors, StartupEvent};
pub use self::registers::Effect;
pub use self::state::{LapicState, LapicStateError, LapicTimerState};
use self::timer::{Mode, Timer};
pub use self::vectors::VectorSet;

const BASE_ADDRESS: u64 = 0xFEE0_0000;
const BASE_BSP: u64 = 1 << 8;
const BASE_EXTD: u64 = 1 << 10;
const BASE_EN: u64 = 1 << 11;

const LVT_MASKED: u32 = 1 << 16;
const SVR_ENABLED: u32 = 1 << 8;
const SVR_BITS: u32 = 0x1FF;
const ESR_SEND_ILLEGAL: u32 = 1 << 5;
const ESR_RECEIVE_ILLEGAL: u32 = 1 << 6;
const ESR_BITS: u32 = 0xFF;

/// Index of each local vector table entry in `lvt`.
const LVT_TIMER: usize = 0;
const LVT_LINT0: usize = 3;
const LVT_LINT1: usize = 4;
const LVT_ERROR: usize = 5;
/// Writable bits of each entry: timer, thermal, performance, LINT0, LINT1, error.
const LVT_BITS: [u32; 6] = [0x7_00FF, 0x1_07FF, 0x1_07FF, 0x1_A7FF, 0x1_A7FF, 0x1_00FF];

/// One virtual LAPIC. Whoever runs the vCPU owns it; others post to its
/// [`mailbox`](Self::mailbox).
#[derive(Debug)]
pub struct Lapic {
    id: u32,
    base: u64,
    task_priority: u8,
    spurious: u32,
    error_status: u32,
    errors: u32,
    icr: u64,
    lvt: [u32; 6],
    timer: Timer,
    irr: VectorSet,
    isr: VectorSet,
    tmr: VectorSet,
    mailbox: Arc<PendingVectors>,
}

impl Lapic {
    /// The LAPIC of vCPU `id` after power-on: x2APIC mode, software-disabled. CPU 0 is the
    /// bootstrap CPU. `shortest_period` in TSC ticks bounds the rate of a periodic timer.
    #[must_use]
    pub fn new(id: u32, shortest_period: u64, mailbox: Arc<PendingVectors>) -> Self {
        let mut lapic = Self {
            id,
            base: BASE_ADDRESS | BASE_EN | BASE_EXTD | if id == 0 { BASE_BSP } else { 0 },
            task_priority: 0,
            spurious: 0,
            error_status: 0,
            errors: 0,
            icr: 0,
            lvt: [0; 6],
            timer: Timer::new(shortest_period),
            irr: VectorSet::default(),
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            mailbox,
        };
        lapic.clear();
        lapic
    }

    /// The state after INIT (SDM 3A 11.12.5.1): all but id and `IA32_APIC_BASE`.
    /// What was posted before is gone, but for NMI, INIT and startup messages.
    pub fn reset(&mut self) {
        self.clear();
        let _dropped = self.mailbox.collect();
    }

    fn clear(&mut self) {
        self.task_priority = 0;
        self.spurious = 0xFF;
        self.error_status = 0;
        self.errors = 0;
        self.icr = 0;
        self.lvt = [LVT_MASKED; 6];
        self.timer.reset();
        self.irr = VectorSet::default();
        self.isr = VectorSet::default();
        self.tmr = VectorSet::default();
    }

    /// The APIC id, also the vCPU's index.
    #[must_use]
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// Where others post interrupts for this CPU.
    #[must_use]
    pub const fn mailbox(&self) -> &Arc<PendingVectors> {
        &self.mailbox
    }

    const fn is_x2apic(&self) -> bool {
        self.base & (BASE_EN | BASE_EXTD) == BASE_EN | BASE_EXTD
    }

    const fn accepts_vectors(&self) -> bool {
        self.base & BASE_EN != 0 && self.spurious & SVR_ENABLED != 0
    }

    /// Collects what was posted.
    #[inline]
    fn synchronize(&mut self) {
        if self.mailbox.is_anything_posted() {
            self.collect();
        }
    }

    /// A disabled LAPIC accepts no vectors (SDM 3A 11.4.7.2).
    #[inline(never)]
    fn collect(&mut self) {
        let Some(collected) = self.mailbox.collect() else {
            return;
        };
        if !self.accepts_vectors() {
            return;
        }
        self.irr.merge(&collected.requests, &collected.level, &mut self.tmr);
        if collected.illegal_vector {
            self.raise_error(ESR_RECEIVE_ILLEGAL);
        }
    }

    fn raise_error(&mut self, error: u32) {
        if self.errors & error == 0 {
            self.errors |= error;
            self.raise_local(LVT_ERROR);
        }
    }

    /// The local source `entry` of the vector table signals.
    fn raise_local(&mut self, entry: usize) {
        let lvt = self.lvt.get(entry).copied().unwrap_or(LVT_MASKED);
        if lvt & LVT_MASKED != 0 {
            return;
        }
        let vector = lvt as u8;
        // Only the LINT pins, thermal and performance entries have a mode field.
        match lvt >> 8 & 7 {
            4 if entry != LVT_TIMER && entry != LVT_ERROR => self.mailbox.post_nmi(),
            0 if vector >= 16 && self.accepts_vectors() => {
                self.irr.insert(vector);
                self.tmr.remove(vector);
            }
            0 if vector < 16 && entry != LVT_ERROR => self.raise_error(ESR_RECEIVE_ILLEGAL),
            0 if vector < 16 => self.errors |= ESR_RECEIVE_ILLEGAL,
            _ => {}
        }
    }

    /// The processor priority (SDM 3A 11.8.3.1).
    fn processor_priority(&self) -> u8 {
        let in_service = self.isr.highest().unwrap_or(0);
        if self.task_priority >> 4 >= in_service >> 4 { self.task_priority } else { in_service & 0xF0 }
    }

    /// The vector the CPU would take now if it accepts interrupts.
    pub fn pending_interrupt(&mut self) -> Option<u8> {
        self.synchronize();
        if !self.accepts_vectors() {
            return None;
        }
        self.irr.highest().filter(|vector| vector >> 4 > self.processor_priority() >> 4)
    }

    /// Whether neither an interrupt nor a message waits, to be taken now or later: nothing is left to be asked before an entry.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        !self.mailbox.is_anything_posted() && self.irr.is_empty()
    }

    /// The CPU took `vector`.
    pub fn interrupt_accepted(&mut self, vector: u8) {
        self.irr.remove(vector);
        self.isr.insert(vector);
    }

    /// Takes a pending NMI.
    pub fn take_nmi(&mut self) -> bool {
        self.mailbox.take_nmi()
    }

    /// The task priority as CR8 shows it.
    #[must_use]
    pub const fn task_priority(&self) -> u8 {
        self.task_priority >> 4
    }

    /// A write to CR8; the register's bits 3:0 become zero (SDM 3A 11.8.6.1).
    pub const fn set_task_priority(&mut self, cr8: u8) {
        self.task_priority = cr8 << 4;
    }

    /// When the timer fires next, in the guest's TSC ticks.
    #[must_use]
    pub const fn next_deadline(&self) -> Option<u64> {
        self.timer.next_deadline()
    }

    /// Lets the timer fire if it is due at `now`. Returns whether it was.
    pub fn expire(&mut self, now: u64) -> bool {
        let due = self.timer.expire(self.timer_mode(), now);
        if due {
            self.raise_local(LVT_TIMER);
        }
        due
    }

    fn timer_mode(&self) -> Mode {
        Mode::of_lvt(self.lvt.get(LVT_TIMER).copied().unwrap_or(LVT_MASKED))
    }

    /// Everything, with what was posted but not collected. Nothing is lost from `self`.
    pub fn save(&mut self) -> LapicState {
        self.synchronize();
        LapicState {
            base: self.base,
            icr: self.icr,
            timer: self.timer.save(),
            id: self.id,
            task_priority: u32::from(self.task_priority),
            spurious: self.spurious,
            error_status: self.error_status,
            errors: self.errors,
            lvt: self.lvt,
            irr: self.irr.0,
            isr: self.isr.0,
            tmr: self.tmr.0,
            events: self.mailbox.events(),
        }
    }

    /// Continues from `state`. What was posted to this LAPIC's mailbox meanwhile stays.
    ///
    /// # Errors
    /// The state could not come from [`save`](Self::save) of this vCPU; nothing was changed.
    pub fn restore(&mut self, state: &LapicState) -> Result<(), LapicStateError> {
        self.check(state)?;
        self.base = state.base;
        self.icr = state.icr;
        self.timer.restore(&state.timer);
        self.task_priority = state.task_priority as u8;
        self.spurious = state.spurious;
        self.error_status = state.error_status;
        self.errors = state.errors;
        self.lvt = state.lvt;
        self.irr = VectorSet(state.irr);
        self.isr = VectorSet(state.isr);
        self.tmr = VectorSet(state.tmr);
        self.mailbox.add_events(state.events);
        Ok(())
    }

    fn check(&self, state: &LapicState) -> Result<(), LapicStateError> {
        if state.id != self.id {
            return Err(LapicStateError::WrongId { record: state.id, expected: self.id });
        }
        if !registers::base_is_possible(state.base, self.base) {
            return Err(LapicStateError::Base(state.base));
        }
        if (state.irr[0] | state.isr[0]) & 0xFFFF != 0 {
            return Err(LapicStateError::LowVector);
        }
        let reserved = |register, value: u32, bits: u32| {
            if value & !bits == 0 { Ok(()) } else { Err(LapicStateError::Reserved { register, value }) }
        };
        reserved("TPR", state.task_priority, 0xFF)?;
        reserved("SVR", state.spurious, SVR_BITS)?;
        reserved("ESR", state.error_status | state.errors, ESR_BITS)?;
        reserved("DCR", state.timer.divide, 0b1011)?;
        reserved("timer armed", state.timer.armed, 1)?;
        for (value, bits) in state.lvt.iter().zip(LVT_BITS) {
            reserved("LVT", *value, bits)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
