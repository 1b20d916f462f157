//! What is expected and what was found.

use core::fmt::Debug;

use bareguest::println;

/// Counts, and tells of each that is wrong.
#[derive(Default)]
pub struct Checks {
    done: u64,
    wrong: u64,
}

impl Checks {
    /// `found` has to be `expected`.
    pub fn same<T: PartialEq + Debug>(&mut self, what: &str, found: T, expected: T) {
        self.done += 1;
        if found != expected {
            self.wrong += 1;
            println!("wrong: {what}: {found:x?}, not {expected:x?}");
        }
    }

    /// How many there were.
    ///
    /// # Panics
    /// When one was wrong.
    pub fn end(&mut self) -> u64 {
        assert!(self.wrong == 0, "{} of {} checks are wrong", self.wrong, self.done);
        core::mem::take(&mut self.done)
    }
}
