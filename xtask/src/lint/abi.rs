//! A released record never changes: the layouts that the types have now, against those that were written down for each
//! format in `handover/abi/`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use baton_tests::paths;
use handover::{abi, version};

fn file(format: u16) -> PathBuf {
    paths::root().join(format!("handover/abi/format-{format}.txt"))
}

/// Where types and files differ.
pub fn check() -> Vec<String> {
    (1..=version::WRITES_MAX)
        .filter_map(|format| {
            let written = fs::read_to_string(file(format)).unwrap_or_default();
            judge(format, format <= version::RELEASED, &written, &abi::table(format))
        })
        .collect()
}

fn judge(format: u16, released: bool, written: &str, now: &str) -> Option<String> {
    let mut record = "";
    let mut left = written.lines();
    for line in now.lines() {
        if !line.starts_with(' ') {
            record = line;
        }
        let before = left.next();
        if before != Some(line) {
            return Some(complaint(format, released, record, before.unwrap_or("nothing"), line));
        }
    }
    left.next().map(|before| complaint(format, released, record, before, "nothing"))
}

fn complaint(format: u16, released: bool, record: &str, before: &str, now: &str) -> String {
    let remedy = if released {
        "it was released: leave it, append fields at the end under a new version ({1: bytes, 2: more bytes}), or take a new kind"
    } else {
        "it was not released yet: ./x abi writes it down, handover/CHANGELOG.md and docs/handover.md want a line"
    };
    format!("handover format {format} differs in or after {record}: {:?} was {:?}; {remedy}", now.trim(), before.trim())
}

/// Writes down what is not released.
///
/// # Errors
/// A file can't be written.
pub fn write() -> Result<()> {
    for format in version::RELEASED + 1..=version::WRITES_MAX {
        let path = file(format);
        fs::write(&path, abi::table(format)).with_context(|| format!("{} can't be written", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const THEN: &str = "0x0001 \"mark\" version 1, 8 bytes\n      0 a: u32\n      4 b: u32\n";

    #[test]
    fn any_change_is_found() {
        assert_eq!(judge(1, true, THEN, THEN), None);
        for (other, words) in [
            (THEN.replace("b: u32", "b: i32"), "4 b: i32"),
            (THEN.replace("8 bytes", "16 bytes"), "16 bytes"),
            (format!("{THEN}      8 c: u64\n"), "8 c: u64"),
            (THEN.replace("      4 b: u32\n", ""), "nothing"),
        ] {
            let complaint = judge(1, true, THEN, &other).expect("a change");
            assert!(
                complaint.contains(words) && complaint.contains("mark") && complaint.contains("released"),
                "{complaint}"
            );
        }
    }

    /// The tables are made of the types: a field that is moved or retyped moves a line.
    #[test]
    fn the_table_names_every_field() {
        let table = abi::table(1);
        assert!(table.contains(
            "0x0401 \"device\" version 1, plan, critical, 72 bytes\n      0 domain: u64\n      8 owner: u64\n"
        ));
        assert!(table.contains("     16 bdf: u32\n"));
        assert!(table.contains("     68 reserved: [u8; 4]\n"));
        assert_eq!(abi::table(0), "");
    }
}
