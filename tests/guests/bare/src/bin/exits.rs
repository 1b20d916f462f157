//! A guest that measures what exits cost: `bench NAME TICKS` for each, the empty loop subtracted, then `bench done`.
#![cfg_attr(target_os = "none", no_std, no_main)]

use core::hint::black_box;

use bareguest::{exits, guest, interrupts, println};
use machine::cpu::{ids, tsc};

guest!(run);

/// Of each.
const ROUNDS: u32 = 100;
/// How long the timer is set to, in ticks.
const TIMER_TICKS: u64 = 1_000;

fn ticks(mut one: impl FnMut()) -> u64 {
    let start = tsc::now();
    for _ in 0..ROUNDS {
        one();
    }
    tsc::now().wrapping_sub(start) / u64::from(ROUNDS)
}

fn run(_: &str) {
    let vendor = ids::vendor();
    let empty = ticks(|| _ = black_box(0));
    let print = |name, each: u64, beside| println!("bench {name} {}", each.saturating_sub(beside));
    print("exit.cpuid", ticks(exits::cpuid), empty);
    print("exit.port_read", ticks(exits::port_read), empty);
    print("exit.hypercall", ticks(|| exits::hypercall(vendor)), empty);
    print("timer.oneshot", ticks(|| interrupts::one_shot(TIMER_TICKS)), empty + TIMER_TICKS);
    println!("bench done");
    loop {
        interrupts::sleep_ms(1_000);
    }
}
