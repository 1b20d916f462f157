//! Ports: an old PC's chips where there are any (82C54, MC146818, the ports of the AT), all ones where there are none, and strings.
#![expect(unsafe_code, reason = "port access")]

use bareguest::memory::{Frames, PAGE};
use bareguest::paging::{KERNEL, Window};
use bareguest::trial::{self, Registers, Trial};
use bareguest::trials;
use machine::cpu::port;

use crate::Matrix as Passes;
use crate::checks::Checks;

/// Ports that answer, or do something when they are written to, first and last: interval timer; keyboard controller's and system control
/// ports; clock; console; sleep and reset registers; PCI configuration.
const TAKEN: [(u32, u32); 8] = [
    (0x40, 0x43),
    (0x60, 0x64),
    (0x70, 0x71),
    (0x92, 0x92),
    (0x3f8, 0x3ff),
    (0x600, 0x601),
    (0x604, 0x604),
    (0xcf8, 0xcff),
];
/// Nobody's.
const NOBODY: u64 = 0x5678;
/// Pages of the window for strings: neighbours there, not in memory.
const FIRST: u64 = 40;
const DF: u64 = 1 << 10;

// DX is the port, RCX the count.
trials! { inputs: "insb", "insw", "insd", "rep insb", "rep insw", "rep insd", "rep ins byte ptr [edi], dx" }
trials! { outputs: "outsb", "outsw", "outsd", "rep outsb", "rep outsw", "rep outsd", "rep outs dx, byte ptr [esi]" }

struct Matrix {
    pages: [Frames; 2],
    checks: Checks,
}

/// The matrix. Every port is tried once: it is long.
pub fn new() -> Passes {
    let (window, pages) = (Window::new(), [Frames::take(1), Frames::take(1)]);
    for (page, frame) in (FIRST..).zip(&pages) {
        window.set(page, frame.address() | KERNEL);
    }
    let mut matrix = Matrix { pages, checks: Checks::default() };
    matrix.every_port();
    let once = matrix.checks.end();
    alloc::boxed::Box::new(move || {
        matrix.chips();
        matrix.strings();
        alloc::vec![("checks", matrix.checks.end()), ("once", once)]
    })
}

impl Matrix {
    fn every_port(&mut self) {
        let mut wrong = 0;
        for first in 0..=0xffffu32 {
            let taken = |bytes: u32| TAKEN.iter().any(|(from, to)| first <= *to && first + bytes > *from);
            let number = first as u16;
            // SAFETY: nobody is there, so nothing happens.
            unsafe {
                if !taken(1) {
                    port::write8(number, 0x5a);
                    wrong += u32::from(port::read8(number) != 0xff);
                }
                if !taken(2) {
                    port::write16(number, 0x5a5a);
                    wrong += u32::from(port::read16(number) != 0xffff);
                }
                if !taken(4) {
                    port::write32(number, 0x5a5a_5a5a);
                    wrong += u32::from(port::read32(number) != 0xffff_ffff);
                }
            }
        }
        self.checks.same("ports of nobody's that answer", wrong, 0);
    }

    fn chips(&mut self) {
        // SAFETY: the guest has no other use for these chips, and none of the values ends it.
        unsafe {
            // 82C54, channel 2, both bytes, mode 0: the count goes down, and latched it stands.
            port::write8(0x61, 1);
            port::write8(0x43, 0xb0);
            port::write8(0x42, 0xff);
            port::write8(0x42, 0xff);
            let count = || {
                port::write8(0x43, 0x80);
                u16::from_le_bytes([port::read8(0x42), port::read8(0x42)])
            };
            let (first, mut second) = (count(), count());
            for _ in 0..1000 {
                second = count();
            }
            self.checks.same("the timer counts down", second < first, true);
            let toggles = port::read8(0x61) ^ port::read8(0x61);
            self.checks.same("port 61h, refresh", toggles & 0x10, 0x10);
            self.checks.same("port 61h, gate", port::read8(0x61) & 3, 1);
            self.checks.same("port 92h: A20 open, no reset", port::read8(0x92) & 3, 2);
            self.checks.same("port 64h: no controller", port::read8(0x64), 0xff);
            // MC146818: seconds, minutes and hours in BCD, valid RAM and time.
            let clock = |index| {
                port::write8(0x70, index);
                port::read8(0x71)
            };
            for (index, most) in [(0u8, 0x59u8), (2, 0x59), (4, 0x23), (7, 0x31), (8, 0x12)] {
                let value = clock(index);
                self.checks.same("BCD of the clock", value <= most && value & 0xf <= 9, true);
            }
            self.checks.same("register D", clock(13), 0x80);
            self.checks.same("register B: 24 hours, BCD", clock(11) & 6, 2);
            // PCI configuration mechanism 1: the address reads back; nobody's function is all ones.
            port::write32(0xcf8, 0x8000_f800);
            self.checks.same("PCI address", port::read32(0xcf8), 0x8000_f800);
            self.checks.same("a function that is not there", port::read32(0xcfc), 0xffff_ffff);
            port::write32(0xcf8, 0);
        }
    }

    /// INS and OUTS, forwards and backwards, none and many, across two pages.
    fn strings(&mut self) {
        for (table, reads) in [(inputs(), true), (outputs(), false)] {
            for one in table {
                for (count, flags) in [(0u64, 0), (1, 0), (9, 0), (9, DF)] {
                    self.string(one, reads, count, flags);
                }
            }
        }
    }

    fn string(&mut self, one: &Trial, reads: bool, count: u64, flags: u64) {
        let width = match one.text().strip_prefix("rep ").unwrap_or(one.text()) {
            "insw" | "outsw" => 2,
            "insd" | "outsd" => 4,
            _ => 1,
        };
        let elements = if one.text().starts_with("rep") { count } else { 1 };
        for page in &self.pages {
            (0..page.words()).for_each(|word| page.write(word, 0));
        }
        let start = Window::address(FIRST + 1) - 6;
        let mut registers = Registers::new();
        registers.gprs[1] = count;
        registers.gprs[2] = NOBODY;
        registers.gprs[if reads { 7 } else { 6 }] = start;
        registers.flags |= flags;
        // SAFETY: the elements lie in the two pages.
        let trap = unsafe { trial::run(one.code(), &mut registers) };
        let bytes = elements * width;
        let end = if flags & DF == 0 { start + bytes } else { start - bytes };
        let left = if elements == count && one.text().starts_with("rep") { 0 } else { count };
        let found = (trap, registers.gprs[1], registers.gprs[if reads { 7 } else { 6 }]);
        self.checks.same(one.text(), found, (None, left, end));
        let filled: u32 =
            self.pages.iter().map(|page| (0..PAGE / 8).map(|at| page.read(at).count_ones()).sum::<u32>()).sum();
        self.checks.same("bits that INS has written", filled, if reads { bytes as u32 * 8 } else { 0 });
    }
}
