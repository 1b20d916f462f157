//! Every check, in one count.

use std::time::Instant;

use anyhow::{Result, bail};
use baton_tests::cases::{self, Bed, Case};
use clap::ValueEnum;

use crate::{guest, image, lint, tool};

/// A part of the checks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Format, clippy, unit and property tests.
    Host,
    /// The project's own rules.
    Lint,
    /// The emulator.
    E2e,
}

/// What became of the checks.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    fn one(&mut self, name: &str, result: Result<()>, start: Instant) {
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok      {name} ({seconds:.1} s)");
            }
            Err(error) => {
                self.failed += 1;
                println!("FAILED  {name} ({seconds:.1} s)\n{error:#}");
            }
        }
    }
}

/// The end-to-end cases, a line each.
pub fn list() {
    for Case { name, about, .. } in cases::ALL {
        println!("{name:<20} {about}");
    }
}

/// Runs a part, or all of them; whether everything passed.
pub fn run(part: Option<Part>, case: Option<&str>, build: bool) -> Result<bool> {
    let wanted = |this| part.is_none_or(|part| part == this);
    if case.is_some() && part != Some(Part::E2e) {
        bail!("a case belongs to e2e: ./x test e2e {}", case.unwrap_or_default());
    }
    let mut count = Count::default();
    if wanted(Part::Lint) {
        let start = Instant::now();
        let result = lint::run().and_then(|fine| if fine { Ok(()) } else { bail!("see above") });
        count.one("lint", result, start);
    }
    if wanted(Part::Host) {
        host(&mut count);
    }
    if wanted(Part::E2e) {
        end_to_end(&mut count, case, build)?;
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(count.failed == 0)
}

fn host(count: &mut Count) {
    let start = Instant::now();
    count.one("format", tool::run(tool::cargo().args(["fmt", "--all", "--check"])).map(drop), start);
    let start = Instant::now();
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    count.one("clippy", tool::run(tool::cargo().args(clippy)).map(drop), start);
    let start = Instant::now();
    match tool::output(tool::cargo().args(["test", "--workspace", "--quiet", "--no-fail-fast"])) {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let (passed, failed) = totals(&text);
            count.passed += passed;
            count.failed += failed;
            println!("tests   {passed} passed, {failed} failed ({:.1} s)", start.elapsed().as_secs_f32());
            if !output.status.success() {
                println!("{text}{}", String::from_utf8_lossy(&output.stderr));
                // What doesn't compile has no totals.
                count.failed += usize::from(failed == 0);
            }
        }
        Err(error) => count.one("tests", Err(error), start),
    }
}

/// Sums the lines `test result: ok. 3 passed; 0 failed; ...`.
fn totals(text: &str) -> (usize, usize) {
    let results = text.lines().filter(|line| line.starts_with("test result: "));
    results.fold((0, 0), |(passed, failed), line| {
        let words: Vec<_> = line.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        let before = |name| {
            let at = words.iter().position(|word| *word == name);
            at.and_then(|at| words.get(at.checked_sub(1)?)?.parse::<usize>().ok()).unwrap_or(0)
        };
        (passed + before("passed"), failed + before("failed"))
    })
}

/// Cases that plant faults.
const WITH_FAULTS: [&str; 7] = ["faults", "triple-fault", "rollback-fault", "untouched", "soak", "cancel", "stop"];

fn end_to_end(count: &mut Count, wanted: Option<&str>, build: bool) -> Result<()> {
    let chosen: Vec<_> = cases::ALL.iter().filter(|case| wanted.is_none_or(|name| name == case.name)).collect();
    if chosen.is_empty() {
        bail!("there is no such case: ./x test e2e --list shows them");
    }
    if build {
        let start = Instant::now();
        let wants = |name| chosen.iter().any(|case| case.name == name);
        let faults = || if WITH_FAULTS.into_iter().any(wants) { image::build_fault() } else { Ok(()) };
        let releases = || if wants("versions") { image::build_releases() } else { Ok(()) };
        let built = image::build_with_guest().and_then(|()| faults()).and_then(|()| releases());
        let failed = built.is_err();
        count.one("images and guest", built, start);
        if failed {
            count.failed += chosen.len();
            return Ok(());
        }
        // A mirror that lacks them costs the one case that wants them.
        if wants("kernels") {
            let start = Instant::now();
            count.one("more kernels", guest::kernels::fetch(), start);
        }
    }
    let mut bed = Bed::default();
    for case in chosen {
        let start = Instant::now();
        let result = bed.run(case);
        count.one(&format!("e2e {}: {}", case.name, case.about), result, start);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::totals;

    #[test]
    fn results_are_summed() {
        let text = "running 3 tests\n...\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                    test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(totals(text), (13, 2));
        assert_eq!(totals("error: could not compile"), (0, 0));
    }
}
