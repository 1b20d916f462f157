//! The story: network boot, a Linux guest on a passed-through disk, Baton replaced three times under load,
//! two wrong images refused. Every figure comes from Baton's API, the guest's log or QEMU.
//!
//! - `report`: target/reports/demo.json
//! - `story`: what happens, in order
//! - `table`: the summary for people

mod report;
mod story;
mod table;

use std::fs;

use anyhow::Result;
use baton_tests::paths;

/// Whether every line of the story held.
pub fn run() -> Result<bool> {
    let demo = story::tell()?;
    let path = paths::target("reports/demo.json");
    fs::create_dir_all(paths::target("reports"))?;
    fs::write(&path, serde_json::to_string_pretty(&demo.report)? + "\n")?;
    print!("{}", table::summary(&demo));
    println!("\n{}: {}", if demo.report.ok { "ok" } else { "NOT ok" }, path.display());
    Ok(demo.report.ok)
}
