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
/// Ticks of the LAPIC timer per tick of the TSC, times 2^32.
static LAPIC_PER_TSC: AtomicU64 = AtomicU64::new(0);
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
    LAPIC_PER_TSC.store(lapic_per_tsc(&rates), Ordering::Relaxed);
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

/// Ticks of the LAPIC timer in `ticks` of the TSC, rounded up (an alarm that comes before its time has to be set again), at least 1 and
/// at most 0xFFFF_FFFF, which is all that the timer counts.
pub fn lapic_ticks(ticks: u64) -> u64 {
    scale(ticks, LAPIC_PER_TSC.load(Ordering::Relaxed))
}

/// Every alarm needs it: the division is done once.
fn lapic_per_tsc(rates: &Rates) -> u64 {
    (u128::from(rates.lapic_khz) << 32).div_ceil(u128::from(rates.tsc_khz.max(1))).min(u128::from(u64::MAX)) as u64
}

fn scale(ticks: u64, ratio: u64) -> u64 {
    let product = u128::from(ticks) * u128::from(ratio);
    ((product + u128::from(u32::MAX)) >> 32).clamp(1, 0xffff_ffff) as u64
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_never_early_and_hardly_late() {
        for (tsc_khz, lapic_khz) in
            [(1_000_000, 1_000_000), (2_400_000, 25_000), (3_312_017, 99_771), (50_000, 50_000_000)]
        {
            let ratio = lapic_per_tsc(&Rates { tsc_khz, lapic_khz, power_on: 0 });
            for ticks in [0, 1, 96, 97, 96_000, 1_000_000_007, 40_000_000_000] {
                let exact = (ticks * lapic_khz).div_ceil(tsc_khz);
                let count = scale(ticks, ratio);
                let limits = [exact, exact + 10].map(|count: u64| count.clamp(1, 0xffff_ffff));
                assert!((limits[0]..=limits[1]).contains(&count), "{ticks} at {tsc_khz}, {lapic_khz}: {count}");
            }
        }
        assert_eq!(
            scale(96_000, lapic_per_tsc(&Rates { tsc_khz: 1_000_000, lapic_khz: 1_000_000, power_on: 0 })),
            96_000
        );
        // Rates out of a damaged record.
        assert_eq!(
            scale(u64::MAX, lapic_per_tsc(&Rates { tsc_khz: 0, lapic_khz: u64::MAX, power_on: 0 })),
            0xffff_ffff
        );
        assert_eq!(scale(5, lapic_per_tsc(&Rates { tsc_khz: 1, lapic_khz: 0, power_on: 0 })), 1);
    }
}
