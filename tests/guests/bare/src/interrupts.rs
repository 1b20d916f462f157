//! One handler for all vectors, the local APIC in x2APIC mode, and waiting without spinning.
#![expect(unsafe_code, reason = "IDT, MSRs, HLT; the entry points are assembly")]

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};

use machine::cpu::tables::{Gate, Idt, TablePointer, load_idt};
use machine::cpu::{interrupts, msr};

use crate::{clock, println};

/// The first vector that is no exception.
const FIRST: u8 = 0x20;
/// The local APIC's timer.
pub const TIMER: u8 = 0x20;
const SPURIOUS: u8 = 0xff;
/// The first vector for devices.
pub const DEVICES: u8 = 0x40;
/// The guest's code segment: see `entry`.
const CODE: u16 = 0x08;
/// Bytes from one entry point to the next.
const STRIDE: u64 = 16;

/// Registers of the local APIC in x2APIC mode (SDM 3A table 11-6).
mod apic {
    pub const BASE: u32 = 0x1b;
    pub const ENABLE: u64 = 3 << 10;
    pub const ID: u32 = 0x802;
    pub const EOI: u32 = 0x80b;
    pub const SPURIOUS: u32 = 0x80f;
    pub const SPURIOUS_ENABLE: u64 = 1 << 8;
    pub const TIMER: u32 = 0x832;
    pub const TIMER_COUNT: u32 = 0x838;
    pub const TIMER_DIVIDE: u32 = 0x83e;
    pub const DIVIDE_BY_1: u64 = 0b1011;
}

static COUNTS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];

/// How often the vector has come.
#[must_use]
pub fn count(vector: u8) -> u32 {
    COUNTS[usize::from(vector)].load(Ordering::Relaxed)
}

/// Where a device sends an interrupt with this vector (SDM 3A 11.11): address and data.
#[must_use]
pub fn message(vector: u8) -> (u64, u32) {
    // SAFETY: the register only says who this is.
    let id = unsafe { msr::read(apic::ID) };
    (0xfee0_0000 | id << 12, vector.into())
}

/// IDT and local APIC; interrupts stay off but while the guest waits.
pub fn init() {
    let mut idt = Box::new(Idt([Gate::MISSING; 256]));
    for (vector, gate) in idt.0.iter_mut().enumerate() {
        *gate = Gate::interrupt(stubs() + STRIDE * vector as u64, CODE, 0);
    }
    let idt = Box::leak(idt);
    // SAFETY: the table is leaked; its handlers save all registers and return, or stop for good.
    unsafe { load_idt(&TablePointer::new(core::ptr::from_ref(idt) as u64, 4096)) };
    // SAFETY: the guest runs on this one processor, whose local APIC is its own.
    unsafe {
        msr::write(apic::BASE, msr::read(apic::BASE) | apic::ENABLE);
        msr::write(apic::SPURIOUS, apic::SPURIOUS_ENABLE | u64::from(SPURIOUS));
        msr::write(apic::TIMER_DIVIDE, apic::DIVIDE_BY_1);
        msr::write(apic::TIMER, TIMER.into());
    }
}

/// Sleeps until an interrupt comes, unless `ready` says that it has come.
pub fn wait_unless(ready: impl Fn() -> bool) {
    interrupts::disable();
    if !ready() {
        // SAFETY: the handler takes no lock; what it counts is atomic.
        unsafe { interrupts::enable_and_wait() };
        interrupts::disable();
    }
}

/// Sets the timer to `ticks` and is busy until its interrupt has come.
pub fn one_shot(ticks: u64) {
    let before = count(TIMER);
    // SAFETY: the handler takes no lock; the timer raises its own vector only.
    unsafe {
        interrupts::enable();
        msr::write(apic::TIMER_COUNT, ticks);
    }
    while count(TIMER) == before {
        core::hint::spin_loop();
    }
    interrupts::disable();
}

/// Sleeps until `ready`, which an interrupt makes true, or for `ms`.
pub fn sleep_unless(ms: u64, ready: impl Fn() -> bool) {
    let before = count(TIMER);
    // SAFETY: the timer raises its own vector only.
    unsafe { msr::write(apic::TIMER_COUNT, ms * clock::khz()) };
    let over = || ready() || count(TIMER) != before;
    while !over() {
        wait_unless(over);
    }
    // SAFETY: as above; zero stops it.
    unsafe { msr::write(apic::TIMER_COUNT, 0) };
}

/// Sleeps.
pub fn sleep_ms(ms: u64) {
    let before = count(TIMER);
    // SAFETY: the timer raises its own vector only.
    unsafe { msr::write(apic::TIMER_COUNT, ms * clock::khz()) };
    while count(TIMER) == before {
        wait_unless(|| count(TIMER) != before);
    }
}

/// What the entry points have pushed.
#[repr(C)]
struct Frame {
    registers: [u64; 9],
    vector: u64,
    error: u64,
    rip: u64,
}

#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "called by the entry points"))]
extern "C" fn handle(frame: &Frame) {
    let vector = frame.vector as u8;
    if vector < FIRST {
        println!("guest failed: exception {vector} (error {:#x}) at {:#x}", frame.error, frame.rip);
        interrupts::stop();
    }
    COUNTS[usize::from(vector)].fetch_add(1, Ordering::Relaxed);
    if vector != SPURIOUS {
        // SAFETY: the interrupt in service is this one.
        unsafe { msr::write(apic::EOI, 0) };
    }
}

// Exceptions with an error code: 8, 10-14, 17, 21, 29, 30 (APM2 8.1, SDM 3A 6.3.1). Only what a Rust function
// may change is saved.
#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".section .text.stubs, \"ax\"",
    ".balign 16",
    "guest_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)",
    ".else",
    "push 0",
    ".endif",
    "push vector",
    "jmp guest_stub",
    ".set vector, vector + 1",
    ".endr",
    "guest_stub:",
    "push rax",
    "push rcx",
    "push rdx",
    "push rsi",
    "push rdi",
    "push r8",
    "push r9",
    "push r10",
    "push r11",
    "cld",
    "mov rdi, rsp",
    "push rbp",
    "mov rbp, rsp",
    "and rsp, -16",
    "call {handle}",
    "mov rsp, rbp",
    "pop rbp",
    "pop r11",
    "pop r10",
    "pop r9",
    "pop r8",
    "pop rdi",
    "pop rsi",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    handle = sym handle,
);

/// The first entry point.
fn stubs() -> u64 {
    #[cfg(target_os = "none")]
    {
        unsafe extern "C" {
            fn guest_stubs();
        }
        guest_stubs as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}
