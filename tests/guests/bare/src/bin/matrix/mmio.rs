//! Device memory, reached by every instruction that Baton decodes. Each is executed twice, on the guest's memory and on a device that
//! holds the same: registers, flags and what is left in memory must be the same. What is not decoded raises #UD and changes nothing.
#![expect(unsafe_code, reason = "instructions on device memory")]

use bareguest::memory::Frames;
use bareguest::paging::{KERNEL, Window};
use bareguest::trial::{Registers, STATUS_FLAGS, Trial, run as trial};
use bareguest::{codes, trials};
use machine::cpu::msr;

use crate::Matrix as Passes;

/// The two pages that trials reach.
const FIRST: u64 = 8;
const SECOND: u64 = 9;
/// Uncached.
const DEVICE: u64 = KERNEL | 0x18;
/// The IOAPIC (82093AA): IOREGSEL at 0 with bits 7:0, IOWIN at 10h, 32 bits each.
const IOAPIC: u64 = 0xfec0_0000;
/// Registers of the local APIC, which are not here in x2APIC mode (SDM 3A 11.12.1).
const LAPIC: u64 = 0xfee0_0000;
/// Between the memory of a small guest and its devices: nobody.
const NOBODY: u64 = 0x9000_0000;
/// The high half of an entry of the redirection table: bits 31:24 are the destination, the others are reserved.
const ENTRY_HIGH: u64 = 0x11;
const DESTINATION: u64 = 0xff00_0000;
/// FS_BASE, and the distance that it adds.
const FS_BASE: u32 = 0xc000_0100;
const DISTANCE: u64 = 0x1_2345;
/// AF, which AND, OR, XOR and TEST leave undefined; and what BT and its kin do: PF, AF, SF, OF.
const AFTER_LOGIC: u64 = STATUS_FLAGS & !0x10;
const AFTER_BITS: u64 = 0x41;

// What reaches memory at RBX, at R12 + R13 * 8 + 100h, at R14 - 80h, at FS + R15; EBX where the address has 32 bits.
trials! { bytes:
    "mov [rbx], al", "mov [rbx], ah", "mov [rbx], dil", "mov [r12 + r13 * 8 + 0x100], r8b", "mov byte ptr [rbx], 0x5a",
    "mov al, [rbx]", "mov dh, [rbx]", "mov sil, [r14 - 0x80]", "mov r9b, [ebx]", "mov cl, fs:[r15]",
    "movzx ax, byte ptr [rbx]", "movzx eax, byte ptr [rbx]", "movzx r10, byte ptr [r12 + r13 * 8 + 0x100]",
    "movsx ax, byte ptr [rbx]", "movsx edx, byte ptr [rbx]", "movsx r10, byte ptr [rbx]",
    "xchg [rbx], al", "xchg [rbx], ch", "lock xchg [r14 - 0x80], r11b",
    "add [rbx], al", "add al, [rbx]", "add byte ptr [rbx], 0x81", "lock add [rbx], dl",
    "sub [rbx], al", "sub ah, [rbx]", "sub byte ptr [rbx], 0x81",
    "and [rbx], al", "and al, [rbx]", "and byte ptr [rbx], 0x0f", "or [rbx], al", "or al, [rbx]", "or byte ptr [rbx], 0x55",
    "xor [rbx], al", "xor al, [rbx]", "xor byte ptr [rbx], 0xff", "lock or byte ptr [rbx], 1",
    "cmp [rbx], al", "cmp al, [rbx]", "cmp byte ptr [rbx], 0x7f", "test [rbx], al", "test byte ptr [rbx], 0x80",
}
trials! { words:
    "mov [rbx], ax", "mov [r12 + r13 * 8 + 0x100], r8w", "mov word ptr [rbx], 0xa55a", "mov ax, [rbx]", "mov r9w, [ebx]",
    "mov cx, fs:[r15]", "movzx eax, word ptr [rbx]", "movzx r10, word ptr [rbx]", "movsx eax, word ptr [rbx]",
    "movsx r10, word ptr [r14 - 0x80]", "xchg [rbx], ax",
    "add [rbx], ax", "add ax, [rbx]", "add word ptr [rbx], 0x8001", "add word ptr [rbx], -1", "sub [rbx], ax", "sub ax, [rbx]",
    "sub word ptr [rbx], 3", "and [rbx], ax", "and ax, [rbx]", "and word ptr [rbx], 0xf0", "or [rbx], ax", "or ax, [rbx]",
    "or word ptr [rbx], 0x55", "xor [rbx], ax", "xor ax, [rbx]", "xor word ptr [rbx], -1", "cmp [rbx], ax", "cmp ax, [rbx]",
    "cmp word ptr [rbx], 0x100", "cmp word ptr [rbx], 5", "test [rbx], ax", "test word ptr [rbx], 0x80",
    "bt word ptr [rbx], 7", "bts word ptr [rbx], 2", "btr word ptr [rbx], 7", "btc word ptr [rbx], 18",
}
trials! { dwords:
    "mov [rbx], eax", "mov [r12 + r13 * 8 + 0x100], r8d", "mov dword ptr [rbx], 0xdeadbe5a", "mov eax, [rbx]", "mov r9d, [ebx]",
    "mov ecx, fs:[r15]", "mov r10d, [r14 - 0x80]", "movsxd r10, dword ptr [rbx]", "xchg [rbx], eax", "xchg r8d, [r14 - 0x80]",
    "add [rbx], eax", "add eax, [rbx]", "add dword ptr [rbx], 0x80000001", "add dword ptr [rbx], -1", "sub [rbx], eax",
    "sub eax, [rbx]", "sub dword ptr [rbx], 3", "and [rbx], eax", "and eax, [rbx]", "and dword ptr [rbx], 0xf0f0f0f0",
    "or [rbx], eax", "or eax, [rbx]", "or dword ptr [rbx], 0x55", "lock or dword ptr [rbx], 0x200", "xor [rbx], eax",
    "xor eax, [rbx]", "xor dword ptr [rbx], -1", "cmp [rbx], eax", "cmp eax, [rbx]", "cmp dword ptr [rbx], 0x12345678",
    "cmp dword ptr [rbx], 5", "test [rbx], eax", "test dword ptr [rbx], 0x80000080",
    "bt dword ptr [rbx], 31", "bts dword ptr [rbx], 26", "btr dword ptr [rbx], 7", "btc dword ptr [rbx], 33", "lock bts dword ptr [rbx], 1",
}
trials! { qwords:
    "mov [rbx], rax", "mov [r12 + r13 * 8 + 0x100], r8", "mov qword ptr [rbx], -3", "mov rax, [rbx]", "mov r9, [ebx]",
    "mov rcx, fs:[r15]", "xchg [rbx], rax",
    "add [rbx], rax", "add rax, [rbx]", "add qword ptr [rbx], -1", "add qword ptr [rbx], 0x12345678", "sub [rbx], rax", "sub rax, [rbx]",
    "and [rbx], rax", "and rax, [rbx]", "and qword ptr [rbx], 0xf0", "or [rbx], rax", "or rax, [rbx]", "xor [rbx], rax",
    "xor rax, [rbx]", "xor qword ptr [rbx], -1", "cmp [rbx], rax", "cmp rax, [rbx]", "cmp qword ptr [rbx], 5", "test [rbx], rax",
    "test qword ptr [rbx], 0x80", "bt qword ptr [rbx], 63", "bts qword ptr [rbx], 2", "btr qword ptr [rbx], 7", "btc qword ptr [rbx], 65",
}
// At the first page's first byte, whatever the registers are: offsets of 64 bits, 32 bits, and from RIP.
trials! { absolute:
    "movabs al, [0x40008000]", "movabs ax, [0x40008000]", "movabs eax, [0x40008000]", "movabs rax, [0x40008000]",
    "movabs [0x40008000], al", "movabs [0x40008000], ax", "movabs [0x40008000], eax", "movabs [0x40008000], rax",
    "mov ecx, dword ptr [0x40008000]", "mov dword ptr [0x40008000], ecx", "mov ecx, dword ptr [rip + mmio_page]",
    "mov dword ptr [rip + mmio_page], 0x77", "cmp byte ptr [rip + mmio_page], 0x77", "or byte ptr [rip + mmio_page], dl",
}
// A bit's number in a register reaches beyond the operand (APM3, BT): RBX + 8000h, bit RDX - 40000h.
trials! { bit_strings:
    "bt [rbx + 0x8000], edx", "bts [rbx + 0x8000], edx", "btr [rbx + 0x8000], edx", "btc [rbx + 0x8000], edx",
    "bt [rbx + 0x8000], rdx", "bts [rbx + 0x8000], rdx",
}
// Both ways, RCX elements.
trials! { strings_from:
    "movsb", "movsw", "movsd", "movsq", "rep movsb", "rep movsw", "rep movsd", "rep movsq", "rep movs byte ptr [edi], byte ptr [esi]",
    "rep movs dword ptr [edi], dword ptr [esi]", "lodsb", "lodsw", "lodsd", "lodsq", "rep lodsb", "rep lodsd",
}
trials! { strings_to:
    "movsb", "movsw", "movsd", "movsq", "rep movsb", "rep movsw", "rep movsd", "rep movsq", "stosb", "stosw", "stosd", "stosq",
    "rep stosb", "rep stosw", "rep stosd", "rep stosq", "rep stos byte ptr [edi], al", "rep stos dword ptr [edi], eax",
}
trials! { refused:
    "push [rbx]", "pop [rbx]", "call [rbx]", "jmp [rbx]", "inc dword ptr [rbx]", "neg dword ptr [rbx]", "not dword ptr [rbx]",
    "adc [rbx], eax", "sbb eax, [rbx]", "cmpxchg [rbx], ecx", "xadd [rbx], ecx", "cmpxchg8b [rbx]", "mul dword ptr [rbx]",
    "div dword ptr [rbx]", "imul ecx, [rbx], 3", "shl dword ptr [rbx], 1", "rol byte ptr [rbx], cl", "shld [rbx], eax, 3",
    "cmovz eax, [rbx]", "setc [rbx]", "bsf eax, [rbx]", "popcnt eax, [rbx]", "movnti [rbx], eax",
    "movups xmm0, [rbx]", "movdqu [rbx], xmm0", "fld dword ptr [rbx]", "fnstcw [rbx]", "fxsave [rbx]", "lgdt [rbx]", "sidt [rbx]",
    "lmsw [rbx]", "ltr [rbx]", "mov ds, [rbx]", "scasb", "cmpsb", "lock cmpxchg [rbx], rcx", "enter 16, 0",
}

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".set mmio_page, 0x40008000",
    // 32-bit code: a far jump there and back.
    ".section .text.trials, \"ax\"",
    "code_narrow:",
    "push {code32}",
    "lea rax, [rip + 2f]",
    "push rax",
    "mov eax, 0x12345678",
    "retfq",
    ".code32",
    "2:",
    "mov dword ptr [ebx], 0xa5",
    "mov ecx, dword ptr [0x40008000]",
    "or byte ptr [ebx], 0x42",
    "movzx edx, word ptr [ebx + esi * 2]",
    "xchg [ebx], eax",
    "push 0x08",
    "mov edi, offset trial_exit",
    "push edi",
    "retf",
    ".code64",
    code32 = const bareguest::trial::CODE32,
);
codes!(narrow);

/// What the first trials find in a device and in memory.
const VALUES: [u64; 5] = [0, 0x7f, 0x80, 0xff, 0xa5];

struct Matrix {
    window: Window,
    /// The memory that stands for a device: two pages.
    like: [Frames; 2],
    /// Where strings come from and go to.
    buffer: Frames,
    trials: u64,
}

/// The matrix. What is refused is tried once: each is a line in Baton's log.
pub fn new() -> Passes {
    // SSE, so that an access by it is one to memory (SDM 3A 10.1): CR4.OSFXSR.
    // SAFETY: the CPU has SSE, as all of 64 bits.
    unsafe { machine::cpu::control::set_cr4(machine::cpu::control::cr4() | 1 << 9) };
    // SAFETY: the guest has no other use for FS.
    unsafe { msr::write(FS_BASE, DISTANCE) };
    let mut matrix =
        Matrix { window: Window::new(), like: [Frames::take(1), Frames::take(1)], buffer: Frames::take(16), trials: 0 };
    let refused = matrix.refuse();
    alloc::boxed::Box::new(move || {
        matrix.trials = 0;
        matrix.select();
        matrix.window_register();
        matrix.empty();
        matrix.crossing();
        matrix.strings();
        matrix.order();
        matrix.modes();
        alloc::vec![("trials", matrix.trials), ("refused", refused)]
    })
}

/// Registers by which every trial of a table reaches `address`.
fn registers(seed: u64, address: u64) -> Registers {
    let mut registers = Registers::patterns(seed);
    registers.gprs[3] = address;
    registers.gprs[13] = 0x21;
    registers.gprs[12] = address - 0x21 * 8 - 0x100;
    registers.gprs[14] = address + 0x80;
    registers.gprs[15] = address - DISTANCE;
    registers
}

/// The flags that an instruction defines.
fn defined(text: &str) -> u64 {
    let name = text.strip_prefix("lock ").unwrap_or(text);
    if name.starts_with("bt") {
        AFTER_BITS
    } else if ["and", "or ", "xor", "test"].iter().any(|logic| name.starts_with(logic)) {
        AFTER_LOGIC
    } else {
        STATUS_FLAGS
    }
}

/// Runs `one` with `registers`, which must not fault.
fn execute(one: &Trial, mut registers: Registers, on: &str) -> Registers {
    // SAFETY: the table's instructions reach the window and the buffer only.
    let trap = unsafe { trial(one.code(), &mut registers) };
    assert!(trap.is_none(), "{} on {on}: {trap:x?}", one.text());
    registers
}

fn same(one: &Trial, device: &Registers, memory: &Registers, on: &str) {
    let flags = defined(one.text());
    assert!(
        device.gprs == memory.gprs && device.flags & flags == memory.flags & flags,
        "{} on {on}: {device:x?}, on memory {memory:x?}",
        one.text()
    );
}

impl Matrix {
    fn map(&self, first: u64, second: u64) {
        self.window.set(FIRST, first);
        self.window.set(SECOND, second);
    }

    /// The two pages of memory that stand for a device, all bytes `fill`.
    fn map_like(&self, fill: u8) {
        for page in &self.like {
            (0..page.words()).for_each(|word| page.write(word, u64::from_le_bytes([fill; 8])));
        }
        self.map(self.like[0].address() | KERNEL, self.like[1].address() | KERNEL);
    }

    fn ioapic(&self, register: u64) {
        self.window.set(FIRST, IOAPIC | DEVICE);
        write32(Window::address(FIRST), register);
    }

    /// On IOREGSEL, whose bits 7:0 hold what is written.
    fn select(&mut self) {
        let address = Window::address(FIRST);
        for (table, bits) in [
            (bytes(), false),
            (words(), false),
            (dwords(), false),
            (qwords(), false),
            (absolute(), false),
            (bit_strings(), true),
        ] {
            for one in table {
                for (seed, value) in (1..).zip(VALUES) {
                    let mut registers = registers(seed, address);
                    if bits {
                        registers.gprs[3] = address - 0x8000;
                        // A number of 32 bits, and its sign: bit 5 of the byte at the address.
                        registers.gprs[2] = 5;
                        registers.gprs[3] = address - 0x8000 + 0x40;
                        registers.gprs[2] = 5u64.wrapping_sub(0x40 * 8);
                    }
                    self.map_like(0);
                    write32(address, value);
                    let memory = execute(one, registers, "memory");
                    let expected = read32(address) & 0xff;
                    self.ioapic(value);
                    let device = execute(one, registers, "IOREGSEL");
                    same(one, &device, &memory, "IOREGSEL");
                    let left = read32(address);
                    assert!(left == expected, "{} leaves {left:#x} in IOREGSEL, not {expected:#x}", one.text());
                    self.trials += 1;
                }
            }
        }
    }

    /// On IOWIN, with an entry's destination behind it: the sign of 32 bits.
    fn window_register(&mut self) {
        let address = Window::address(FIRST) + 0x10;
        for one in dwords() {
            for (seed, value) in (11..).zip([0x5a00_0000, 0xff00_0000, 0]) {
                let registers = registers(seed, address);
                self.map_like(0);
                write32(address, value);
                let memory = execute(one, registers, "memory");
                let expected = read32(address) & DESTINATION;
                self.ioapic(ENTRY_HIGH);
                write32(address, value);
                let device = execute(one, registers, "IOWIN");
                same(one, &device, &memory, "IOWIN");
                let left = read32(address);
                assert!(left == expected, "{} leaves {left:#x} in IOWIN, not {expected:#x}", one.text());
                self.trials += 1;
            }
        }
    }

    /// Where nobody is: all ones, whatever is written.
    fn empty(&mut self) {
        for (page, name) in [(NOBODY, "nothing"), (LAPIC, "the local APIC's page")] {
            let address = Window::address(FIRST) + 0x123;
            for one in [bytes(), words(), dwords(), qwords()].into_iter().flatten() {
                let registers = registers(21, address);
                self.map_like(0xff);
                let memory = execute(one, registers, "memory");
                self.map(page | DEVICE, page | DEVICE);
                same(one, &execute(one, registers, name), &memory, name);
                assert!(read32(address) == 0xffff_ffff, "{} has changed {name}", one.text());
                self.trials += 1;
            }
        }
    }

    /// Accesses that begin on one page and end on another: memory before a device, nothing before memory.
    fn crossing(&mut self) {
        for (table, width) in [(words(), 2), (dwords(), 4), (qwords(), 8)] {
            for one in table {
                // The number of its bit may reach past the operand's page.
                for before in 1..width {
                    let address = Window::address(SECOND) - before;
                    let registers = registers(31 + before, address);
                    self.map_like(0);
                    write64(address & !7, 0x8899_aabb_ccdd_eeff);
                    write32(Window::address(SECOND), 0xa5);
                    let memory = execute(one, registers, "memory");
                    let expected = (self.like[0].read(511), read32(Window::address(SECOND)) & 0xff);
                    self.like[0].write(511, 0x8899_aabb_ccdd_eeff);
                    self.window.set(SECOND, IOAPIC | DEVICE);
                    write32(Window::address(SECOND), 0xa5);
                    let device = execute(one, registers, "memory and IOREGSEL");
                    same(one, &device, &memory, "memory and IOREGSEL");
                    let left = (self.like[0].read(511), read32(Window::address(SECOND)));
                    assert!(
                        left == expected,
                        "{} {before} bytes before leaves {left:x?}, not {expected:x?}",
                        one.text()
                    );

                    self.map_like(0xff);
                    self.like[1].write(0, 0x1122_3344_5566_7788);
                    let memory = execute(one, registers, "memory");
                    let expected = self.like[1].read(0);
                    self.like[1].write(0, 0x1122_3344_5566_7788);
                    self.window.set(FIRST, NOBODY | DEVICE);
                    same(one, &execute(one, registers, "nothing and memory"), &memory, "nothing and memory");
                    assert!(self.like[1].read(0) == expected, "{} leaves {:#x}", one.text(), self.like[1].read(0));
                    self.trials += 2;
                }
            }
        }
    }

    /// Moves from and to where nobody is, forwards and backwards, none at all, and more than a page.
    fn strings(&mut self) {
        const DF: u64 = 1 << 10;
        let middle = self.buffer.address() + (self.buffer.words() * 4) as u64;
        for (table, from) in [(strings_from(), true), (strings_to(), false)] {
            for one in table {
                for (count, flags) in [(0, 0), (1, 0), (7, DF), (33, 0), (100, DF)] {
                    let address = Window::address(SECOND) - 32;
                    let mut registers = Registers::patterns(count + 1);
                    (registers.gprs[6], registers.gprs[7]) = if from { (address, middle) } else { (middle, address) };
                    registers.gprs[1] = count;
                    registers.flags |= flags;
                    self.fill();
                    self.map_like(0xff);
                    let memory = execute(one, registers, "memory");
                    let expected = self.sum();
                    self.fill();
                    self.map(NOBODY | DEVICE, NOBODY | DEVICE);
                    same(one, &execute(one, registers, "nothing"), &memory, "nothing");
                    assert!(self.sum() == expected, "{} times {count} leaves other memory", one.text());
                    self.trials += 1;
                }
            }
        }
        // Several exits' worth.
        let pages = 6;
        (0..pages).for_each(|page| self.window.set(FIRST + page, (NOBODY + page * 4096) | DEVICE));
        let mut registers = Registers::new();
        (registers.gprs[6], registers.gprs[7], registers.gprs[1]) =
            (Window::address(FIRST), self.buffer.address(), pages * 4096 - 3);
        let after = execute(&strings_from()[4], registers, "many pages of nothing");
        let ends = (Window::address(FIRST + pages) - 3, self.buffer.address() + pages * 4096 - 3);
        assert!((after.gprs[6], after.gprs[7], after.gprs[1]) == (ends.0, ends.1, 0), "rep movsb ends at {after:x?}");
        assert!(
            (0..(pages * 512 - 1) as usize).all(|word| self.buffer.read(word) == u64::MAX),
            "rep movsb has not copied all"
        );
        self.trials += 1;
    }

    fn fill(&self) {
        (0..self.buffer.words())
            .for_each(|word| self.buffer.write(word, (word as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }

    fn sum(&self) -> u64 {
        (0..self.buffer.words()).fold(0, |sum: u64, word| sum.rotate_left(7) ^ self.buffer.read(word))
    }

    /// The elements come one after the other: five of them reach IOREGSEL first and IOWIN last, or the other way round.
    fn order(&mut self) {
        let (address, entry) = (Window::address(FIRST), 0x3c00_0000);
        let find = |table: &'static [Trial], text| *table.iter().find(|one| one.text() == text).expect("in the table");
        let movsd = find(strings_to(), "rep movsd");
        for (backwards, elements) in [(false, [ENTRY_HIGH, 1, 2, 3, entry]), (true, [0x77, 1, 2, 3, entry])] {
            self.ioapic(ENTRY_HIGH);
            write32(address + 0x10, 0x1100_0000);
            // Forwards the first element selects; backwards what was selected before gets the last one.
            write32(address, if backwards { ENTRY_HIGH } else { 0 });
            let mut registers = Registers::new();
            for (at, value) in (0..).zip(elements) {
                write32(self.buffer.address() + at * 4, value);
            }
            let last = if backwards { 16 } else { 0 };
            (registers.gprs[6], registers.gprs[7], registers.gprs[1]) =
                (self.buffer.address() + last, address + last, 5);
            registers.flags |= if backwards { 1 << 10 } else { 0 };
            let after = execute(&movsd, registers, "the IOAPIC");
            assert!(after.gprs[1] == 0, "{after:x?}");
            assert!(read32(address) == elements[0], "IOREGSEL is {:#x}", read32(address));
            write32(address, ENTRY_HIGH);
            assert!(read32(address + 0x10) == entry, "IOWIN is {:#x}, backwards: {backwards}", read32(address + 0x10));
            self.trials += 1;
        }
    }

    /// 32-bit code in long mode.
    fn modes(&mut self) {
        let address = Window::address(FIRST);
        let mut results = [Registers::new(); 2];
        for (on, result) in results.iter_mut().enumerate() {
            self.map_like(0);
            if on == 1 {
                self.ioapic(0);
            }
            result.gprs[3] = address;
            // SAFETY: the code reaches the page only.
            let trap = unsafe { trial(narrow(), result) };
            assert!(trap.is_none(), "32-bit code: {trap:x?}");
            result.gprs[9] = read32(address) & 0xff;
        }
        assert!(results[0] == results[1], "32-bit code on IOREGSEL: {:x?}, on memory: {:x?}", results[1], results[0]);
        assert!(
            results[0].gprs[1] & 0xff == 0xa5 && results[0].gprs[9] == 0x78,
            "32-bit code did not run: {:x?}",
            results[0]
        );
        self.trials += 1;
    }

    /// What is not decoded: #UD at the instruction, and nothing has changed. How many there were.
    fn refuse(&mut self) -> u64 {
        let address = Window::address(FIRST) + 0x200;
        for one in refused() {
            self.map(NOBODY | DEVICE, NOBODY | DEVICE);
            let mut registers = registers(41, address);
            // Strings, and what reaches the stack.
            (registers.gprs[6], registers.gprs[7]) = (self.buffer.address(), address);
            registers.gprs[4] = if one.text().starts_with("enter") { address } else { bareguest::trial::trial_stack() };
            let before = registers;
            // SAFETY: the instruction reaches where nobody is.
            let trap = unsafe { trial(one.code(), &mut registers) };
            let (vector, rip) = trap.map_or((255, 0), |trap| (trap.vector, trap.rip));
            assert!(vector == 6 && rip == one.code() as usize as u64, "{}: {trap:x?}", one.text());
            assert!(registers.gprs == before.gprs, "{} has changed {registers:x?} before it was refused", one.text());
        }
        refused().len() as u64
    }
}

fn read32(address: u64) -> u64 {
    // SAFETY: in the window or in the buffer.
    u64::from(unsafe { core::ptr::with_exposed_provenance::<u32>(address as usize).read_volatile() })
}

fn write32(address: u64, value: u64) {
    // SAFETY: likewise.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(address as usize).write_volatile(value as u32) }
}

fn write64(address: u64, value: u64) {
    // SAFETY: likewise.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) }
}
