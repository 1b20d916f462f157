//! A guest that does what its console tells it, against whomever: a line in, a line out.
//!
//! - `disk-write A`: the disk writes 4 KiB of 0xa5 to address A
//! - `disk-read A`: the disk reads 4 KiB from address A and keeps them in its sector 16
//! - `disk-signal A`: the disk writes 512 zero bytes to address A, which in the interrupt window are 128 messages
//! - `disk-check`: the disk still does what it should, started afresh
//! - `storm N A`: N writes of the disk, page after page from A on
//! - `edu-write A B`, `edu-read A B`: the same by `edu`, B bytes
//! - `edu-leave A`: `edu` is told to write 4 KiB to A, and the guest powers itself off before that
//! - `clear A`: the guest itself writes a page of zeroes to its address A
//! - `bar A`: moves the disk's BAR 0 to A, looks what is there, and moves it back; `bar 0`: over the other disk's
//! - `config`: writes to every byte of the disk's configuration space
//! - `identity`: what the disk calls itself
//! - `toggle`: bus mastering off and on, until another line comes
//! - `leave`: powers the guest off with commands of the disk under way
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::format;
use alloc::string::String;

use bareguest::console::Input;
use bareguest::edu::Edu;
use bareguest::load::Disk;
use bareguest::memory::Frames;
use bareguest::nvme::{Direction, Nvme};
use bareguest::{clock, devices, guest, println};
use machine::access::Width;
use machine::cpu::port;
use machine::pci::{Bdf, Command, ConfigSpace};

guest!(run);

/// Sectors of the disk: what is written, zeroes, what was read, what is checked.
const PATTERN: u64 = 0;
const ZEROES: u64 = 8;
const LOOT: u64 = 16;
const CHECK: u64 = 24;
/// Sectors of a page.
const PAGE: u64 = 8;
/// Every byte of the pattern.
const BYTE: u64 = 0xa5a5_a5a5_a5a5_a5a5;
/// Commands of a storm in flight.
const DEPTH: u64 = 16;
/// Values for every byte of configuration space.
const VALUES: [u32; 4] = [0xff, 0x00, 0x55, 0xaa];

struct Attacker {
    disk: Nvme,
    /// One that is only there.
    other: Nvme,
    edu: Option<Edu>,
    page: Frames,
}

fn run(_: &str) {
    let mut disks = Nvme::all().into_iter();
    let (Some(disk), Some(other)) = (disks.next(), disks.next()) else {
        println!("guest failed: there are not two NVMe disks");
        return;
    };
    let mut this = Attacker { disk, other, edu: Edu::find(), page: Frames::take(2) };
    this.prepare();
    println!("attacker: ready, edu {}", this.edu.is_some());
    let mut input = Input::default();
    loop {
        let line = input.wait();
        let answer = this.obey(&line, &mut input);
        println!("attacker: {line}: {answer}");
    }
}

impl Attacker {
    fn fill(&self, value: u64) {
        (0..self.page.words()).for_each(|word| self.page.write(word, value));
    }

    /// What the disk writes later is on it now.
    fn prepare(&mut self) {
        for (sector, value) in [(PATTERN, BYTE), (ZEROES, 0), (LOOT, 0)] {
            self.fill(value);
            let status = self.transfer(Direction::Write, self.page.address(), sector, PAGE);
            assert!(status == "status 0x0", "the disk does not take its sectors: {status}");
        }
    }

    fn transfer(&mut self, direction: Direction, address: u64, sector: u64, sectors: u64) -> String {
        self.disk.submit(0, direction, address, sector, sectors);
        match self.disk.poll() {
            Some(completion) => format!("status {:#x}", completion.status),
            None => "no answer".into(),
        }
    }

    fn obey(&mut self, line: &str, input: &mut Input) -> String {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or_default();
        let mut number = || {
            let word = words.next().unwrap_or_default();
            match word.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16).unwrap_or(0),
                None => word.parse().unwrap_or(0),
            }
        };
        match command {
            "disk-write" => self.transfer(Direction::Read, number(), PATTERN, PAGE),
            "disk-read" => self.transfer(Direction::Write, number(), LOOT, PAGE),
            "disk-signal" => self.transfer(Direction::Read, number(), ZEROES, 1),
            "disk-check" => self.check(),
            "storm" => {
                let count = number();
                self.storm(count, number())
            }
            "edu-write" | "edu-read" => {
                let address = number();
                let bytes = number();
                match &self.edu {
                    Some(edu) if command == "edu-write" => format!("done {}", edu.write(address, bytes)),
                    Some(edu) => format!("done {}", edu.read(address, bytes)),
                    None => "no edu".into(),
                }
            }
            "edu-leave" => match &self.edu {
                Some(edu) => {
                    edu.begin(number(), 0x1000);
                    power_off()
                }
                None => "no edu".into(),
            },
            "clear" => Frames::at(number()).map_or_else(
                || "not there".into(),
                |page| {
                    (0..page.words()).for_each(|word| page.write(word, 0));
                    "done".into()
                },
            ),
            "bar" => self.move_bar(number()),
            "config" => self.config(),
            "identity" => format!("{:#x}", devices::config().read32(self.disk.bdf(), 0)),
            "toggle" => self.toggle(input),
            "leave" => self.leave(),
            _ => "unknown".into(),
        }
    }

    fn storm(&mut self, count: u64, first: u64) -> String {
        let mut open = 0;
        for index in 0..count {
            if open == DEPTH {
                if self.disk.poll().is_none() {
                    return format!("no answer after {index} writes");
                }
                open -= 1;
            }
            self.disk.submit(0, Direction::Read, first.wrapping_add(index << 12), PATTERN, PAGE);
            open += 1;
        }
        let answered = (0..open).all(|_| self.disk.poll().is_some());
        format!("{count} writes, all answered {answered}")
    }

    /// Starts the disk afresh and lets it keep a page.
    fn check(&mut self) -> String {
        let Some(disk) = Nvme::all().into_iter().next() else { return "the disk is gone".into() };
        self.disk = disk;
        let secret = clock::now_ns();
        self.fill(secret);
        let written = self.transfer(Direction::Write, self.page.address(), CHECK, PAGE);
        self.fill(0);
        let read = self.transfer(Direction::Read, self.page.address(), CHECK, PAGE);
        let same = (0..self.page.words() / 2).all(|word| self.page.read(word) == secret);
        format!("written {written} read {read} same {same}")
    }

    fn move_bar(&mut self, address: u64) -> String {
        let config = devices::config();
        let bdf = self.disk.bdf();
        let others = devices::bar_address(&config, self.other.bdf(), 0);
        let address = if address == 0 { others } else { address };
        let put = |low: u32, high: u32| {
            (Command::read(&config, bdf) - Command::MEMORY).write(&config, bdf);
            config.write32(bdf, BAR, low);
            config.write32(bdf, BAR + 4, high);
            (Command::read(&config, bdf) | Command::MEMORY).write(&config, bdf);
        };
        let mark = |bdf| devices::enable(&config, bdf).read_u32(MARK);
        let home = [config.read32(bdf, BAR), config.read32(bdf, BAR + 4)];
        let before = mark(bdf);
        put(address as u32, (address >> 32) as u32);
        let there = devices::bar_address(&config, bdf, 0);
        let found = mark(bdf);
        let other = mark(self.other.bdf());
        put(home[0], home[1]);
        let again = mark(bdf);
        format!("at {there:#x} found {found:#x} home {before:#x} then {again:#x} other {other:#x}")
    }

    fn config(&mut self) -> String {
        let config = devices::config();
        let bdf = self.disk.bdf();
        let home = [config.read32(bdf, BAR), config.read32(bdf, BAR + 4)];
        for value in VALUES {
            for offset in 0..4096 {
                config.write(bdf, offset, Width::Byte, value);
            }
            for offset in (0..4096).step_by(2) {
                config.write(bdf, offset, Width::Word, value * 0x0101);
            }
            for offset in (0..4096).step_by(4) {
                config.write32(bdf, offset, value * 0x0101_0101);
            }
        }
        config.write32(bdf, BAR, home[0]);
        config.write32(bdf, BAR + 4, home[1]);
        let identity = config.read32(bdf, 0);
        let others = (0..256u16).filter(|function| config.read32(Bdf::from_requester_id(0, *function), 0) != u32::MAX);
        format!("identity {identity:#x} functions {}", others.count())
    }

    fn toggle(&mut self, input: &mut Input) -> String {
        let config = devices::config();
        let bdf = self.disk.bdf();
        let mut count = 0u64;
        while input.poll().is_none() {
            (Command::read(&config, bdf) ^ Command::BUS_MASTER).write(&config, bdf);
            count += 1;
        }
        (Command::read(&config, bdf) | Command::BUS_MASTER).write(&config, bdf);
        format!("{count} times")
    }

    fn leave(&mut self) -> String {
        for id in 0..DEPTH as u16 {
            self.disk.submit(id, Direction::Read, self.page.address(), PATTERN, 2 * PAGE);
        }
        power_off()
    }
}

#[expect(unsafe_code, reason = "port I/O")]
fn power_off() -> String {
    // SAFETY: the sleep control register of this platform (ACPI 6.5 4.8.3.7): S5.
    unsafe { port::write8(0x600, 0x34) };
    "still here".into()
}

/// The disk's BAR 0, 64 bits wide.
const BAR: u16 = 0x10;
/// A register that tells one disk from the other: where its admin queue is.
const MARK: usize = 0x28;
