//! A guest that looks at the functions it was given, again and again, and tells when one is not what it was.
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

use alloc::vec::Vec;

use bareguest::{devices, guest, interrupts, println};
use machine::mmio::MmioRegion;
use machine::pci::{Bdf, ConfigSpace};

guest!(run);

/// A register that does not change by itself (82576: STATUS).
const STATUS: usize = 8;
const INTERVAL_MS: u64 = 250;

fn run(_: &str) {
    let config = devices::config();
    let slots = (1..32).map(|slot| Bdf::from_requester_id(0, slot << 3));
    let functions: Vec<(Bdf, u32, MmioRegion, u32)> = slots
        .filter_map(|bdf| {
            let identity = config.read32(bdf, 0);
            (identity != u32::MAX).then(|| {
                let registers = devices::enable(&config, bdf);
                (bdf, identity, registers, registers.read_u32(STATUS))
            })
        })
        .collect();
    for (bdf, identity, registers, status) in &functions {
        let (vendor, device) = (identity & 0xffff, identity >> 16);
        println!("function {bdf} {vendor:04x}:{device:04x} at {} status {status:#x}", registers.base());
    }
    for beat in 0u64.. {
        let changed = functions.iter().filter(|(bdf, identity, registers, status)| {
            config.read32(*bdf, 0) != *identity || registers.read_u32(STATUS) != *status
        });
        println!("functions: {} beat {beat} changed {}", functions.len(), changed.count());
        interrupts::sleep_ms(INTERVAL_MS);
    }
}
