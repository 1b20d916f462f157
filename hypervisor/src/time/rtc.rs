//! The wall clock, read once from the CMOS (Motorola MC146818A data sheet).
#![expect(unsafe_code, reason = "port I/O")]

use crate::cpu;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
/// Register A: an update is in progress.
const UPDATING: u8 = 0x80;
/// Register B: binary, not BCD.
const BINARY: u8 = 0x04;
/// Register B: 24 hours.
const HOURS_24: u8 = 0x02;
/// Tries for two readings that agree.
const TRIES: u32 = 10_000;

fn register(index: u8) -> u8 {
    // SAFETY: the CMOS ports touch no memory; bit 7 keeps NMIs on.
    unsafe {
        cpu::port::write8(INDEX, index);
        cpu::port::read8(DATA)
    }
}

/// Seconds, minutes, hours, day, month, year, century as the registers say.
fn reading() -> [u8; 7] {
    [0x00, 0x02, 0x04, 0x07, 0x08, 0x09, 0x32].map(register)
}

/// Nanoseconds since 1970 (UTC), 0 when the clock can't be read.
pub fn read() -> u64 {
    for _ in 0..TRIES {
        if register(0x0a) & UPDATING != 0 {
            continue;
        }
        let first = reading();
        if register(0x0a) & UPDATING == 0 && first == reading() {
            return decode(first, register(0x0b)).map_or(0, |seconds| seconds * 1_000_000_000);
        }
    }
    0
}

fn decode(raw: [u8; 7], mode: u8) -> Option<u64> {
    let number = |value: u8| if mode & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 15) };
    let [second, minute, hour, day, month, year, century] = raw;
    let afternoon = mode & HOURS_24 == 0 && hour & 0x80 != 0;
    let mut hour = u64::from(number(hour & 0x7f));
    if mode & HOURS_24 == 0 {
        hour = hour % 12 + if afternoon { 12 } else { 0 };
    }
    let century = match number(century) {
        century @ 19..=21 => u64::from(century),
        _ => 20,
    };
    let (year, month, day) =
        (century * 100 + u64::from(number(year)), u64::from(number(month)), u64::from(number(day)));
    let (minute, second) = (u64::from(number(minute)), u64::from(number(second)));
    if !(1970..2200).contains(&year)
        || !(1..=12).contains(&month)
        || !(1..=31).contains(&day)
        || hour > 23
        || minute > 59
        || second > 60
    {
        return None;
    }
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days from 1970-01-01, in the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin in March put the leap day last.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        // `date -u -d ... +%s`
        assert_eq!(decode([0x00, 0x00, 0x00, 0x01, 0x01, 0x70, 0x19], 0x02), Some(0));
        assert_eq!(decode([0x59, 0x59, 0x23, 0x29, 0x02, 0x24, 0x20], 0x02), Some(1_709_251_199));
        assert_eq!(decode([30, 15, 0x80 | 3, 21, 11, 26, 20], 0x04), Some(1_795_274_130));
    }

    #[test]
    fn nonsense_is_no_time() {
        assert_eq!(decode([0xff; 7], 0x02), None);
        assert_eq!(decode([0; 7], 0x02), None);
    }
}
