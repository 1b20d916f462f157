//! The local APIC's registers, by the numbers of x2APIC's MSRs: as these (SDM 3A 10.12), or in memory where the CPUs have no
//! x2APIC (SDM 3A 10.4.1).
#![expect(unsafe_code, reason = "MSR and MMIO access")]

use core::sync::atomic::{AtomicU64, Ordering};

use machine::addr::{HostPhys, PAGE_SIZE};
use machine::mmio::MmioRegion;
use machine::paging::PagingError;

use crate::cpu;
use crate::mem::host_map;

/// IA32_APIC_BASE, and the address in it.
const APIC_BASE: u32 = 0x1b;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The MSR of register 0; each of the others has the number of its 16 bytes in memory.
const FIRST: u32 = 0x800;
/// The interrupt command register; in memory its high half is apart, 16 bytes on.
const ICR: u32 = 0x830;
const ICR_HIGH: u32 = 0x831;
/// ICR: the last message is not delivered yet, only in xAPIC mode.
const DELIVERY_STATUS: u64 = 1 << 12;
/// Polls of that: a message is on its way for less than a microsecond.
const POLLS: u32 = 100_000;

/// Where the registers lie; 0 in x2APIC mode.
static MEMORY: AtomicU64 = AtomicU64::new(0);

/// Finds out how the registers are reached: once in each image, when its page tables are in force.
///
/// # Errors
/// The registers can't be mapped.
pub fn find() -> Result<(), PagingError> {
    // x2APIC: CPUID 1, ECX 21.
    if cpu::cpuid(1, 0)[2] & 1 << 21 == 0 {
        // SAFETY: every x86-64 CPU has IA32_APIC_BASE.
        let base = unsafe { cpu::msr::read(APIC_BASE) } & ADDRESS;
        host_map::map_device(HostPhys(base), PAGE_SIZE)?;
        MEMORY.store(base, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether the registers are MSRs.
pub fn is_x2apic() -> bool {
    window().is_none()
}

/// The page with the registers, where they are in memory.
pub fn window() -> Option<HostPhys> {
    let base = MEMORY.load(Ordering::Relaxed);
    (base != 0).then_some(HostPhys(base))
}

fn in_memory(base: HostPhys) -> MmioRegion {
    // SAFETY: `find` has mapped the page, uncached; the LAPIC's registers touch no memory.
    unsafe { MmioRegion::new(base, PAGE_SIZE as usize) }
}

fn offset(register: u32) -> usize {
    (register.saturating_sub(FIRST) as usize) << 4
}

/// Reads a register.
pub fn read(register: u32) -> u64 {
    match window() {
        // SAFETY: `lapic::enable` has switched this pCPU to x2APIC mode, in which these MSRs exist.
        None => unsafe { cpu::msr::read(register) },
        Some(base) => in_memory(base).read_u32(offset(register)).into(),
    }
}

/// Writes a register.
pub fn write(register: u32, value: u64) {
    match window() {
        // SAFETY: as for `read`; the LAPIC's registers do not touch memory.
        None => unsafe { cpu::msr::write(register, value) },
        Some(base) => in_memory(base).write_u32(offset(register), value as u32),
    }
}

/// Sends the message `command` to the CPU with APIC id `target`. One that can't be sent because the last one is on its way
/// for ever is sent all the same: its sender waits for an answer, and not for ever.
pub fn write_command(target: u32, command: u64) {
    if is_x2apic() {
        write(ICR, u64::from(target) << 32 | command);
        return;
    }
    let _idle = (0..POLLS).any(|_| read(ICR) & DELIVERY_STATUS == 0);
    write(ICR_HIGH, u64::from(target) << 24);
    write(ICR, command);
}
