//! Tests of the page tables against walkers written from the manuals, not from
//! the formats under test.

mod dirty;
mod exhaustion;
mod history;
mod memory;
mod oracle;
mod ranges;
mod vectors;
mod walker;

/// Runs a generic test for each format.
macro_rules! for_every_format {
    ($($test:ident),+ $(,)?) => {
        mod host { $(#[test] fn $test() { super::$test::<super::super::walker::Host>() })+ }
        mod npt { $(#[test] fn $test() { super::$test::<super::super::walker::Npt>() })+ }
        mod ept { $(#[test] fn $test() { super::$test::<super::super::walker::Ept>() })+ }
        mod second_stage { $(#[test] fn $test() { super::$test::<super::super::walker::SecondStage>() })+ }
        mod first_stage { $(#[test] fn $test() { super::$test::<super::super::walker::FirstStage>() })+ }
    };
}
use for_every_format;
