//! A guest of matrices: whatever a guest may execute, against what the manuals say of it. The kernel's command line names those that are
//! wanted; all of them without one. They are gone through again and again: `matrix <name> pass <n> <counts>` each time, and `guest failed: ...`
//! when something is not as it should be. Between two times it sleeps, so that an upgrade gets its turn on one processor.
//!
//! - `mmio`: device memory, by every instruction that is decoded
//! - `traps`: exceptions, single steps, breakpoints, interrupts and NMIs around instructions that leave the guest
//! - `ports`: an old PC's chips, ports of nobody's, strings
//! - `msrs`: which MSRs and leaves of CPUID there are, and values that are reserved
//! - `checks`: what is expected and what was found
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

mod checks;
mod mmio;
mod msrs;
mod ports;
mod traps;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use bareguest::{guest, interrupts, println, trial};

guest!(run);

/// A matrix, made once: what goes through it, and says what it has counted.
type Matrix = Box<dyn FnMut() -> Counts>;
/// Names and numbers for the console.
type Counts = Vec<(&'static str, u64)>;

/// Between two times through.
const PAUSE_MS: u64 = 300;

/// The name and what makes it.
type Entry = (&'static str, fn() -> Matrix);

/// All of them, in the order they are gone through.
const ALL: [Entry; 4] = [("mmio", mmio::new), ("traps", traps::new), ("ports", ports::new), ("msrs", msrs::new)];

fn run(wanted: &str) {
    trial::init();
    let wanted = |name: &str| wanted.is_empty() || wanted.split_whitespace().any(|word| word == name);
    let mut matrices: Vec<_> =
        ALL.into_iter().filter(|(name, _)| wanted(name)).map(|(name, new)| (name, new())).collect();
    for pass in 1u64.. {
        for (name, matrix) in &mut matrices {
            let counts = matrix().iter().map(|(what, count)| format!(" {what}={count}")).collect::<String>();
            println!("matrix {name} pass {pass}{counts}");
        }
        interrupts::sleep_ms(PAUSE_MS);
    }
}
