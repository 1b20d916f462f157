//! The LAPIC timer (SDM 3A 11.5.4). Its input clock is the guest's TSC.

use super::state::LapicTimerState;

/// How the timer LVT's bits 18:17 let it count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    Deadline,
    Reserved,
}

impl Mode {
    pub(super) const fn of_lvt(lvt: u32) -> Self {
        match lvt >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::Deadline,
            _ => Self::Reserved,
        }
    }
}

/// Counter and deadline; the LVT stays with the LAPIC. All times are TSC ticks of the guest.
#[derive(Clone, Debug)]
pub(super) struct Timer {
    /// As written to the divide configuration register: bits 3, 1, 0.
    divide: u32,
    initial: u32,
    /// When the timer fires next. In deadline mode, the MSR's value.
    deadline: Option<u64>,
    /// Shortest period in ticks: a guest must not keep its CPU busy with expiries alone.
    shortest_period: u64,
}

impl Timer {
    pub(super) const fn new(shortest_period: u64) -> Self {
        Self { divide: 0, initial: 0, deadline: None, shortest_period }
    }

    pub(super) fn reset(&mut self) {
        *self = Self::new(self.shortest_period);
    }

    /// TSC ticks per count (SDM 3A figure 11-10).
    const fn ticks_per_count(&self) -> u64 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        if code == 7 { 1 } else { 2 << code }
    }

    fn period(&self) -> u64 {
        // At most 32 + 7 bits.
        (u64::from(self.initial) * self.ticks_per_count()).max(self.shortest_period).max(1)
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    /// Changes the divider; a running count goes on at the new speed.
    pub(super) fn set_divide(&mut self, value: u32, mode: Mode, now: u64) {
        let remaining = self.current(mode, now);
        self.divide = value & 0b1011;
        if !matches!(mode, Mode::Deadline) && self.deadline.is_some() {
            self.deadline = Some(now.saturating_add(u64::from(remaining) * self.ticks_per_count()));
        }
    }

    /// Writes the initial count, which starts (or with 0 stops) the timer.
    pub(super) fn set_initial(&mut self, count: u32, mode: Mode, now: u64) {
        self.initial = count;
        self.deadline = match (count, mode) {
            (0, _) => None,
            (_, Mode::Periodic) => Some(now.saturating_add(self.period())),
            _ => Some(now.saturating_add(u64::from(count) * self.ticks_per_count())),
        };
    }

    /// What the current count register shows.
    pub(super) fn current(&self, mode: Mode, now: u64) -> u32 {
        match (mode, self.deadline) {
            (Mode::OneShot | Mode::Periodic, Some(deadline)) => {
                let counts = deadline.saturating_sub(now).div_ceil(self.ticks_per_count());
                u32::try_from(counts).unwrap_or(u32::MAX).min(self.initial)
            }
            _ => 0,
        }
    }

    /// The deadline MSR: zero when disarmed.
    pub(super) fn tsc_deadline(&self) -> u64 {
        self.deadline.unwrap_or(0)
    }

    /// Writes the deadline MSR; zero disarms.
    pub(super) fn set_tsc_deadline(&mut self, deadline: u64) {
        self.deadline = (deadline != 0).then_some(deadline);
    }

    /// The LVT went from `old` to `new`: between deadline mode and the others the timer is disarmed.
    pub(super) fn change_mode(&mut self, old: Mode, new: Mode) {
        if old != new && (old == Mode::Deadline || new == Mode::Deadline) {
            self.initial = 0;
            self.deadline = None;
        }
    }

    pub(super) const fn next_deadline(&self) -> Option<u64> {
        self.deadline
    }

    /// Whether the timer fired by `now`. A periodic timer that missed periods fires once.
    pub(super) fn expire(&mut self, mode: Mode, now: u64) -> bool {
        let Some(deadline) = self.deadline.filter(|deadline| *deadline <= now) else {
            return false;
        };
        self.deadline = match mode {
            Mode::Periodic => {
                let period = self.period();
                let missed = (now - deadline) / period;
                missed
                    .checked_add(1)
                    .and_then(|periods| periods.checked_mul(period))
                    .and_then(|ticks| deadline.checked_add(ticks))
            }
            _ => None,
        };
        true
    }

    pub(super) fn save(&self) -> LapicTimerState {
        LapicTimerState {
            deadline: self.deadline.unwrap_or(0),
            armed: u32::from(self.deadline.is_some()),
            initial: self.initial,
            divide: self.divide,
        }
    }

    pub(super) fn restore(&mut self, state: &LapicTimerState) {
        self.deadline = (state.armed != 0).then_some(state.deadline);
        self.initial = state.initial;
        self.divide = state.divide & 0b1011;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divider_codes() {
        // SDM 3A figure 11-10: 0000 2, 0001 4, 0010 8, 0011 16, 1000 32, 1001 64, 1010 128, 1011 1.
        for (code, ticks) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
            let mut timer = Timer::new(1);
            timer.set_divide(code, Mode::OneShot, 0);
            timer.set_initial(10, Mode::OneShot, 1000);
            assert_eq!(timer.next_deadline(), Some(1000 + 10 * ticks), "code {code}");
        }
    }

    #[test]
    fn one_shot_counts_down_and_stops() {
        let mut timer = Timer::new(1);
        timer.set_divide(0b1011, Mode::OneShot, 0);
        timer.set_initial(100, Mode::OneShot, 50);
        assert_eq!(timer.current(Mode::OneShot, 50), 100);
        assert_eq!(timer.current(Mode::OneShot, 149), 1);
        assert!(!timer.expire(Mode::OneShot, 149));
        assert!(timer.expire(Mode::OneShot, 150));
        assert_eq!(timer.current(Mode::OneShot, 151), 0);
        assert!(!timer.expire(Mode::OneShot, 1_000));
    }

    #[test]
    fn periodic_keeps_its_phase() {
        let mut timer = Timer::new(1);
        timer.set_divide(0b1011, Mode::Periodic, 0);
        timer.set_initial(100, Mode::Periodic, 0);
        assert!(timer.expire(Mode::Periodic, 100));
        assert_eq!(timer.next_deadline(), Some(200));
        assert!(timer.expire(Mode::Periodic, 555));
        assert_eq!(timer.next_deadline(), Some(600));
    }

    #[test]
    fn periodic_has_a_floor() {
        let mut timer = Timer::new(5_000);
        timer.set_initial(1, Mode::Periodic, 0);
        assert_eq!(timer.next_deadline(), Some(5_000));
    }

    #[test]
    fn the_end_of_time_stops_the_timer() {
        let mut timer = Timer::new(1);
        timer.set_initial(u32::MAX, Mode::Periodic, u64::MAX - 3);
        assert!(timer.expire(Mode::Periodic, u64::MAX));
        assert_eq!(timer.next_deadline(), None);
    }
}
