//! A guest that works on its disk and checks every byte, its own memory's too.
#![cfg_attr(target_os = "none", no_std, no_main)]

use bareguest::nvme::Nvme;
use bareguest::virtio::Virtio;
use bareguest::{guest, load, println};

guest!(run);

fn run(_: &str) {
    if let Some(disk) = Nvme::all().first_mut() {
        load::run(disk);
    }
    if let Some(disk) = &mut Virtio::find() {
        load::run(disk);
    }
    println!("guest failed: there is no disk");
}
