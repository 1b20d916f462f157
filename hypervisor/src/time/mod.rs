//! Time: the TSC as the one clock, the LAPIC timer as the one alarm.
//!
//! - `calibrate`: both against a known clock, at power-on; an upgrade carries the figures
//! - `rtc`: the wall clock, likewise

pub mod calibrate;
pub mod rtc;

use core::sync::atomic::{AtomicU64, Ordering};

use crate::cpu;

static TSC_KHZ: AtomicU64 = AtomicU64::new(0);
static LAPIC_KHZ: AtomicU64 = AtomicU64::new(0);
static POWER_ON: AtomicU64 = AtomicU64::new(0);
static EPOCH_NS: AtomicU64 = AtomicU64::new(0);

/// The rates of this machine's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Ticks of the TSC per millisecond.
    pub tsc_khz: u64,
    /// Ticks of the LAPIC timer per millisecond, divider 1.
    pub lapic_khz: u64,
    /// The TSC when the first image started.
    pub power_on: u64,
}

/// Sets the rates, measured or handed over.
pub fn set_rates(rates: Rates) {
    TSC_KHZ.store(rates.tsc_khz, Ordering::Relaxed);
    LAPIC_KHZ.store(rates.lapic_khz, Ordering::Relaxed);
    POWER_ON.store(rates.power_on, Ordering::Relaxed);
}

/// The rates in force.
pub fn rates() -> Rates {
    Rates {
        tsc_khz: tsc_khz(),
        lapic_khz: LAPIC_KHZ.load(Ordering::Relaxed),
        power_on: POWER_ON.load(Ordering::Relaxed),
    }
}

/// Ticks of the TSC per millisecond; 1,000,000 until it is known.
pub fn tsc_khz() -> u64 {
    match TSC_KHZ.load(Ordering::Relaxed) {
        0 => 1_000_000,
        khz => khz,
    }
}

/// Microseconds since the first image started.
pub fn uptime_micros() -> u64 {
    let ticks = cpu::tsc().wrapping_sub(POWER_ON.load(Ordering::Relaxed));
    (u128::from(ticks) * 1000 / u128::from(tsc_khz())) as u64
}

/// Milliseconds since the first image started.
pub fn uptime_ms() -> u64 {
    uptime_micros() / 1000
}

/// Sets the wall clock: nanoseconds since 1970 at power-on, 0 when unknown.
pub fn set_epoch_ns(at_power_on: u64) {
    EPOCH_NS.store(at_power_on, Ordering::Relaxed);
}

/// Nanoseconds since 1970 at power-on, 0 when unknown.
pub fn epoch_ns() -> u64 {
    EPOCH_NS.load(Ordering::Relaxed)
}

/// Nanoseconds since 1970 now, 0 when unknown.
pub fn wall_clock_ns() -> u64 {
    match epoch_ns() {
        0 => 0,
        epoch => epoch.saturating_add(uptime_micros() * 1000),
    }
}

/// Ticks of the TSC in `ms` milliseconds.
pub fn ms_to_ticks(ms: u64) -> u64 {
    ms.saturating_mul(tsc_khz())
}

/// The machine's clock for bounded waits.
#[derive(Clone, Copy, Default)]
pub struct TscClock;

impl machine::access::Clock for TscClock {
    fn ticks(&self) -> u64 {
        cpu::tsc()
    }
    fn ticks_per_ms(&self) -> u64 {
        tsc_khz()
    }
}
