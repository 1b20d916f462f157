//! A disk kept busy, every byte checked, and memory that nobody else may touch; the lines on the console are those of
//! the Linux guest's program: `ioload t=<ns> ops=<n> ...`.

use alloc::vec;
use alloc::vec::Vec;

use crate::memory::{Frames, PAGE};
use crate::nvme::{Completion, Direction, SECTOR};
use crate::{clock, println};

/// A disk of whatever kind.
pub trait Disk {
    /// Starts a transfer of `sectors` from `sector` on. `address` is what the device is told: it may be anything.
    fn submit(&mut self, id: u16, direction: Direction, address: u64, sector: u64, sectors: u64);
    /// Waits for a completion by its interrupt: one that is lost is waited for, for ever.
    fn wait(&mut self) -> Completion;
}

/// Commands in flight.
const DEPTH: u16 = 4;
/// Blocks of 4 KiB that belong to each of them.
const BLOCKS: u64 = 512;
/// Between two lines.
const INTERVAL_NS: u64 = 250_000_000;
/// Pages that only this guest writes to.
const PATTERN_PAGES: usize = 16;

/// One command at a time on its own part of the disk.
struct Worker {
    buffer: Frames,
    /// The version last written to each block; 0: never written.
    written: Vec<u64>,
    first: u64,
    random: u64,
    /// What is under way: block and direction.
    block: u64,
    direction: Direction,
}

/// What is counted.
#[derive(Default)]
struct Counters {
    ops: u64,
    errors: u64,
    mismatches: u64,
    clock_back: u64,
    last_ns: u64,
    gap_ns: u64,
}

/// What stands at a place: different for each block, version and word (the finalizer of MurmurHash3).
const fn mix(block: u64, version: u64, word: u64) -> u64 {
    let mut value = block << 40 ^ version << 10 ^ word;
    value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

fn fill(frames: Frames, block: u64, version: u64) {
    (0..frames.words()).for_each(|word| frames.write(word, mix(block, version, word as u64)));
}

fn holds(frames: Frames, block: u64, version: u64) -> bool {
    (0..frames.words()).all(|word| frames.read(word) == mix(block, version, word as u64))
}

impl Worker {
    fn new(number: u16) -> Self {
        Self {
            buffer: Frames::take(1),
            written: vec![0; BLOCKS as usize],
            first: u64::from(number) * BLOCKS,
            random: 0x9e37_79b9_7f4a_7c15 ^ (u64::from(number) + 1),
            block: 0,
            direction: Direction::Write,
        }
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Starts the next command: only blocks that were written are read.
    fn start(&mut self, number: u16, disk: &mut dyn Disk) {
        let index = self.random() % BLOCKS;
        self.block = self.first + index;
        let version = self.written[index as usize];
        self.direction = if version == 0 || self.random() & 1 == 0 { Direction::Write } else { Direction::Read };
        if self.direction == Direction::Write {
            self.written[index as usize] = version + 1;
            fill(self.buffer, self.block, version + 1);
        } else {
            // What an earlier command left can't pass for the disk's answer.
            (0..self.buffer.words()).for_each(|word| self.buffer.write(word, 0));
        }
        let sectors = PAGE as u64 / SECTOR;
        disk.submit(number, self.direction, self.buffer.address(), self.block * sectors, sectors);
    }

    /// Whether the data of the command that has ended is right.
    fn is_right(&self) -> bool {
        let version = self.written[(self.block - self.first) as usize];
        self.direction == Direction::Write || holds(self.buffer, self.block, version)
    }
}

impl Counters {
    fn tick(&mut self) -> u64 {
        let now = clock::now_ns();
        if now < self.last_ns {
            self.clock_back += 1;
        }
        self.gap_ns = self.gap_ns.max(now.saturating_sub(self.last_ns));
        self.last_ns = now;
        now
    }

    fn print(&mut self, now: u64) {
        println!(
            "ioload t={now} ops={} bytes={} errors={} mismatches={} max_gap_us={} clock_back={} nvme_errors={}",
            self.ops,
            self.ops * PAGE as u64,
            self.errors,
            self.mismatches,
            self.gap_ns / 1000,
            self.clock_back,
            // There is no driver besides this one that could complain.
            self.errors,
        );
        self.gap_ns = 0;
    }
}

/// Works until the machine ends.
pub fn run(disk: &mut dyn Disk) -> ! {
    let pattern = Frames::take(PATTERN_PAGES);
    fill(pattern, u64::MAX, 1);
    println!("pattern at {:#x}", pattern.address());
    let mut workers: Vec<Worker> = (0..DEPTH).map(Worker::new).collect();
    for (worker, number) in workers.iter_mut().zip(0..) {
        worker.start(number, disk);
    }
    let mut counters = Counters { last_ns: clock::now_ns(), ..Counters::default() };
    let mut printed = counters.last_ns;
    loop {
        let completion = disk.wait();
        let now = counters.tick();
        let Some(worker) = workers.get_mut(usize::from(completion.id)) else {
            counters.errors += 1;
            continue;
        };
        counters.ops += 1;
        if completion.status != 0 {
            counters.errors += 1;
        } else if !worker.is_right() {
            counters.mismatches += 1;
        }
        worker.start(completion.id, disk);
        if now.saturating_sub(printed) >= INTERVAL_NS {
            printed = now;
            if !holds(pattern, u64::MAX, 1) {
                counters.mismatches += 1;
            }
            counters.print(now);
        }
    }
}
