//! Tests of the page tables against walkers written from the manuals, not from
//! the formats under test.

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
        mod host { $(#[test] fn $test() { super::$test::<crate::paging::Host>() })+ }
        mod npt { $(#[test] fn $test() { super::$test::<crate::paging::Npt>() })+ }
        mod ept { $(#[test] fn $test() { super::$test::<crate::paging::Ept>() })+ }
        mod vtd { $(#[test] fn $test() { super::$test::<crate::paging::VtdSecondStage>() })+ }
    };
}
use for_every_format;
