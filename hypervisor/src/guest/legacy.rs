//! What software pokes that was written for an old PC: enough to let it find nothing and go on, and
//! the ports that end a guest.

use guest_loader::layout::{POWER_OFF_VALUE, RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT};

/// A reset register apart from 0xCF9, for guests whose ACPI names it.
pub const ALTERNATE_RESET_PORT: u16 = 0x604;
/// What is written there to reset.
pub const ALTERNATE_RESET_VALUE: u8 = 1;

const PIT_HERTZ: u128 = 1_193_182;
const NS_PER_S: u128 = 1_000_000_000;
const CHANNELS: usize = 3;

/// A guest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// It switched itself off.
    Off,
    /// It wants to start again.
    Reset,
}

/// One channel of the interval timer. Numbers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PitChannelState {
    /// System time (ns) when the count was loaded.
    pub loaded_ns: u64,
    /// The count; 0 stands for 65536.
    pub reload: u16,
    /// The count when it was latched, if `is_latched`.
    pub latched: u16,
    /// 1 after a latch command, until it is read.
    pub is_latched: u8,
    /// Bits 5:4 of the control word: 1 low byte, 2 high byte, 3 both.
    pub access: u8,
    /// Bits 3:1 of the control word.
    pub mode: u8,
    /// 1 if the next read or write is the high byte, of both.
    pub high_next: u8,
    /// The low byte written, of both.
    pub low: u8,
}

/// All legacy registers. Numbers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LegacyState {
    /// The interval timer.
    pub pit: [PitChannelState; CHANNELS],
    /// CMOS address register.
    pub cmos_index: u8,
    /// Bits 1:0 of port 0x61.
    pub port_61: u8,
    /// Reads of port 0x61, for its refresh bit.
    pub refresh: u8,
}

/// The legacy ports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Legacy {
    state: LegacyState,
}

impl PitChannelState {
    /// Timer ticks since the count was loaded.
    fn elapsed(&self, now_ns: u64) -> u128 {
        u128::from(now_ns.saturating_sub(self.loaded_ns)) * PIT_HERTZ / NS_PER_S
    }

    fn period(&self) -> u128 {
        if self.reload == 0 { 0x1_0000 } else { u128::from(self.reload) }
    }

    fn count(&self, now_ns: u64) -> u16 {
        (self.period() - self.elapsed(now_ns) % self.period()) as u16
    }

    /// The output pin in mode 0: high once the count is done.
    fn is_done(&self, now_ns: u64) -> bool {
        self.elapsed(now_ns) >= self.period()
    }

    fn read(&mut self, now_ns: u64) -> u8 {
        let count = if self.is_latched != 0 { self.latched } else { self.count(now_ns) };
        let high = match self.access {
            1 => false,
            2 => true,
            _ => {
                self.high_next ^= 1;
                self.high_next == 0
            }
        };
        if self.high_next == 0 {
            self.is_latched = 0;
        }
        if high { (count >> 8) as u8 } else { count as u8 }
    }

    fn write(&mut self, value: u8, now_ns: u64) {
        match self.access {
            1 => self.reload = u16::from(value),
            2 => self.reload = u16::from(value) << 8,
            _ if self.high_next == 0 => {
                self.low = value;
                self.high_next = 1;
                return;
            }
            _ => {
                self.reload = u16::from(value) << 8 | u16::from(self.low);
                self.high_next = 0;
            }
        }
        self.loaded_ns = now_ns;
    }

    fn control(&mut self, value: u8, now_ns: u64) {
        let access = value >> 4 & 3;
        if access == 0 {
            if self.is_latched == 0 {
                self.latched = self.count(now_ns);
                self.is_latched = 1;
            }
            return;
        }
        *self = Self { access, mode: value >> 1 & 7, loaded_ns: now_ns, ..Self::default() };
    }
}

impl Legacy {
    /// Whether `port` is answered here.
    #[must_use]
    pub const fn owns_port(port: u16) -> bool {
        matches!(
            port,
            0x20 | 0x21 | 0xA0 | 0xA1 | 0x40
                ..=0x43
                    | 0x60
                    | 0x61
                    | 0x64
                    | 0x70
                    | 0x71
                    | 0x80
                    | 0x92
                    | 0xED
                    | SLEEP_CONTROL_PORT
                    | SLEEP_STATUS_PORT
                    | ALTERNATE_RESET_PORT
                    | RESET_PORT
        )
    }

    /// IN of one byte. `now_ns` is system time, `wall_ns` Unix time: most ports ask for neither.
    pub fn read(&mut self, port: u16, now_ns: impl FnOnce() -> u64, wall_ns: impl FnOnce() -> u64) -> u8 {
        match port {
            0x40..=0x42 => match self.state.pit.get_mut(usize::from(port - 0x40)) {
                Some(channel) => channel.read(now_ns()),
                None => 0xFF,
            },
            0x61 => {
                self.state.refresh ^= 0x10;
                let done = self.state.pit.last().is_some_and(|channel| channel.is_done(now_ns()));
                self.state.port_61 | self.state.refresh & 0x10 | if done { 0x20 } else { 0 }
            }
            0x71 => cmos(self.state.cmos_index, wall_ns()),
            // A20 is open.
            0x92 => 0x02,
            SLEEP_CONTROL_PORT | SLEEP_STATUS_PORT | ALTERNATE_RESET_PORT | RESET_PORT => 0,
            // No 8259 (its mask does not read back), no 8042.
            _ => 0xFF,
        }
    }

    /// OUT of one byte; `now_ns` is system time.
    #[must_use = "the guest may have ended"]
    pub fn write(&mut self, port: u16, value: u8, now_ns: impl FnOnce() -> u64) -> Option<PowerEvent> {
        match port {
            0x40..=0x42 => {
                if let Some(channel) = self.state.pit.get_mut(usize::from(port - 0x40)) {
                    channel.write(value, now_ns());
                }
            }
            0x43 => {
                // Channel 3 is the read-back command of the 8254, which nobody needs here.
                if let Some(channel) = self.state.pit.get_mut(usize::from(value >> 6)) {
                    channel.control(value, now_ns());
                }
            }
            0x61 => {
                let gate_rises = !self.state.port_61 & value & 1 != 0;
                self.state.port_61 = value & 3;
                if gate_rises && let Some(channel) = self.state.pit.last_mut() {
                    channel.loaded_ns = now_ns();
                }
            }
            0x70 => self.state.cmos_index = value & 0x7F,
            // The keyboard controller's pulse of the reset line.
            0x64 if value == 0xFE => return Some(PowerEvent::Reset),
            0x92 if value & 1 != 0 => return Some(PowerEvent::Reset),
            SLEEP_CONTROL_PORT if value == POWER_OFF_VALUE => return Some(PowerEvent::Off),
            ALTERNATE_RESET_PORT if value == ALTERNATE_RESET_VALUE => {
                return Some(PowerEvent::Reset);
            }
            // Chipsets reset on the rising edge of bit 2; nobody sets it for anything else.
            RESET_PORT if value & 0x04 == RESET_VALUE & 0x04 => return Some(PowerEvent::Reset),
            _ => {}
        }
        None
    }

    /// All registers.
    #[must_use]
    pub const fn save(&self) -> LegacyState {
        self.state
    }

    /// Continues from `state`; every value is harmless.
    pub fn restore(&mut self, state: &LegacyState) {
        self.state = *state;
        self.state.port_61 &= 3;
        for channel in &mut self.state.pit {
            channel.high_next &= 1;
        }
    }
}

/// The real-time clock (MC146818), BCD and 24 hours; the rest of CMOS is empty.
fn cmos(index: u8, wall_ns: u64) -> u8 {
    let seconds = wall_ns / 1_000_000_000;
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let bcd = |value: u64| (((value % 100 / 10) << 4) | (value % 10)) as u8;
    match index {
        0x00 => bcd(second_of_day % 60),
        0x02 => bcd(second_of_day / 60 % 60),
        0x04 => bcd(second_of_day / 3600),
        // 1970-01-01 was a Thursday; Sunday is 1.
        0x06 => bcd((days + 4) % 7 + 1),
        0x07 => bcd(day),
        0x08 => bcd(month),
        0x09 => bcd(year),
        0x0A => 0x26,
        0x0B => 0x02,
        0x0D => 0x80,
        0x32 => bcd(year / 100),
        _ => 0,
    }
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
const fn civil(days: u64) -> (u64, u64, u64) {
    // Years start in March here, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn linux_finds_no_8259() {
        // probe_8259A(): the mask written must read back.
        let mut legacy = Legacy::default();
        assert_eq!(legacy.write(0xA1, 0xFF, || 0), None);
        assert_eq!(legacy.write(0x21, 0xFB, || 0), None);
        assert_eq!(legacy.read(0x21, || 0, || 0), 0xFF);
        assert_eq!(legacy.read(0x64, || 0, || 0), 0xFF);
    }

    #[test]
    fn ends_of_a_guest() {
        let mut legacy = Legacy::default();
        for (port, value, event) in [
            (0x600, 0x34, Some(PowerEvent::Off)),
            (0x600, 0x14, None),
            (0x600, 0x20, None),
            (0x604, 1, Some(PowerEvent::Reset)),
            (0xCF9, 0x02, None),
            (0xCF9, 0x06, Some(PowerEvent::Reset)),
            (0xCF9, 0x0E, Some(PowerEvent::Reset)),
            (0x64, 0xFE, Some(PowerEvent::Reset)),
            (0x64, 0xD1, None),
            (0x92, 0x02, None),
            (0x92, 0x03, Some(PowerEvent::Reset)),
            (0x80, 0xFF, None),
        ] {
            assert_eq!(legacy.write(port, value, || 0), event, "{port:#x} {value:#x}");
        }
    }

    #[test]
    fn real_time_clock() {
        // 2026-02-28T23:59:58Z is 1772323198 (date -u -d).
        let time = 1_772_323_198_000_000_000;
        let expected =
            [(0, 0x58), (2, 0x59), (4, 0x23), (6, 7), (7, 0x28), (8, 0x02), (9, 0x26), (0x32, 0x20), (0x0D, 0x80)];
        let mut legacy = Legacy::default();
        for (index, value) in expected {
            assert_eq!(legacy.write(0x70, 0x80 | index, || 0), None);
            assert_eq!(legacy.read(0x71, || 0, || time), value, "{index:#x}");
        }
        // 2024-02-29 and 2000-03-01 are days 19782 and 11017.
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(0), (1970, 1, 1));
    }

    #[test]
    fn timer_counts_down_for_calibration() {
        // pit_calibrate_tsc(): gate on, mode 0, 11932 ticks (10 ms), then wait for bit 5 of 0x61.
        let mut legacy = Legacy::default();
        for (port, value) in [(0x61, 0x01), (0x43, 0xB0), (0x42, 0x9C), (0x42, 0x2E)] {
            assert_eq!(legacy.write(port, value, || 1_000), None);
        }
        assert_eq!(legacy.read(0x61, || 9_000_000, || 0) & 0x21, 0x01);
        assert_eq!(legacy.read(0x61, || 10_010_000, || 0) & 0x21, 0x21);
        // Half way: 11932 - 5965 = 5967 = 0x174F.
        assert_eq!(legacy.write(0x43, 0x80, || 5_001_000), None);
        assert_eq!(legacy.read(0x42, || 6_000_000, || 0), 0x4F);
        assert_eq!(legacy.read(0x42, || 7_000_000, || 0), 0x17);
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in proptest::collection::vec((any::<bool>(), any::<u16>(), any::<u8>(), any::<u64>()), 1..200)) {
            let mut legacy = Legacy::default();
            for (write, port, value, now) in accesses {
                for port in [port, 0x40 + (port & 3), 0x61, 0x70 + (port & 1)] {
                    if write { let _ = legacy.write(port, value, || now); } else { legacy.read(port, || now, || now.rotate_left(7)); }
                }
            }
            let state = legacy.save();
            legacy.restore(&state);
            prop_assert_eq!(legacy.save(), state);
        }
    }
}
