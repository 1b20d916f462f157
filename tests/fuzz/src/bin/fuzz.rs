//! libFuzzer over the target that `BATON_FUZZ` names; started by `./x fuzz`.
#![no_main]
#![expect(unsafe_code, reason = "libFuzzer calls the target by a C name, which the macro exports")]

use std::sync::LazyLock;

use baton_fuzz::{Target, find};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("BATON_FUZZ").unwrap_or_default();
    find(&name).unwrap_or_else(|| panic!("no target {name:?}: ./x fuzz --help"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.run)(bytes));
