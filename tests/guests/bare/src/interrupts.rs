//! One handler for all vectors, which counts, and waiting without spinning.
#![expect(unsafe_code, reason = "IDT, HLT; the entry points are assembly")]

use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use machine::cpu::interrupts;
use machine::cpu::tables::{Gate, Idt, TablePointer, idt, load_idt};

pub use crate::apic::TIMER;
use crate::apic::{self, SPURIOUS};
use crate::smp::{self, MOST};
use crate::{clock, println, trial};

/// The first vector that is no exception.
const FIRST: u8 = 0x20;
/// The first vector for devices.
pub const DEVICES: u8 = 0x40;
/// The guest's code segment: see `entry`.
const CODE: u16 = 0x08;
/// Bytes from one entry point to the next.
const STRIDE: u64 = 16;

/// By processor and vector.
static COUNTS: [[AtomicU32; 256]; MOST] = [const { [const { AtomicU32::new(0) }; 256] }; MOST];
static TABLE: AtomicPtr<Idt> = AtomicPtr::new(core::ptr::null_mut());
static HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// How often the vector has come to this processor.
#[must_use]
pub fn count(vector: u8) -> u32 {
    count_of(smp::index(), vector)
}

/// How often the vector has come to processor `cpu`.
#[must_use]
pub fn count_of(cpu: usize, vector: u8) -> u32 {
    COUNTS[cpu][usize::from(vector)].load(Ordering::Acquire)
}

/// Has `hook` called in every handler after it has counted; an exception for which it says no ends the guest.
pub fn set_hook(hook: fn(&mut Frame) -> bool) {
    HOOK.store(hook as *mut (), Ordering::Release);
}

/// Where a device sends an interrupt with this vector (SDM 3A 11.11): address and data.
#[must_use]
pub fn message(vector: u8) -> (u64, u32) {
    (0xfee0_0000 | u64::from(apic::id()) << 12, vector.into())
}

/// IDT and local APIC of the first processor; interrupts stay off but while the guest waits.
pub fn init() {
    let mut idt = Box::new(Idt([Gate::MISSING; 256]));
    for (vector, gate) in idt.0.iter_mut().enumerate() {
        *gate = Gate::interrupt(entry_point(vector as u8), CODE, 0);
    }
    TABLE.store(Box::leak(idt), Ordering::Release);
    enter();
}

/// Likewise of the processor that executes this, once the first has made the table.
pub fn enter() {
    // SAFETY: the table is leaked; its handlers save all registers and return, or stop for good.
    unsafe { load_idt(&TablePointer::new(TABLE.load(Ordering::Acquire) as u64, 4096)) };
    apic::enable();
}

/// Lets interrupts through.
pub fn open() {
    // SAFETY: the handlers take no lock; what they count is atomic.
    unsafe { interrupts::enable() };
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
    open();
    apic::start_timer(ticks);
    while count(TIMER) == before {
        core::hint::spin_loop();
    }
    interrupts::disable();
}

/// Sleeps until `ready`, which an interrupt makes true, or for `ms`.
pub fn sleep_unless(ms: u64, ready: impl Fn() -> bool) {
    let before = count(TIMER);
    apic::start_timer(ms * clock::khz());
    let over = || ready() || count(TIMER) != before;
    while !over() {
        wait_unless(over);
    }
    apic::start_timer(0);
}

/// Sleeps.
pub fn sleep_ms(ms: u64) {
    let before = count(TIMER);
    apic::start_timer(ms * clock::khz());
    while count(TIMER) == before {
        wait_unless(|| count(TIMER) != before);
    }
}

/// What the entry points and the CPU have pushed. What is changed here is changed when the code goes on.
#[repr(C)]
pub struct Frame {
    registers: [u64; 9],
    /// The vector.
    pub vector: u64,
    /// The exception's error code, or 0.
    pub error: u64,
    /// RIP.
    pub rip: u64,
    /// CS.
    pub code: u64,
    /// RFLAGS.
    pub flags: u64,
    /// RSP.
    pub stack: u64,
    /// SS.
    pub data: u64,
}

#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "called by the entry points"))]
extern "C" fn handle(frame: &mut Frame) {
    let vector = frame.vector as u8;
    COUNTS[smp::index()][usize::from(vector)].fetch_add(1, Ordering::AcqRel);
    let hook = HOOK.load(Ordering::Acquire);
    let answered = !hook.is_null() && {
        // SAFETY: `set_hook` has stored a function of this type.
        let hook: fn(&mut Frame) -> bool = unsafe { core::mem::transmute(hook) };
        hook(frame)
    };
    if vector < FIRST {
        if !answered && !trial::caught(frame) {
            println!("guest failed: exception {vector} (error {:#x}) at {:#x}", frame.error, frame.rip);
            interrupts::stop();
        }
    } else if vector != SPURIOUS {
        apic::end_of_interrupt();
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

/// Where the entry point of `vector` is.
pub(crate) fn entry_point(vector: u8) -> u64 {
    stubs() + STRIDE * u64::from(vector)
}

/// Sets the gate of `vector`.
///
/// # Safety
/// The gate leads to an entry point, on a stack that exists.
pub unsafe fn set_gate(vector: u8, gate: Gate) {
    let at = core::ptr::with_exposed_provenance_mut::<Gate>(idt().base as usize).wrapping_add(vector.into());
    // SAFETY: the table that is in force is the one `init` has leaked; by contract the gate is sound.
    unsafe { at.write_volatile(gate) };
}

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
