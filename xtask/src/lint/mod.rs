//! The project's own rules, which no other tool knows.
//!
//! - `abi`: a released record never changes (HANDOVER.md, format)
//! - `behaviours`: each of HANDOVER.md has a test, and docs/handover.md says which
//! - `arrows`: who may depend on whom (DESIGN.md, layout)
//! - `words`: what must not stand in a tracked file
//! - sizes: a file is one idea, mostly under 400 lines; more is only mentioned

pub mod abi;
mod arrows;
mod behaviours;
mod words;

use std::fs;
use std::process::Command;

use anyhow::Result;
use baton_tests::paths;

use crate::tool;

const LONG: usize = 400;

/// Checks everything; prints what is wrong.
pub fn run() -> Result<bool> {
    let files = tracked()?;
    let mut wrong = arrows::check()?;
    wrong.extend(abi::check());
    wrong.extend(behaviours::check(&files));
    for (path, text) in &files {
        wrong.extend(words::check(path, text));
        let lines = text.lines().count();
        if path.ends_with(".rs") && lines > LONG {
            println!("lint: {path} has {lines} lines: is it one idea?");
        }
    }
    for line in &wrong {
        println!("lint: {line}");
    }
    println!("lint: {} files, {} broken rules", files.len(), wrong.len());
    Ok(wrong.is_empty())
}

/// Text files that git tracks, with their content.
fn tracked() -> Result<Vec<(String, String)>> {
    let names = tool::run(Command::new("git").args(["ls-files", "-z"]).current_dir(paths::root()))?;
    let names = names.split('\0').filter(|name| !name.is_empty() && *name != "Cargo.lock");
    // What is no text, or was deleted a moment ago, has no words.
    Ok(names.filter_map(|name| Some((name.to_owned(), fs::read_to_string(paths::root().join(name)).ok()?))).collect())
}
