//! The local APIC in x2APIC mode (SDM 3A 11.12): messages to other processors, the timer.
#![expect(unsafe_code, reason = "the registers are MSRs")]

use machine::cpu::msr;

/// Registers (SDM 3A table 11-6).
mod register {
    pub const BASE: u32 = 0x1b;
    pub const DEADLINE: u32 = 0x6e0;
    pub const ID: u32 = 0x802;
    pub const EOI: u32 = 0x80b;
    pub const SPURIOUS: u32 = 0x80f;
    pub const COMMAND: u32 = 0x830;
    pub const TIMER: u32 = 0x832;
    pub const TIMER_COUNT: u32 = 0x838;
    pub const TIMER_CURRENT: u32 = 0x839;
    pub const TIMER_DIVIDE: u32 = 0x83e;
    pub const SELF: u32 = 0x83f;
}

/// IA32_APIC_BASE: on, in x2APIC mode.
const ENABLE: u64 = 3 << 10;
const SPURIOUS_ENABLE: u64 = 1 << 8;
const MASKED: u64 = 1 << 16;
/// The vector of interrupts that are none.
pub const SPURIOUS: u8 = 0xff;
/// The vector of the timer.
pub const TIMER: u8 = 0x20;

/// How a message is delivered (SDM 3A figure 11-28).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// This vector.
    Fixed(u8),
    /// This vector, to one of the destination.
    Lowest(u8),
    /// NMI.
    Nmi,
    /// INIT.
    Init,
    /// Start at this page.
    Startup(u8),
}

/// Whom a message is for (SDM 3A 11.12.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// The processor with this id; `u32::MAX` is every one.
    Physical(u32),
    /// Cluster in bits 31:16, a mask of its members in bits 15:0.
    Logical(u32),
    /// Who sends it, by shorthand.
    Own,
    /// Every one, by shorthand.
    All,
    /// Every one but who sends it, by shorthand.
    Others,
}

fn write(register: u32, value: u64) {
    // SAFETY: the register is this processor's own and touches no memory; whatever comes of a message finds a handler.
    unsafe { msr::write(register, value) };
}

fn read(register: u32) -> u64 {
    // SAFETY: reading changes nothing.
    unsafe { msr::read(register) }
}

/// Switches it on, the timer masked.
pub fn enable() {
    write(register::BASE, read(register::BASE) | ENABLE);
    write(register::SPURIOUS, SPURIOUS_ENABLE | u64::from(SPURIOUS));
    set_timer(Timer::OneShot, false);
    set_divide(1);
}

/// This processor's id.
#[must_use]
pub fn id() -> u32 {
    read(register::ID) as u32
}

/// The interrupt in service is done.
pub fn end_of_interrupt() {
    write(register::EOI, 0);
}

/// Sends a message.
pub fn send(message: Message, to: To) {
    let (mode, vector) = match message {
        Message::Fixed(vector) => (0, vector),
        Message::Lowest(vector) => (1, vector),
        Message::Nmi => (4, 0),
        Message::Init => (5, 0),
        Message::Startup(page) => (6, page),
    };
    let to = match to {
        To::Physical(id) => u64::from(id) << 32,
        To::Logical(id) => u64::from(id) << 32 | 1 << 11,
        To::Own => 1 << 18,
        To::All => 2 << 18,
        To::Others => 3 << 18,
    };
    write(register::COMMAND, to | 1 << 14 | mode << 8 | u64::from(vector));
}

/// Sends this processor a vector by the register made for that.
pub fn send_self(vector: u8) {
    write(register::SELF, vector.into());
}

/// How the timer counts (SDM 3A 11.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Down to zero, once.
    OneShot,
    /// Down to zero, again and again.
    Periodic,
    /// To a value of the TSC.
    Deadline,
}

/// Sets how the timer counts, and whether its interrupt is held back.
pub fn set_timer(timer: Timer, masked: bool) {
    let mode = match timer {
        Timer::OneShot => 0,
        Timer::Periodic => 1 << 17,
        Timer::Deadline => 2 << 17,
    };
    write(register::TIMER, mode | if masked { MASKED } else { 0 } | u64::from(TIMER));
    if timer == Timer::Deadline {
        // SDM 3A 11.5.4.1: the mode is in force before a deadline is written.
        // SAFETY: the fence only waits.
        unsafe { core::arch::asm!("mfence", options(nostack, preserves_flags)) };
    }
}

/// Ticks of the TSC in one count: 1 or 16.
pub fn set_divide(ticks: u32) {
    write(register::TIMER_DIVIDE, if ticks == 16 { 0b0011 } else { 0b1011 });
}

/// Starts the timer with this many counts, or stops it with 0.
pub fn start_timer(counts: u64) {
    write(register::TIMER_COUNT, counts);
}

/// How many counts the timer has still to go.
#[must_use]
pub fn timer_left() -> u64 {
    read(register::TIMER_CURRENT)
}

/// Sets the deadline, or none with 0.
pub fn set_deadline(tsc: u64) {
    write(register::DEADLINE, tsc);
}

/// The deadline; 0 when there is none.
#[must_use]
pub fn deadline() -> u64 {
    read(register::DEADLINE)
}
