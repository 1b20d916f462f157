//! A piece of code is run with registers of one's choice, and what comes of it is kept: all registers, the flags, or the exception it
//! raised. For the matrices, whose expectations are the manuals'.
//!
//! A table of trials is one instruction a line in the assembler's words ([`trials!`](crate::trials)); a longer piece is a label of
//! `global_asm!` that ends with a jump to `trial_exit`.
#![expect(unsafe_code, reason = "code with registers of its own, descriptor tables")]

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use machine::cpu::tables::{Gate, Segment, TablePointer, Tss, load_gdt, load_task};

use crate::interrupts::{self, Frame};

/// Bytes of a stack of the TSS.
const STACK_BYTES: usize = 8 << 10;
/// The stack that trials begin with: its top.
const TRIAL_STACK_BYTES: usize = 4 << 10;
/// 64-bit code, ring 0.
pub const CODE: u16 = 0x08;
/// Data, ring 0.
pub const DATA: u16 = 0x10;
/// 32-bit code, ring 0.
pub const CODE32: u16 = 0x18;
/// 64-bit code, ring 3.
pub const USER_CODE: u16 = 0x23;
/// Data, ring 3.
pub const USER_DATA: u16 = 0x2b;
/// A data segment that is not present.
pub const MISSING_DATA: u16 = 0x30;
/// 16-bit code, ring 0.
pub const CODE16: u16 = 0x38;
/// The task.
const TASK: u16 = 0x40;
/// An available TSS of 32 bits, for switches that long mode has none of.
pub const OTHER_TASK: u16 = 0x50;

/// RFLAGS as a trial begins with it: nothing set but the bit that always is.
pub const FLAGS: u64 = 2;
/// CF, PF, AF, ZF, SF, OF.
pub const STATUS_FLAGS: u64 = 0x8d5;
/// DR6 with nothing to tell.
pub const DR6_CLEAR: u64 = 0xffff_0ff0;

/// The general registers in the order of instruction encodings, and RFLAGS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15. RSP 0 stands for a stack of the kit's.
    pub gprs: [u64; 16],
    /// RFLAGS.
    pub flags: u64,
}

impl Registers {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self { gprs: [0; 16], flags: FLAGS }
    }

    /// Every register another pattern; RSP is the kit's.
    #[must_use]
    pub fn patterns(seed: u64) -> Self {
        let mut registers = Self::new();
        for (index, gpr) in (1u64..).zip(&mut registers.gprs) {
            *gpr = (seed ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index << 56;
        }
        registers.gprs[4] = 0;
        registers
    }
}

impl Default for Registers {
    fn default() -> Self {
        Self::new()
    }
}

/// An exception that ended a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Its vector.
    pub vector: u8,
    /// Its error code, 0 where it has none.
    pub error: u64,
    /// What it was raised at: RIP in the frame.
    pub rip: u64,
    /// RFLAGS in the frame.
    pub flags: u64,
    /// CR2 at that time.
    pub cr2: u64,
}

/// A piece of code.
pub type Code = unsafe extern "C" fn();

static ARMED: AtomicBool = AtomicBool::new(false);
static TRAP: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];

/// One instruction of a table.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Trial {
    code: Code,
    text: *const core::ffi::c_char,
}

// SAFETY: both point to what the linker has put there for good.
unsafe impl Sync for Trial {}

impl Trial {
    /// The code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The instruction, in the assembler's words.
    #[must_use]
    pub fn text(&self) -> &'static str {
        // SAFETY: the macro has written a text that ends with a zero.
        unsafe { core::ffi::CStr::from_ptr(self.text) }.to_str().unwrap_or("?")
    }
}

/// A table of trials, an instruction each: `trials!(TABLE: "mov [rbx], al", ...)` makes a function `TABLE() -> &'static [Trial]`.
#[macro_export]
macro_rules! trials {
    ($name:ident: $($line:literal),+ $(,)?) => {
        #[cfg(target_os = "none")]
        core::arch::global_asm!(
            concat!(".pushsection .rodata.", stringify!($name), ", \"a\""),
            ".balign 8",
            concat!(".global ", stringify!($name), "_table"),
            concat!(stringify!($name), "_table:"),
            ".popsection",
            $(
                ".pushsection .text.trials, \"ax\"",
                "771:",
                $line,
                "jmp trial_exit",
                ".popsection",
                ".pushsection .rodata.trial_names, \"a\"",
                concat!("772: .asciz \"", $line, "\""),
                ".popsection",
                concat!(".pushsection .rodata.", stringify!($name), ", \"a\""),
                ".quad 771b, 772b",
                ".popsection",
            )+
        );

        fn $name() -> &'static [$crate::trial::Trial] {
            #[cfg(target_os = "none")]
            {
                unsafe extern "C" {
                    #[link_name = concat!(stringify!($name), "_table")]
                    static TABLE: [$crate::trial::Trial; [$($line),+].len()];
                }
                // SAFETY: the assembler has put the table there.
                unsafe { &TABLE }
            }
            #[cfg(not(target_os = "none"))]
            {
                let _ = [$($line),+];
                &[]
            }
        }
    };
}

/// Pieces of code that the assembler has: `codes!(first, second)` makes functions of these names that give them.
#[macro_export]
macro_rules! codes {
    ($($name:ident),+ $(,)?) => {
        $(
            fn $name() -> $crate::trial::Code {
                #[cfg(target_os = "none")]
                {
                    unsafe extern "C" {
                        #[link_name = concat!("code_", stringify!($name))]
                        fn code();
                    }
                    code
                }
                #[cfg(not(target_os = "none"))]
                {
                    $crate::trial::nothing
                }
            }
        )+
    };
}

/// No code: what a host has instead.
///
/// # Safety
/// None.
pub unsafe extern "C" fn nothing() {}

fn stack() -> u64 {
    Box::leak(Box::new([0u128; STACK_BYTES / 16])).as_ptr() as u64 + STACK_BYTES as u64
}

/// Tables with rings 0 and 3, segments of 64, 32 and 16 bits, and stacks of their own for exceptions, so that trials may ruin theirs.
/// To be called once, before [`run`].
pub fn init() {
    let tss = Box::leak(Box::new(Tss::new()));
    tss.rsp[0] = stack();
    tss.ist[0] = stack();
    tss.ist[1] = stack();
    tss.ist[2] = stack();
    let other = Box::leak(Box::new([0u8; 104]));
    let [low, high] = Segment::tss(core::ptr::from_ref(tss) as u64, 104);
    let [other, _] = Segment::tss(core::ptr::from_ref(other) as u64, 104);
    let gdt = Box::leak(Box::new([
        Segment::NULL,
        Segment::CODE,
        Segment::DATA,
        Segment(0x00cf_9b00_0000_ffff),
        Segment(0x00af_fb00_0000_ffff),
        Segment(0x00cf_f300_0000_ffff),
        Segment(0x00cf_1300_0000_ffff),
        Segment(0x008f_9b00_0000_ffff),
        low,
        high,
        other,
        Segment::NULL,
    ]));
    // SAFETY: the tables are leaked; code and data segments are as before.
    unsafe {
        load_gdt(&TablePointer::new(gdt.as_ptr() as u64, size_of_val(gdt) as u16));
        load_task(TASK);
    }
    for vector in 0..32 {
        set_stack(
            vector,
            if vector == 8 {
                2
            } else if vector == 2 {
                3
            } else {
                1
            },
        );
    }
}

/// Has the exception `vector` come on stack `ist` of the TSS, or on the one in use with 0.
pub fn set_stack(vector: u8, ist: u8) {
    // SAFETY: the handler is the one for this vector; the stacks exist.
    unsafe { interrupts::set_gate(vector, Gate::interrupt(interrupts::entry_point(vector), CODE, ist)) };
}

/// What an exception does to a trial; `false` if there is none.
pub(crate) fn caught(frame: &mut Frame) -> bool {
    if !ARMED.load(Ordering::Relaxed) {
        return false;
    }
    let values =
        [frame.vector | 1 << 32, frame.error, frame.rip, frame.flags, machine::cpu::control::cr2(), frame.stack];
    for (place, value) in TRAP.iter().zip(values) {
        place.store(value, Ordering::Relaxed);
    }
    frame.rip = exit_address();
    frame.code = CODE.into();
    frame.data = DATA.into();
    // Neither TF nor AC, IF or DF; the status flags tell what was computed before.
    frame.flags = frame.flags & STATUS_FLAGS | FLAGS;
    true
}

/// Runs `code` with `registers`, which are afterwards as the code has left them. Interrupts stay off unless the code allows them.
///
/// # Safety
/// The code touches nothing that anybody relies on, and ends with a jump to `trial_exit` or by an exception.
pub unsafe fn run(code: Code, registers: &mut Registers) -> Option<Trap> {
    if registers.gprs[4] == 0 {
        registers.gprs[4] = trial_stack();
    }
    TRAP[0].store(0, Ordering::Relaxed);
    ARMED.store(true, Ordering::SeqCst);
    // SAFETY: by contract; the assembly keeps what the System V ABI wants kept.
    unsafe { enter(registers, code) };
    ARMED.store(false, Ordering::SeqCst);
    let [vector, error, rip, flags, cr2, _] = [0, 1, 2, 3, 4, 5].map(|at: usize| TRAP[at].load(Ordering::Relaxed));
    (vector != 0).then_some(Trap { vector: vector as u8, error, rip, flags, cr2 })
}

/// The top of the stack that trials begin with.
#[must_use]
pub fn trial_stack() -> u64 {
    #[repr(C, align(16))]
    struct Stack(core::cell::UnsafeCell<[u8; TRIAL_STACK_BYTES]>);
    // SAFETY: only trials use it, one at a time.
    unsafe impl Sync for Stack {}
    static STACK: Stack = Stack(core::cell::UnsafeCell::new([0; TRIAL_STACK_BYTES]));
    STACK.0.get() as u64 + TRIAL_STACK_BYTES as u64 - 64
}

#[cfg(target_os = "none")]
unsafe fn enter(registers: &mut Registers, code: Code) {
    unsafe extern "C" {
        fn trial_enter(registers: &mut Registers, code: Code);
    }
    // SAFETY: by the caller's contract.
    unsafe { trial_enter(registers, code) };
}

#[cfg(not(target_os = "none"))]
unsafe fn enter(_: &mut Registers, _: Code) {}

fn exit_address() -> u64 {
    #[cfg(target_os = "none")]
    {
        unsafe extern "C" {
            fn trial_exit();
        }
        trial_exit as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".section .bss.trial, \"aw\", @nobits",
    ".balign 8",
    "trial_stack: .skip 8",
    "trial_registers: .skip 8",
    "trial_code: .skip 8",
    "trial_rax: .skip 8",
    "",
    ".section .text.trial, \"ax\"",
    "trial_enter:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rip + trial_stack], rsp",
    "mov [rip + trial_registers], rdi",
    "mov [rip + trial_code], rsi",
    "push [rdi + 16*8]",
    "popfq",
    "mov rax, [rdi]",
    "mov rcx, [rdi + 1*8]",
    "mov rdx, [rdi + 2*8]",
    "mov rbx, [rdi + 3*8]",
    "mov rsp, [rdi + 4*8]",
    "mov rbp, [rdi + 5*8]",
    "mov rsi, [rdi + 6*8]",
    "mov r8,  [rdi + 8*8]",
    "mov r9,  [rdi + 9*8]",
    "mov r10, [rdi + 10*8]",
    "mov r11, [rdi + 11*8]",
    "mov r12, [rdi + 12*8]",
    "mov r13, [rdi + 13*8]",
    "mov r14, [rdi + 14*8]",
    "mov r15, [rdi + 15*8]",
    "mov rdi, [rdi + 7*8]",
    "jmp [rip + trial_code]",
    "",
    ".global trial_exit",
    "trial_exit:",
    "mov [rip + trial_rax], rax",
    "mov rax, [rip + trial_registers]",
    "mov [rax + 1*8], rcx",
    "mov [rax + 2*8], rdx",
    "mov [rax + 3*8], rbx",
    "mov [rax + 4*8], rsp",
    "mov [rax + 5*8], rbp",
    "mov [rax + 6*8], rsi",
    "mov [rax + 7*8], rdi",
    "mov [rax + 8*8], r8",
    "mov [rax + 9*8], r9",
    "mov [rax + 10*8], r10",
    "mov [rax + 11*8], r11",
    "mov [rax + 12*8], r12",
    "mov [rax + 13*8], r13",
    "mov [rax + 14*8], r14",
    "mov [rax + 15*8], r15",
    "mov rcx, [rip + trial_rax]",
    "mov [rax], rcx",
    "mov rsp, [rip + trial_stack]",
    "pushfq",
    "pop [rax + 16*8]",
    "push 2",
    "popfq",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
);
