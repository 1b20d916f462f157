//! What an exit costs, seen from the guest, in ticks of the TSC.
#![expect(unsafe_code, reason = "RDTSC, port access and the permission for it have no safe form")]

use core::arch::asm;
use core::arch::x86_64::{__cpuid, _rdtsc};
use std::hint::black_box;
use std::io;

use anyhow::Context;

/// CMOS index port: behind a hypervisor it is emulated or refused, never the machine's own; reading it changes nothing.
const PORT: u16 = 0x70;

fn ticks(rounds: u32, mut one: impl FnMut()) -> u64 {
    // SAFETY: RDTSC only reads a counter; Linux lets user space execute it.
    let start = unsafe { _rdtsc() };
    for _ in 0..rounds {
        one();
    }
    // SAFETY: as above.
    unsafe { _rdtsc() }.wrapping_sub(start)
}

fn port_read() {
    let value: u8;
    // SAFETY: `run` got the permission by iopl before it calls this, and reading this port changes nothing.
    unsafe { asm!("in al, dx", in("dx") PORT, out("al") value, options(nomem, nostack, preserves_flags)) };
    black_box(value);
}

/// Prints a line `bench NAME TICKS` for each measure, the empty loop subtracted.
pub fn run(rounds: u32) -> anyhow::Result<()> {
    // SAFETY: changes only this process's I/O privilege; it then touches no port but PORT.
    let result = unsafe { libc::iopl(3) };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("no permission for ports: run as root");
    }
    let rounds = rounds.max(1);
    let empty = ticks(rounds, || _ = black_box(0));
    let cpuid = ticks(rounds, || _ = black_box(__cpuid(black_box(0))));
    let port = ticks(rounds, port_read);
    for (name, total) in [("exit.cpuid", cpuid), ("exit.port_read", port)] {
        println!("bench {name} {}", total.saturating_sub(empty) / u64::from(rounds));
    }
    println!("bench done");
    Ok(())
}
