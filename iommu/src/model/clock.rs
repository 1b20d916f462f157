//! Time that passes when it is looked at.

use core::cell::Cell;
use machine::access::Clock;

/// Ten ticks to the millisecond; every look takes one.
#[derive(Debug, Default)]
pub struct ModelClock(Cell<u64>);

impl ModelClock {
    /// Lets time pass.
    pub fn advance(&self, ms: u64) {
        self.0.set(self.0.get() + ms * self.ticks_per_ms());
    }
}

impl Clock for ModelClock {
    fn ticks(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }

    fn ticks_per_ms(&self) -> u64 {
        10
    }
}
