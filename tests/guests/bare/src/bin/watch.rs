//! A guest that looks at its clock without pause, and tells the longest gap between two looks: `watch t=<ticks> longest=<ticks>`, a
//! line per interval. What the line itself takes is no gap.
#![cfg_attr(target_os = "none", no_std, no_main)]

use bareguest::{clock, guest, println};
use machine::cpu::tsc;

guest!(run);

/// Between two lines.
const INTERVAL_MS: u64 = 20;

fn run(_: &str) {
    // Asking for the rate is an exit: only once.
    let interval = INTERVAL_MS * clock::khz();
    let (mut last, mut longest) = (tsc::now(), 0);
    let mut printed = last;
    loop {
        let now = tsc::now();
        longest = now.saturating_sub(last).max(longest);
        last = now;
        if now.saturating_sub(printed) >= interval {
            println!("watch t={now} longest={longest}");
            (printed, longest) = (now, 0);
            last = tsc::now();
        }
    }
}
