//! A guest that looks at its clock without pause, and tells the longest gap between two looks: `watch t=<ns> longest_ns=<n>`, a line
//! per interval. What the line itself takes is no gap.
#![cfg_attr(target_os = "none", no_std, no_main)]

use bareguest::{clock, guest, println};

guest!(run);

/// Between two lines.
const INTERVAL_NS: u64 = 100_000_000;

fn run(_: &str) {
    let (mut last, mut longest) = (clock::now_ns(), 0);
    let mut printed = last;
    loop {
        let now = clock::now_ns();
        longest = now.saturating_sub(last).max(longest);
        last = now;
        if now.saturating_sub(printed) >= INTERVAL_NS {
            println!("watch t={now} longest_ns={longest}");
            (printed, longest) = (now, 0);
            last = clock::now_ns();
        }
    }
}
