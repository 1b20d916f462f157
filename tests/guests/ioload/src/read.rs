//! Threads that read a disk as fast as it goes and look at nothing: for what DMA costs.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

use anyhow::{Context, ensure};

/// Bytes of a request: the most that QEMU's controller takes in one command (MDTS 7, pages of 4 KiB).
const REQUEST_BYTES: usize = 512 << 10;

/// Memory of a request, aligned as O_DIRECT wants it.
#[repr(align(4096))]
struct Request([u8; REQUEST_BYTES]);

/// Reads the first `span_mib` of the disk over and over, with one request in flight per thread, until one fails.
pub fn run(disk: &Path, threads: usize, span_mib: u64) -> anyhow::Result<()> {
    let requests = (span_mib << 20) / REQUEST_BYTES as u64;
    ensure!(threads > 0 && requests >= threads as u64, "at least one thread, and a request for each, are needed");
    let readers: Vec<_> = (0..threads as u64)
        .map(|thread| {
            let disk = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECT)
                .open(disk)
                .with_context(|| format!("{} can't be opened with O_DIRECT", disk.display()))?;
            let numbers = (thread..requests).step_by(threads);
            Ok(thread::Builder::new().spawn(move || read(&disk, numbers))?)
        })
        .collect::<anyhow::Result<_>>()?;
    println!("ioload reads");
    for reader in readers {
        reader.join().ok().context("a reader panicked")??;
    }
    Ok(())
}

fn read(disk: &File, requests: impl Iterator<Item = u64> + Clone) -> anyhow::Result<()> {
    let mut buffer = Box::new(Request([0; REQUEST_BYTES]));
    loop {
        for number in requests.clone() {
            disk.read_exact_at(&mut buffer.0, number * REQUEST_BYTES as u64).context("the disk can't be read")?;
        }
    }
}
