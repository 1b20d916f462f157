//! Several processors: their start, which of them executes this, waiting for what another one does.
#![cfg_attr(
    target_os = "none",
    expect(bad_asm_style, reason = "the Intel dialect takes no difference of symbols as an address")
)]
#![expect(unsafe_code, reason = "the start is assembly; GS leads to what a processor has of its own")]

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use machine::cpu::{ids, msr, tsc};

use crate::apic::{self, Message, To};
use crate::memory::{Frames, PAGE};
use crate::{clock, interrupts};

/// The most processors.
pub const MOST: usize = 64;
/// Pages of a further processor's stack.
const STACK_PAGES: usize = 2;
/// Where further processors start: a page of memory that nobody needs.
const TRAMPOLINE: u64 = 0x9_0000;
const GS_BASE: u32 = 0xc000_0101;
/// How long they may take to start.
const START_MS: u64 = 60_000;
/// Looks before who waits sleeps, and how long it does between looks then.
const SPINS: u32 = 500;
const NAP_MS: u64 = 1;

/// Which processor one is: GS leads to its number.
static NUMBERS: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];
static ARRIVED: AtomicU32 = AtomicU32::new(0);
static MAIN: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
/// The end of each further processor's stack, read by its first instructions.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
static GUEST_STACKS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];

// Real mode at the page that the start-up message names (SDM 3A 8.4.4); the tables and descriptors of the first processor. Long
// mode is entered in one step.
#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".section .text.ap, \"ax\"",
    ".balign 16",
    ".code16",
    "guest_ap_start:",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    "mov eax, cr4",
    "or eax, 0x20",
    "mov cr4, eax",
    "mov eax, offset guest_tables",
    "mov cr3, eax",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    ".att_syntax prefix",
    "lgdtl guest_ap_gdt_pointer - guest_ap_start",
    ".intel_syntax noprefix",
    "mov eax, cr0",
    "and eax, 0x9fffffff", // caches on: CD and NW are set after INIT
    "or eax, 0x80010001",
    "mov cr0, eax",
    ".byte 0x66, 0xea", // ljmp 0x08, 32-bit offset
    ".long guest_ap_long",
    ".word 0x08",
    ".balign 4",
    "guest_ap_gdt_pointer:",
    ".word 23",
    ".long guest_gdt",
    "guest_ap_end:",
    ".code64",
    "guest_ap_long:",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov ecx, 0x802", // x2APIC mode outlives INIT
    "rdmsr",
    "mov edi, eax",
    "mov rsp, [GUEST_STACKS + rdi * 8]",
    "call {arrive}",
    "ud2",
    arrive = sym arrive,
);

/// Makes this processor number `index`.
pub fn enlist(index: usize) {
    NUMBERS[index].store(index as u32, Ordering::Relaxed);
    // SAFETY: the MSR exists in long mode; nothing but `index` uses GS.
    unsafe { msr::write(GS_BASE, core::ptr::from_ref(&NUMBERS[index]) as u64) };
}

/// Which processor executes this, counted from 0.
#[must_use]
pub fn index() -> usize {
    let index: u32;
    // SAFETY: `enlist` has set GS base to a number that is never freed.
    unsafe { asm!("mov {:e}, gs:[0]", out(reg) index, options(nostack, readonly, preserves_flags)) };
    index as usize
}

/// How many processors there are.
#[must_use]
pub fn count() -> usize {
    // SDM 2A CPUID 0BH; asked once, for it is an exit.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    if COUNT.load(Ordering::Relaxed) == 0 {
        COUNT.store(ids::cpuid(0xb, 1).ebx.clamp(1, MOST as u32), Ordering::Relaxed);
    }
    COUNT.load(Ordering::Relaxed) as usize
}

#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "called by the entry code"))]
extern "C" fn arrive(index: u32) -> ! {
    enlist(index as usize);
    interrupts::enter();
    ARRIVED.fetch_add(1, Ordering::AcqRel);
    // Who is not there yet gets no messages.
    assert!(wait(are_all_here, START_MS), "CPU {index} waits for the others");
    let main = MAIN.load(Ordering::Acquire);
    // SAFETY: `start` has stored a function of this type before it sent the message that led here.
    let main: fn(usize) = unsafe { core::mem::transmute(main) };
    main(index as usize);
    machine::cpu::interrupts::stop()
}

/// Starts the other processors, each of which runs `main` with its number.
///
/// # Panics
/// When not all of them come.
pub fn start(main: fn(usize)) {
    let others = count() - 1;
    for stack in GUEST_STACKS.iter().take(count()).skip(1) {
        let pages = Frames::take(STACK_PAGES);
        stack.store(pages.address() + (STACK_PAGES * PAGE) as u64, Ordering::Release);
    }
    MAIN.store(main as *mut (), Ordering::Release);
    copy_trampoline();
    apic::send(Message::Init, To::Others);
    apic::send(Message::Startup((TRAMPOLINE >> 12) as u8), To::Others);
    let came = wait(are_all_here, START_MS);
    assert!(came, "{} of {others} further processors have come", ARRIVED.load(Ordering::Acquire));
}

fn are_all_here() -> bool {
    ARRIVED.load(Ordering::Acquire) as usize == count() - 1
}

#[cfg(target_os = "none")]
fn copy_trampoline() {
    unsafe extern "C" {
        static guest_ap_start: u8;
        static guest_ap_end: u8;
    }
    let start = core::ptr::addr_of!(guest_ap_start);
    let bytes = core::ptr::addr_of!(guest_ap_end) as usize - start as usize;
    assert!(bytes <= PAGE);
    // SAFETY: the page lies in memory that no program and no loader needs, mapped one to one; the symbols bound the code.
    unsafe { core::ptr::copy_nonoverlapping(start, TRAMPOLINE as usize as *mut u8, bytes) };
}

#[cfg(not(target_os = "none"))]
fn copy_trampoline() {}

/// Waits until `ready`, with interrupts let through meanwhile: spins for a moment, then sleeps between looks. Whether it came to be
/// within `ms`.
pub fn wait(ready: impl Fn() -> bool, ms: u64) -> bool {
    let start = tsc::now();
    let mut patience = None;
    loop {
        interrupts::open();
        let came = (0..SPINS).any(|_| {
            core::hint::spin_loop();
            ready()
        });
        machine::cpu::interrupts::disable();
        if came {
            return true;
        }
        let patience = *patience.get_or_insert_with(|| ms * clock::khz());
        if tsc::now().wrapping_sub(start) > patience {
            return ready();
        }
        interrupts::sleep_unless(NAP_MS, &ready);
    }
}
