//! Coverage-guided fuzzing without nightly: the compiler's stable flags put libFuzzer's counters in.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use baton_tests::paths;

use crate::tool;

/// The readers, as `tests/fuzz/src/lib.rs` names them.
const TARGETS: [&str; 8] = ["stream", "note", "dmar", "pci", "kernel", "cpio", "http", "toml"];
/// Counters at every edge, and comparisons, as `-fsanitize=fuzzer` has them.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                        -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks";
const HOST: &str = "x86_64-unknown-linux-gnu";

/// Fuzzes `target`, or every one, for so many seconds each. It starts from `tests/fuzz/corpus`; what it
/// finds stays in `target/fuzz/found`, from where the worth keeping is copied.
///
/// # Errors
/// A reader failed; libFuzzer's words and the input's file stand above.
pub fn run(target: Option<&str>, seconds: u32) -> Result<()> {
    let known = target.is_none_or(|target| TARGETS.contains(&target));
    ensure!(known, "there is no target {}: take one of {}", target.unwrap_or_default(), TARGETS.join(", "));
    let directory = paths::target("fuzz");
    let mut build = tool::cargo();
    build.args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "baton-fuzz",
        "--features",
        "libfuzzer",
        "--bin",
        "fuzz",
    ]);
    // With a target of its own, the flags do not reach build scripts and macros.
    build.args([
        "--target",
        HOST,
        "--config",
        "profile.release.lto=false",
        "--config",
        "profile.release.panic='unwind'",
    ]);
    build.arg("--target-dir").arg(&directory).env("RUSTFLAGS", COVERAGE);
    tool::run(&mut build)?;
    for name in TARGETS.iter().filter(|name| target.is_none_or(|target| target == **name)) {
        let corpus = paths::root().join("tests/fuzz/corpus").join(name);
        let found = directory.join("found").join(name);
        std::fs::create_dir_all(&found)?;
        let mut fuzz = Command::new(directory.join(HOST).join("release/fuzz"));
        fuzz.env("BATON_FUZZ", name)
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=5", "-print_final_stats=1"]);
        // New inputs go to the first directory; the corpus that is kept is the second.
        fuzz.arg(format!("-artifact_prefix={}/", directory.display())).arg(&found).arg(&corpus);
        let status = fuzz.status().context("the fuzzer can't be started")?;
        ensure!(status.success(), "{name}: a reader failed; the input lies in {}", directory.display());
    }
    Ok(())
}
