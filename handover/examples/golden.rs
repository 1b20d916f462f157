//! Writes the golden blob of the newest format into a folder, once: a file that is there is never
//! overwritten. To be run by hand when a format is released (`version::RELEASED`), and the result committed:
//! `cargo run -p handover --example golden -- handover/golden`
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a tool run by hand")]

use std::io::Write;
use std::path::PathBuf;

#[path = "../tests/common/mod.rs"]
mod common;

fn main() {
    let folder = PathBuf::from(std::env::args().nth(1).expect("usage: golden FOLDER"));
    let path = folder.join(format!("v{}-machine.bin", handover::version::WRITES_MAX));
    let mut file = std::fs::File::create_new(&path).expect("a golden blob is written once and kept forever");
    file.write_all(&common::write(&common::sample())).unwrap();
    println!("{}", path.display());
}
