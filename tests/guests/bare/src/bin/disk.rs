//! A guest that works on its NVMe disk and checks every byte, its own memory's too.
#![cfg_attr(target_os = "none", no_std, no_main)]

use bareguest::nvme::Nvme;
use bareguest::{guest, load, println};

guest!(run);

fn run(_: &str) {
    match Nvme::all().first_mut() {
        Some(disk) => load::run(disk),
        None => println!("guest failed: there is no NVMe disk"),
    }
}
