//! Measures TSC and LAPIC timer against the PIT, whose rate is fixed by definition.
#![expect(unsafe_code, reason = "port I/O")]

use crate::cpu;
use crate::smp::lapic;
use crate::time::Rates;

/// The PIT's rate in Hz (Intel 8254; 14.31818 MHz / 12).
const PIT_HZ: u64 = 1_193_182;
/// What the PIT counts down from: 55 ms.
const START: u16 = u16::MAX;
/// A measurement's least length in PIT ticks: about 5 ms.
const LEAST: u16 = 5966;
/// So many looks at all clocks at either end; the quickest counts, in which this CPU stood still least (an SMI, a busy
/// machine below).
const LOOKS: usize = 16;
/// So many measurements, when this CPU stood still so long that the PIT ran out.
const ATTEMPTS: usize = 20;
/// Polls after which the PIT counts as absent.
const POLLS: u64 = 5_000_000;

/// Port of channel 2's counter, the mode register, and the gate and output of channel 2.
mod port {
    pub const CHANNEL_2: u16 = 0x42;
    pub const MODE: u16 = 0x43;
    pub const GATE: u16 = 0x61;
    /// In GATE: channel 2 has counted down to 0.
    pub const OUTPUT: u8 = 1 << 5;
}

/// All clocks at one moment.
#[derive(Clone, Copy)]
struct Look {
    tsc: u64,
    timer: u64,
    pit: u16,
    /// Ticks of the TSC that it took to look.
    took: u64,
}

/// Measures. Needs the LAPIC on; uses PIT channel 2, which no interrupt hangs on.
///
/// # Errors
/// The PIT does not count.
pub fn measure(power_on: u64) -> Result<Rates, &'static str> {
    for _ in 0..ATTEMPTS {
        let looks = once();
        lapic::stop_measuring();
        if let Some((first, last)) = looks? {
            let passed = u64::from(first.pit - last.pit);
            let per_ms = |ticks: u64| ticks * PIT_HZ / passed / 1000;
            let rates = Rates {
                tsc_khz: per_ms(last.tsc.wrapping_sub(first.tsc)),
                lapic_khz: per_ms(last.timer.wrapping_sub(first.timer)),
                power_on,
            };
            return if rates.tsc_khz == 0 || rates.lapic_khz == 0 {
                Err("the TSC or the LAPIC timer does not count")
            } else {
                Ok(rates)
            };
        }
    }
    Err("this CPU stands still too often to measure its clocks")
}

/// Looks at all clocks at the begin and at the end of some ms; `None` when the PIT ran out meanwhile.
fn once() -> Result<Option<(Look, Look)>, &'static str> {
    // SAFETY: channel 2 of the PIT and its gate touch no memory; the speaker stays off.
    let gate = unsafe { (cpu::port::read8(port::GATE) & !0x02) | 0x01 };
    // SAFETY: as above. Mode 0 (interrupt on terminal count), low byte then high byte.
    unsafe {
        cpu::port::write8(port::GATE, gate & !0x01);
        cpu::port::write8(port::MODE, 0xb0);
        cpu::port::write8(port::CHANNEL_2, START as u8);
        cpu::port::write8(port::CHANNEL_2, (START >> 8) as u8);
        cpu::port::write8(port::GATE, gate);
    }
    let timer = lapic::start_measuring();
    let first = quickest(timer);
    let mut polls = 0;
    while first.pit.saturating_sub(count()) < LEAST && !ran_out() {
        polls += 1;
        if polls > POLLS {
            return Err("the PIT does not count: no known clock to measure the TSC against");
        }
    }
    let last = quickest(timer);
    Ok((!ran_out() && last.pit < first.pit).then_some((first, last)))
}

/// Whether channel 2 has counted down to 0, and counts on from the top.
fn ran_out() -> bool {
    // SAFETY: reading the gate's port changes nothing.
    unsafe { cpu::port::read8(port::GATE) & port::OUTPUT != 0 }
}

/// What channel 2 has come down to.
fn count() -> u16 {
    // SAFETY: channel 2 of the PIT touches no memory. Latch, then low byte and high byte.
    unsafe {
        cpu::port::write8(port::MODE, 0x80);
        let low = cpu::port::read8(port::CHANNEL_2);
        u16::from(low) | u16::from(cpu::port::read8(port::CHANNEL_2)) << 8
    }
}

fn quickest(timer: u64) -> Look {
    let look = || {
        let before = cpu::tsc();
        let (pit, timer) = (count(), lapic::measured(timer));
        let after = cpu::tsc();
        let took = after.wrapping_sub(before);
        Look { tsc: before.wrapping_add(took / 2), timer, pit, took }
    };
    let mut best = look();
    for _ in 1..LOOKS {
        let next = look();
        if next.took < best.took {
            best = next;
        }
    }
    best
}
