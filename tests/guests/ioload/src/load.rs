//! Threads that write blocks and read them back, each in its own part of the disk.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use anyhow::{Context, ensure};

use crate::block::{BLOCK_BYTES, Block};
use crate::clock::monotonic_ns;
use crate::report::{self, Counters};

/// What to do.
pub struct Setup {
    /// The disk.
    pub disk: PathBuf,
    /// Threads, each with one I/O in flight.
    pub threads: usize,
    /// Milliseconds between two lines.
    pub interval_ms: u64,
    /// MiB of the disk that are used.
    pub span_mib: u64,
}

/// One thread's part of the disk and what it knows to be there.
struct Worker {
    disk: File,
    first: u64,
    /// The version last written to each block; 0: never written.
    written: Vec<u64>,
    random: u64,
    counters: Arc<Counters>,
    last_ns: u64,
}

impl Worker {
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn completed(&mut self) {
        let now = monotonic_ns();
        if now < self.last_ns {
            self.counters.clock_back.fetch_add(1, Ordering::Relaxed);
        }
        self.last_ns = now;
        self.counters.completed(now, BLOCK_BYTES as u64);
    }

    /// Writes and reads by turns; only blocks that were written are read.
    fn run(mut self) {
        let mut block = Block::new();
        loop {
            let index = (self.random() % self.written.len() as u64) as usize;
            let number = self.first + index as u64;
            let at = number * BLOCK_BYTES as u64;
            if self.written[index] == 0 || self.random() & 1 == 0 {
                let sequence = self.written[index] + 1;
                block.fill(number, sequence);
                match self.disk.write_at(&block.0, at) {
                    Ok(BLOCK_BYTES) => {
                        self.written[index] = sequence;
                        self.completed();
                    }
                    _ => {
                        self.counters.errors.fetch_add(1, Ordering::Relaxed);
                        // What is there now is not known.
                        self.written[index] = 0;
                    }
                }
            } else {
                // What an earlier read left can't pass for the disk's answer.
                block.0.fill(0);
                match self.disk.read_at(&mut block.0, at) {
                    Ok(BLOCK_BYTES) => {
                        self.completed();
                        if !block.is(number, self.written[index]) {
                            self.counters.mismatches.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    _ => _ = self.counters.errors.fetch_add(1, Ordering::Relaxed),
                }
            }
        }
    }
}

/// Runs until the machine ends.
pub fn run(setup: &Setup) -> anyhow::Result<()> {
    let blocks = (setup.span_mib << 20) / BLOCK_BYTES as u64 / setup.threads.max(1) as u64;
    ensure!(setup.threads > 0 && blocks > 0, "at least one thread and one block per thread are needed");
    let counters = Arc::new(Counters::default());
    counters.last_ns.store(monotonic_ns(), Ordering::Relaxed);
    for thread in 0..setup.threads {
        let disk = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(&setup.disk)
            .with_context(|| format!("{} can't be opened with O_DIRECT", setup.disk.display()))?;
        let worker = Worker {
            disk,
            first: thread as u64 * blocks,
            written: vec![0; blocks as usize],
            random: 0x9e37_79b9_7f4a_7c15 ^ (thread as u64 + 1),
            counters: Arc::clone(&counters),
            last_ns: 0,
        };
        thread::Builder::new().name(format!("io{thread}")).spawn(move || worker.run())?;
    }
    report::run(&counters, setup.interval_ms)
}
