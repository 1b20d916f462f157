//! A guest that sends numbered frames and takes back what the wire's other end returns: each once, in order, unchanged.
//! A line now and then: `wire t=<ns> sent=<n> returned=<n> ...`.
#![cfg_attr(target_os = "none", no_std, no_main)]

use bareguest::igb::{FRAME_BYTES, Igb};
use bareguest::{clock, guest, interrupts, println};

guest!(run);

/// Frames under way.
const WINDOW: u64 = 16;
/// Frames that are sent at once, and the pause before the next ones.
const BURST: usize = 4;
const PAUSE_MS: u64 = 4;
/// Between two lines.
const INTERVAL_NS: u64 = 250_000_000;
/// What has not come back then is lost.
const PATIENCE_NS: u64 = 5_000_000_000;
/// Type of the frames: for experiments (IEEE 802), as the bytes lie in memory.
const TYPE: u64 = 0xb588;
/// Whoever returns the frames.
const PEER: u64 = 0x0100_0000_0002;
/// The shortest frame: its head, its number.
const SHORTEST: usize = 64;

/// What stands at a place of the frame with a number: different for each (the finalizer of MurmurHash3).
const fn mix(number: u64, word: u64) -> u64 {
    let mut value = number << 16 ^ word;
    value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

/// Bytes of the frame with a number: all lengths that a wire takes, in whole words.
const fn length(number: u64) -> usize {
    SHORTEST + (mix(number, u64::MAX) % ((FRAME_BYTES - SHORTEST) as u64 / 8)) as usize * 8
}

/// A word of the frame with a number, from `source` to `destination`. Two words hold the head and two bytes of nothing.
const fn word(number: u64, source: u64, destination: u64, at: usize) -> u64 {
    match at {
        0 => destination | source << 48,
        1 => source >> 16 | TYPE << 32,
        2 => number,
        _ => mix(number, at as u64),
    }
}

#[derive(Default)]
struct Counters {
    sent: u64,
    returned: u64,
    /// Did not come back in time.
    lost: u64,
    /// Came back again.
    doubled: u64,
    /// Not what was sent, or not in its turn.
    wrong: u64,
    /// Lay there without an interrupt.
    silent: u64,
    clock_back: u64,
}

fn run(_: &str) {
    let Some(mut card) = Igb::start(interrupts::DEVICES) else {
        println!("guest failed: there is no network card");
        return;
    };
    let own = card.address().iter().rev().fold(0, |address, byte| address << 8 | u64::from(*byte));
    let mut counters = Counters::default();
    // The number of the frame that is due back; those below it are done.
    let mut due = 0;
    let mut seen = clock::now_ns();
    let (mut printed, mut moved) = (seen, seen);
    loop {
        for _ in 0..BURST {
            let number = counters.sent;
            if number - due >= WINDOW || !card.send(length(number), |at| word(number, own, PEER, at)) {
                break;
            }
            counters.sent += 1;
        }
        let before = interrupts::count(card.vector());
        let mut told = take(&mut card, own, &mut due, &mut counters);
        interrupts::sleep_unless(PAUSE_MS, || interrupts::count(card.vector()) != before);
        if interrupts::count(card.vector()) != before {
            told += take(&mut card, own, &mut due, &mut counters);
        }
        let now = clock::now_ns();
        counters.clock_back += u64::from(now < seen);
        seen = now;
        if told > 0 || due == counters.sent {
            moved = now;
        } else if now.saturating_sub(moved) > PATIENCE_NS {
            // Without having been told: is it there all the same?
            counters.silent += take(&mut card, own, &mut due, &mut counters);
            counters.lost += counters.sent - due;
            due = counters.sent;
        }
        if now.saturating_sub(printed) >= INTERVAL_NS {
            printed = now;
            let Counters { sent, returned, lost, doubled, wrong, silent, clock_back } = counters;
            println!(
                "wire t={now} sent={sent} returned={returned} lost={lost} doubled={doubled} wrong={wrong} silent={silent} \
                 clock_back={clock_back}"
            );
        }
    }
}

/// Takes what has come back; how many frames that was.
fn take(card: &mut Igb, own: u64, due: &mut u64, counters: &mut Counters) -> u64 {
    let mut frames = 0;
    while let Some((number, right)) = card.receive(|bytes, read| {
        let number = read(2);
        let right = bytes == length(number) && (0..bytes / 8).all(|at| read(at) == word(number, PEER, own, at));
        (number, right)
    }) {
        frames += 1;
        if number < *due && right {
            counters.doubled += 1;
        } else if number == *due && right {
            *due += 1;
            counters.returned += 1;
        } else {
            counters.wrong += 1;
        }
    }
    frames
}
