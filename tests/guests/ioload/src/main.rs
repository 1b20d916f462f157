//! The program that runs in the test guest: keeps a disk busy and checks every byte, or measures exits.
//!
//! - `block`: what is written, and how it is recognised when it is read again
//! - `load`: the threads that write and read without pause
//! - `read`: threads that only read, for measuring
//! - `report`: the line that goes to the console
//! - `kernel_log`: counts what the guest's NVMe driver complains about
//! - `clock`: the guest's monotonic clock
//! - `bench`: ticks of exits, seen from the guest

mod bench;
mod block;
mod clock;
mod kernel_log;
mod load;
mod read;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Keeps a disk busy and checks every byte, or measures exits.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes and reads with O_DIRECT for ever, a line on standard output per interval.
    Load {
        /// The disk, whose content is lost.
        #[arg(default_value = "/dev/nvme0n1")]
        disk: PathBuf,
        /// Threads, each with one I/O in flight.
        #[arg(long, default_value_t = 4)]
        threads: usize,
        /// Milliseconds between two lines.
        #[arg(long, default_value_t = 250)]
        interval_ms: u64,
        /// MiB of the disk that are used.
        #[arg(long, default_value_t = 32)]
        span_mib: u64,
    },
    /// Reads with O_DIRECT for ever, in requests of 512 KiB, and checks nothing.
    Read {
        /// The disk.
        #[arg(default_value = "/dev/nvme0n1")]
        disk: PathBuf,
        /// Threads, each with one request in flight.
        #[arg(long, default_value_t = 4)]
        threads: usize,
        /// MiB of the disk that are read.
        #[arg(long, default_value_t = 32)]
        span_mib: u64,
    },
    /// Prints what a CPUID and a port read cost, in ticks of the TSC.
    Bench {
        /// Repetitions of each.
        #[arg(long, default_value_t = 1000)]
        rounds: u32,
    },
    /// Prints the clock for ever: a guest without a disk.
    Idle {
        /// Milliseconds between two lines.
        #[arg(long, default_value_t = 250)]
        interval_ms: u64,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Load { disk, threads, interval_ms, span_mib } => {
            load::run(&load::Setup { disk, threads, interval_ms, span_mib })
        }
        Command::Read { disk, threads, span_mib } => read::run(&disk, threads, span_mib),
        Command::Bench { rounds } => bench::run(rounds),
        Command::Idle { interval_ms } => report::idle(interval_ms),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("ioload failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
