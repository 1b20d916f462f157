//! Exceptions, traps and interrupts, as the manuals say (SDM 3A 6, 3B 18; APM2 8, 13): those that hardware raises itself, those
//! that Baton has to raise, and what happens between instructions that leave the guest.
#![expect(unsafe_code, reason = "code that faults, control and debug registers")]

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use bareguest::interrupts::{self, Frame};
use bareguest::memory::Frames;
use bareguest::paging::{KERNEL, USER, Window};
use bareguest::trial::{self, Code, DR6_CLEAR, Registers};
use bareguest::{codes, trials};
use machine::cpu::{control, msr};

use crate::Matrix as Passes;
use crate::checks::Checks;

const EFER: u32 = 0xc000_0080;
/// EFER.NXE.
const NXE: u64 = 1 << 11;
/// Registers of the local APIC: who it is, commands, a vector to itself.
const APIC_ID: u32 = 0x802;
const COMMANDS: u32 = 0x830;
const SELF_IPI: u64 = 0x83f;
/// A command: NMI, asserted.
const SEND_NMI: u64 = 0x4400;
/// The vector of the guest's own interrupts.
const VECTOR: u8 = 0x50;
const RF: u64 = 1 << 16;
const IF: u64 = 1 << 9;
/// DR6: a single step.
const STEP: u64 = 1 << 14;
/// Neither with 48 bits of a linear address nor with 57.
const NOT_CANONICAL: u64 = 1 << 63;
/// Pages of the window.
const MISSING: u64 = 20;
const READ_ONLY: u64 = 21;
const NO_EXECUTE: u64 = 22;
const RESERVED: u64 = 23;
const DEVICE: u64 = 24;
const IOAPIC: u64 = 0xfec0_0000;

// #UD: what nobody has, and what is not announced to a guest. RBX is in memory.
trials! { invalid:
    "ud2", "rsm", "getsec", "vmxoff", "vmlaunch", "vmresume", "vmread rax, rcx", "vmwrite rax, rcx", "invept rax, [rbx]", "invvpid rax, [rbx]", "vmrun", "vmload", "vmsave", "clgi",
    "invlpga", "monitor", "mwait", ".byte 0x0f, 0x01, 0xd4", "lock add eax, ecx", "mov cr1, rax", "xsetbv",
}
// #GP(0): RBX is not canonical, ECX the number of nobody's MSR.
trials! { general:
"mov rax, [rbx]", "mov [rbx], rax", "rdmsr", "wrmsr", "rdpmc", "lidt [rbx]", }
#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".section .text.trials, \"ax\"",
    "code_divide: xor ecx, ecx",
    "xor edx, edx",
    "code_divide_at: div ecx",
    "jmp trial_exit",
    "code_int1: .byte 0xf1",
    "code_int1_next: jmp trial_exit",
    "code_int3: int3",
    "code_int3_next: jmp trial_exit",
    "code_overflow: int 4",
    "code_overflow_next: jmp trial_exit",
    "code_no_fpu: fnop",
    "jmp trial_exit",
    "code_fpu: fninit",
    "fnstcw [rsp - 8]",
    "and word ptr [rsp - 8], 0xfffb",
    "fldcw [rsp - 8]",
    "fld1",
    "fldz",
    "fdivp",
    "code_fpu_at: fwait",
    "jmp trial_exit",
    "code_load_segment: mov ds, eax",
    "jmp trial_exit",
    "code_load_stack: mov ss, eax",
    "jmp trial_exit",
    "code_read: mov eax, [rbx]",
    "jmp trial_exit",
    "code_write: mov [rbx], eax",
    "jmp trial_exit",
    "code_jump: jmp rbx",
    "code_undefined: ud2",
    "code_selector: mov ds, eax",
    "jmp trial_exit",
    "code_unknown_msr: rdmsr",
    "jmp trial_exit",
    // Every kind of exit under TF, each once; the last instruction that traps is the POPF that ends it.
    "code_steps: pushfq",
    "or dword ptr [rsp], 0x100",
    "popfq",
    "code_step_0: nop",
    "code_step_1: cpuid",
    "code_step_2: in al, 0x80",
    "code_step_3: out 0x80, al",
    "code_step_4: mov eax, [rbx]",
    "code_step_5: mov [rbx], eax",
    "code_step_6: mov ecx, 0x1b",
    "code_step_7: rdmsr",
    "code_step_8: wrmsr",
    "code_step_9: mov ecx, 2",
    "code_step_10: rep outsb",
    "code_step_11: rep stosb",
    "code_step_12: mov eax, ss",
    "code_step_13: mov ss, eax",
    "code_step_14: xor eax, eax",
    "code_step_15: cpuid",
    "code_step_16: sti",
    "code_step_17: cli",
    "code_step_18: pushfq",
    "code_step_19: and dword ptr [rsp], 0xfffffeff",
    "code_step_20: popfq",
    "code_step_21: jmp trial_exit",
    // Breakpoints on an instruction that exits and on the one behind it.
    "code_broken: nop",
    "code_broken_at: cpuid",
    "code_broken_next: nop",
    "code_broken_far: jmp trial_exit",
    "code_debug_access: mov rax, dr0",
    "jmp trial_exit",
    // An interrupt that waits comes behind the instruction after STI, whatever that does.
    "code_sti_nop: sti",
    "nop",
    "code_sti_nop_next: nop",
    "jmp trial_exit",
    "code_sti_cpuid: sti",
    "cpuid",
    "code_sti_cpuid_next: nop",
    "jmp trial_exit",
    "code_sti_in: sti",
    "in al, 0x80",
    "code_sti_in_next: nop",
    "jmp trial_exit",
    "code_sti_read: sti",
    "mov eax, [rbx]",
    "code_sti_read_next: nop",
    "jmp trial_exit",
    "code_sti_halt: sti",
    "hlt",
    "code_sti_halt_next: nop",
    "jmp trial_exit",
    "code_open_send: wrmsr",
    "code_open_send_next: nop",
    "jmp trial_exit",
    "code_popf: push 0x202",
    "popfq",
    "code_popf_next: nop",
    "cpuid",
    "jmp trial_exit",
    // An NMI whose handler sends another one.
    "code_nmi: wrmsr",
    "nop",
    "cpuid",
    "nop",
    "jmp trial_exit",
);
codes!(divide, divide_at, int1, int1_next, int3, int3_next, overflow, overflow_next, no_fpu, fpu, fpu_at);
codes!(load_segment, load_stack, read, write, jump, undefined, selector, unknown_msr, steps, broken, broken_at);
codes!(broken_next, debug_access, sti_nop, sti_nop_next, sti_cpuid, sti_cpuid_next, sti_in, sti_in_next, sti_read);
codes!(sti_read_next, sti_halt, sti_halt_next, open_send, open_send_next, popf, popf_next, nmi);
codes!(
    step_1, step_2, step_3, step_4, step_5, step_6, step_7, step_8, step_9, step_10, step_11, step_12, step_13, step_15
);
codes!(step_16, step_17, step_18, step_19, step_20, step_21);

/// Where debug traps came and what DR6 said, interrupts and NMIs.
static SEEN: [[AtomicU64; 2]; 64] = [const { [AtomicU64::new(0), AtomicU64::new(0)] }; 64];
static COUNT: AtomicUsize = AtomicUsize::new(0);
static NESTED: AtomicU64 = AtomicU64::new(0);
static IN_NMI: AtomicU64 = AtomicU64::new(0);
/// Whether #DB is noted, and the code goes on.
static STEPPING: AtomicU64 = AtomicU64::new(0);

fn note(rip: u64, value: u64) {
    let at = COUNT.fetch_add(1, Relaxed);
    if let Some([first, second]) = SEEN.get(at) {
        first.store(rip, Relaxed);
        second.store(value, Relaxed);
    }
}

fn seen() -> alloc::vec::Vec<(u64, u64)> {
    let count = COUNT.swap(0, Relaxed).min(SEEN.len());
    SEEN[..count].iter().map(|[first, second]| (first.load(Relaxed), second.load(Relaxed))).collect()
}

fn hook(frame: &mut Frame) -> bool {
    match frame.vector as u8 {
        1 if STEPPING.load(Relaxed) != 0 => {
            note(frame.rip, debug_status());
            set_debug_status(DR6_CLEAR);
            // A breakpoint on an instruction comes before it, and again without this.
            frame.flags |= RF;
            true
        }
        2 => {
            NESTED.fetch_add(IN_NMI.swap(1, Relaxed), Relaxed);
            let first = COUNT.load(Relaxed) == 0;
            note(frame.rip, 0);
            if first {
                send_nmi();
                // An exit, at which a second one must not get in.
                core::hint::black_box(machine::cpu::ids::raw(0, 0));
            }
            IN_NMI.store(0, Relaxed);
            true
        }
        VECTOR => {
            note(frame.rip, 0);
            true
        }
        _ => false,
    }
}

fn send_nmi() {
    // SAFETY: the NMI is this processor's own, and its handler returns.
    unsafe { msr::write(COMMANDS, msr::read(APIC_ID) << 32 | SEND_NMI) };
}

macro_rules! debug_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[allow(dead_code, reason = "not each is both read and written")]
        fn $read() -> u64 {
            let value: u64;
            // SAFETY: reads a register.
            unsafe { core::arch::asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack)) };
            value
        }
        fn $write(value: u64) {
            // SAFETY: the guest's own breakpoints, which `hook` answers.
            unsafe { core::arch::asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nomem, nostack)) };
        }
    };
}
debug_register!(breakpoint_0, set_breakpoint_0, "dr0");
debug_register!(breakpoint_1, set_breakpoint_1, "dr1");
debug_register!(breakpoint_2, set_breakpoint_2, "dr2");
debug_register!(debug_status, set_debug_status, "dr6");
debug_register!(debug_control, set_debug_control, "dr7");

fn address(code: Code) -> u64 {
    code as usize as u64
}

struct Matrix {
    window: Window,
    page: Frames,
    checks: Checks,
}

/// The matrix.
pub fn new() -> Passes {
    let window = Window::new();
    let page = Frames::take(1);
    // SAFETY: the guest's tables have no bit that NXE gives a meaning, CR0.WP none that writes to what may not be written.
    unsafe {
        msr::write(EFER, msr::read(EFER) | NXE);
        control::set_cr0(control::cr0() | 1 << 16 | 1 << 5);
        // OSFXSR, OSXMMEXCPT.
        control::set_cr4(control::cr4() | 3 << 9);
    }
    interrupts::set_hook(hook);
    let mut matrix = Matrix { window, page, checks: Checks::default() };
    alloc::boxed::Box::new(move || {
        matrix.exceptions();
        matrix.page_faults();
        matrix.double_faults();
        matrix.steps();
        matrix.breakpoints();
        matrix.shadows();
        matrix.nmis();
        alloc::vec![("checks", matrix.checks.end())]
    })
}

impl Matrix {
    /// Runs `code`; the exception has to be `vector` with `error`, raised at `at`.
    fn raises(&mut self, what: &str, code: Code, mut registers: Registers, (vector, error): (u8, u64), at: Code) {
        // SAFETY: the pieces reach the window, the page and the stack of trials.
        let trap = unsafe { trial::run(code, &mut registers) };
        self.checks.same(
            what,
            trap.map(|trap| (trap.vector, trap.error, trap.rip)),
            Some((vector, error, address(at))),
        );
    }

    fn exceptions(&mut self) {
        let mut registers = Registers::new();
        registers.gprs[3] = self.page.address();
        for one in invalid() {
            self.raises(one.text(), one.code(), registers, (6, 0), one.code());
        }
        registers.gprs[3] = NOT_CANONICAL;
        registers.gprs[1] = 0x4000_4242;
        for one in general() {
            let at = one.code();
            self.raises(one.text(), at, registers, (13, 0), at);
        }
        let none = Registers::new();
        self.raises("DIV by 0", divide(), none, (0, 0), divide_at());
        set_debug_status(DR6_CLEAR);
        self.raises("INT1", int1(), none, (1, 0), int1_next());
        self.raises("INT3", int3(), none, (3, 0), int3_next());
        self.raises("INT 4", overflow(), none, (4, 0), overflow_next());
        // SAFETY: TS only has the next x87 instruction fault.
        unsafe { control::set_cr0(control::cr0() | 8) };
        self.raises("FNOP with TS", no_fpu(), none, (7, 0), no_fpu());
        // SAFETY: as it was.
        unsafe { control::set_cr0(control::cr0() & !8) };
        self.raises("x87 division by 0", fpu(), none, (16, 0), fpu_at());
        let with = |value: u64| Registers { gprs: core::array::from_fn(|at| if at == 0 { value } else { 0 }), ..none };
        let missing = u64::from(trial::MISSING_DATA);
        self.raises("DS not present", load_segment(), with(missing), (11, missing), load_segment());
        self.raises("SS not present", load_stack(), with(missing), (12, missing), load_stack());
        self.raises("DS beyond the GDT", load_segment(), with(0xfff8), (13, 0xfff8), load_segment());
    }

    fn page_faults(&mut self) {
        let page = self.page.address();
        self.window.set(MISSING, 0);
        self.window.set(READ_ONLY, page | 1);
        self.window.set(NO_EXECUTE, page | KERNEL | 1 << 63);
        self.window.set(RESERVED, page | KERNEL | 1 << 51);
        self.window.set(DEVICE, IOAPIC | USER | 0x18);
        // SDM 3A 4.7: P, W, U, RSVD, I/D.
        for (what, code, page, error) in [
            ("read of a missing page", read(), MISSING, 0),
            ("write to a missing page", write(), MISSING, 2),
            ("write to a read-only page", write(), READ_ONLY, 3),
            ("a reserved bit", read(), RESERVED, 8),
            ("write with a reserved bit", write(), RESERVED, 0xa),
        ] {
            let mut registers = Registers::new();
            registers.gprs[3] = Window::address(page) + 0x44;
            // SAFETY: as in `raises`.
            let trap = unsafe { trial::run(code, &mut registers) };
            // QEMU leaves P clear where a bit is reserved; the manual sets it.
            let mask = if page == RESERVED { !1 } else { !0 };
            let found = trap.map(|trap| (trap.vector, trap.error & mask, trap.rip, trap.cr2));
            self.checks.same(what, found, Some((14, error, address(code), Window::address(page) + 0x44)));
        }
        for (what, page, error) in
            [("code on a missing page", MISSING, 0x10), ("code that may not be executed", NO_EXECUTE, 0x11)]
        {
            let mut registers = Registers::new();
            registers.gprs[3] = Window::address(page) + 8;
            // SAFETY: nothing is executed there.
            let trap = unsafe { trial::run(jump(), &mut registers) };
            let found = trap.map(|trap| (trap.vector, trap.error, trap.rip, trap.cr2));
            let target = registers.gprs[3];
            self.checks.same(what, found, Some((14, error, target, target)));
        }
    }

    /// A stack that can't be pushed to (SDM 3A table 6-5): two contributory exceptions, or two page faults, are #DF; #UD is no such.
    fn double_faults(&mut self) {
        let mut registers = Registers::new();
        registers.gprs[1] = 0x4000_4242;
        registers.gprs[0] = 0xfff8;
        registers.gprs[4] = NOT_CANONICAL | 0x1000;
        for vector in [6, 13, 14] {
            trial::set_stack(vector, 0);
        }
        self.raises("#GP without a stack", selector(), registers, (8, 0), selector());
        self.raises("#GP for an unknown MSR without a stack", unknown_msr(), registers, (8, 0), unknown_msr());
        registers.gprs[3] = Window::address(MISSING);
        registers.gprs[4] = Window::address(MISSING) + 0x800;
        self.raises("#PF without a stack", read(), registers, (8, 0), read());
        trial::set_stack(14, 1);
        self.raises("#GP, then #PF", selector(), registers, (14, 2), selector());
        self.raises("#UD, then #PF", undefined(), registers, (14, 2), undefined());
        for vector in [6, 13, 14] {
            trial::set_stack(vector, 1);
        }
    }

    /// Code under TF traps behind each instruction, behind each element of a repeated one, and not between MOV SS and what follows.
    fn steps(&mut self) {
        let mut registers = Registers::new();
        registers.gprs[2] = 0x80;
        registers.gprs[3] = Window::address(DEVICE);
        registers.gprs[6] = self.page.address();
        registers.gprs[7] = Window::address(DEVICE) + 0x800;
        registers.gprs[0] = 0;
        STEPPING.store(1, Relaxed);
        set_debug_status(DR6_CLEAR);
        // SAFETY: as in `raises`.
        let trap = unsafe { trial::run(steps(), &mut registers) };
        STEPPING.store(0, Relaxed);
        self.checks.same("steps", trap, None);
        let expected = [
            step_1(),
            step_2(),
            step_3(),
            step_4(),
            step_5(),
            step_6(),
            step_7(),
            step_8(),
            step_9(),
            step_10(),
            step_10(),
            step_11(),
            step_12(),
            step_13(),
            step_15(),
            step_16(),
            step_17(),
            step_18(),
            step_19(),
            step_20(),
            step_21(),
        ];
        let expected: alloc::vec::Vec<_> = expected.into_iter().map(|code| (address(code), DR6_CLEAR | STEP)).collect();
        self.checks.same("what TF traps behind", seen(), expected);
    }

    fn breakpoints(&mut self) {
        let none = Registers::new();
        set_breakpoint_0(address(broken_at()));
        set_breakpoint_1(address(broken_next()));
        set_debug_status(DR6_CLEAR);
        // L0 and L1, execution (SDM 3B 18.2.4).
        set_debug_control(0x405);
        STEPPING.store(1, Relaxed);
        let mut registers = none;
        // SAFETY: as in `raises`.
        let trap = unsafe { trial::run(broken(), &mut registers) };
        STEPPING.store(0, Relaxed);
        set_debug_control(0x400);
        self.checks.same("breakpoints", trap, None);
        let expected = alloc::vec![(address(broken_at()), DR6_CLEAR | 1), (address(broken_next()), DR6_CLEAR | 2)];
        self.checks.same("breakpoints on an exit and behind it", seen(), expected);
        // Four bytes of data that are written (SDM 3B 18.2.4: LEN 11b, RW 01b of breakpoint 2).
        set_breakpoint_2(self.page.address() + 0x40);
        set_debug_control(0x400 | 1 << 4 | 0xd << 24);
        let mut registers = none;
        registers.gprs[3] = self.page.address() + 0x40;
        // SAFETY: as in `raises`.
        let trap = unsafe { trial::run(write(), &mut registers) };
        set_debug_control(0x400);
        self.checks.same("a data breakpoint", (trap.map(|trap| trap.vector), debug_status()), (Some(1), DR6_CLEAR | 4));
        set_debug_status(DR6_CLEAR);
        // DR7.GD: the access itself, before it.
        set_debug_control(0x400 | 1 << 13);
        self.raises("debug registers that are guarded", debug_access(), none, (1, 0), debug_access());
        self.checks.same("DR7.GD after #DB", debug_control() & 1 << 13, 0);
        self.checks.same("DR6.BD", debug_status() & 1 << 13, 1 << 13);
        set_debug_status(DR6_CLEAR);
    }

    fn shadows(&mut self) {
        for (what, code, next) in [
            ("STI, NOP", sti_nop(), sti_nop_next()),
            ("STI, CPUID", sti_cpuid(), sti_cpuid_next()),
            ("STI, IN", sti_in(), sti_in_next()),
            ("STI, MOV from a device", sti_read(), sti_read_next()),
            ("STI, HLT", sti_halt(), sti_halt_next()),
            ("POPF", popf(), popf_next()),
        ] {
            let mut registers = Registers::new();
            registers.gprs[3] = Window::address(DEVICE);
            // SAFETY: an interrupt of the guest's own, which waits for the code to allow it.
            unsafe { msr::write(SELF_IPI as u32, VECTOR.into()) };
            // SAFETY: as in `raises`.
            let trap = unsafe { trial::run(code, &mut registers) };
            self.checks.same(what, (trap, seen()), (None, alloc::vec![(address(next), 0)]));
        }
        let mut registers = Registers::new();
        (registers.gprs[1], registers.gprs[0]) = (SELF_IPI, VECTOR.into());
        registers.flags |= IF;
        // SAFETY: as in `raises`.
        let trap = unsafe { trial::run(open_send(), &mut registers) };
        self.checks.same("an interrupt to itself", (trap, seen()), (None, alloc::vec![(address(open_send_next()), 0)]));
    }

    /// An NMI comes at once; another one that is sent in its handler when that has returned, at the latest with the next exit: SVM without
    /// virtual NMIs tells of the IRET, not of its end.
    fn nmis(&mut self) {
        let mut registers = Registers::new();
        // SAFETY: reads who this is.
        let id = unsafe { msr::read(APIC_ID) };
        (registers.gprs[0], registers.gprs[1], registers.gprs[2]) = (SEND_NMI, COMMANDS.into(), id);
        // SAFETY: as in `raises`.
        let trap = unsafe { trial::run(nmi(), &mut registers) };
        self.checks.same("NMIs", (trap, seen().len(), NESTED.load(Relaxed)), (None, 2, 0));
    }
}
