//! The hypervisor: from a [`BootInfo`](boot_info::BootInfo) to running guests, and from one image to the next.
//!
//! - `boot_info`, `start`: what the entries found; power-on, step by step
//! - `cpu`, `trap`, `smp`, `time`, `console`: this machine's CPUs, interrupts, clocks, log
//! - `mem`: who owns which memory, and how it is reached; `modules`: what is kept of what the loader brought
//! - `vcpu`, `guest`: virtual CPUs and the platform around them
//! - `passthrough`: devices given to guests
//! - `sched`: what each pCPU does all day
//! - `bench`: measurements, in an image that is built for them only
//! - `config`: `baton.toml`
//! - `net`, `api`, `control`: the management NIC, HTTP and JSON, and what they reach
//! - `upgrade`: this image's replacement by the next
#![no_std]

extern crate alloc;

pub mod api;
#[cfg(feature = "bench")]
pub mod bench;
pub mod boot_info;
pub mod config;
pub mod console;
pub mod cpu;
pub mod firmware;
pub mod guest;
pub mod host;
pub mod machine_cpus;
pub mod manage;
pub mod mem;
pub mod modules;
pub mod net;
pub mod passthrough;
pub mod sched;
pub mod smp;
pub mod start;
pub mod time;
pub mod trap;
pub mod upgrade;
pub mod vcpu;
pub mod vm;

use boot_info::{BootInfo, Origin};

/// The hypervisor's life: never returns.
pub fn run(boot: BootInfo) -> ! {
    match boot.origin {
        Origin::Cold(ref cold) => start::cold(&boot, cold),
        Origin::Upgrade(block) => upgrade::ready::ready(&boot, block),
    }
}

/// A panic is our own fault. Before COMMIT it leads back to the image before; later it ends the machine.
pub fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    cpu::interrupts_off();
    upgrade::arrive::panicked(format_args!("{info}"));
    console::emergency(format_args!("baton: {info}"));
    upgrade::rescue::add_to_panic();
    cpu::halt_forever()
}
