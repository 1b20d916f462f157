//! A guest that says so and then does nothing, without sleep and without touching its memory: every byte of it stays as it is.
#![cfg_attr(target_os = "none", no_std, no_main)]

use bareguest::{guest, println};
use machine::cpu::interrupts;

guest!(run);

fn run(_: &str) {
    interrupts::disable();
    println!("still");
    loop {
        core::hint::spin_loop();
    }
}
