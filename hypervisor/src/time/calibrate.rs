//! Measures TSC and LAPIC timer against the PIT, whose rate is fixed by definition.
#![expect(unsafe_code, reason = "port I/O")]

use crate::cpu;
use crate::smp::lapic;
use crate::time::Rates;

/// The PIT's rate in Hz (Intel 8254; 14.31818 MHz / 12).
const PIT_HZ: u64 = 1_193_182;
/// A measurement's length in PIT ticks: about 1 ms.
const COUNT: u16 = 1193;
/// So many measurements; the middle one counts, so that a moment in which this CPU stood still (an SMI, a busy
/// machine below) does not.
const MEASUREMENTS: usize = 5;
/// Polls after which the PIT counts as absent.
const POLLS: u64 = 50_000_000;

/// Port of channel 2's counter, the mode register, and the gate and output of channel 2.
mod port {
    pub const CHANNEL_2: u16 = 0x42;
    pub const MODE: u16 = 0x43;
    pub const GATE: u16 = 0x61;
}

/// Measures. Needs the LAPIC on; uses PIT channel 2, which no interrupt hangs on.
///
/// # Errors
/// The PIT does not count.
pub fn measure(power_on: u64) -> Result<Rates, &'static str> {
    let (mut tsc, mut timer) = ([0; MEASUREMENTS], [0; MEASUREMENTS]);
    for (tsc, timer) in tsc.iter_mut().zip(&mut timer) {
        (*tsc, *timer) = once()?;
    }
    tsc.sort_unstable();
    timer.sort_unstable();
    let per_ms = |counts: [u64; MEASUREMENTS]| counts[MEASUREMENTS / 2] * PIT_HZ / u64::from(COUNT) / 1000;
    let rates = Rates { tsc_khz: per_ms(tsc), lapic_khz: per_ms(timer), power_on };
    if rates.tsc_khz == 0 || rates.lapic_khz == 0 {
        return Err("the TSC or the LAPIC timer does not count");
    }
    Ok(rates)
}

/// Ticks of TSC and LAPIC timer while the PIT counts down once.
fn once() -> Result<(u64, u64), &'static str> {
    // SAFETY: channel 2 of the PIT and its gate touch no memory; the speaker stays off.
    let gate = unsafe { (cpu::port::read8(port::GATE) & !0x02) | 0x01 };
    // SAFETY: as above. Mode 0 (interrupt on terminal count), low byte then high byte.
    unsafe {
        cpu::port::write8(port::GATE, gate & !0x01);
        cpu::port::write8(port::MODE, 0xb0);
        cpu::port::write8(port::CHANNEL_2, COUNT as u8);
        cpu::port::write8(port::CHANNEL_2, (COUNT >> 8) as u8);
        cpu::port::write8(port::GATE, gate);
    }
    let (tsc, timer) = (cpu::tsc(), lapic::start_measuring());
    let mut polls = 0;
    // SAFETY: as above; bit 5 is the output of channel 2.
    while unsafe { cpu::port::read8(port::GATE) } & 0x20 == 0 {
        polls += 1;
        if polls > POLLS {
            return Err("the PIT does not count: no known clock to measure the TSC against");
        }
    }
    let ticks = cpu::tsc().wrapping_sub(tsc);
    let timer_ticks = lapic::measured(timer);
    Ok((ticks, timer_ticks))
}
