//! The local APIC: interprocessor interrupts, the timer. In x2APIC mode (SDM 3A 10.12) where the CPUs have that.
#![expect(unsafe_code, reason = "MSR access")]

use core::sync::atomic::{AtomicU64, Ordering};

use super::apic_registers::{self, read, write, write_command};
use crate::{cpu, time};

/// MSR numbers (SDM 3A table 10-6).
mod msr {
    pub const APIC_BASE: u32 = 0x1b;
    pub const ID: u32 = 0x802;
    pub const TPR: u32 = 0x808;
    pub const EOI: u32 = 0x80b;
    pub const SVR: u32 = 0x80f;
    pub const IRR: u32 = 0x820;
    pub const ESR: u32 = 0x828;
    pub const LVT_TIMER: u32 = 0x832;
    pub const LVT_LINT0: u32 = 0x835;
    pub const LVT_LINT1: u32 = 0x836;
    pub const LVT_ERROR: u32 = 0x837;
    pub const INITIAL_COUNT: u32 = 0x838;
    pub const CURRENT_COUNT: u32 = 0x839;
    pub const DIVIDE: u32 = 0x83e;
}

const MASKED: u64 = 1 << 16;
const DELIVERY_NMI: u64 = 4 << 8;
const DIVIDE_BY_1: u64 = 0b1011;

/// Interrupt vectors of the hypervisor itself; the range below is for devices.
pub mod vector {
    /// First vector that a device may get.
    pub const DEVICE_FIRST: u8 = 0x30;
    /// Last vector that a device may get.
    pub const DEVICE_LAST: u8 = 0xdf;
    /// Makes a pCPU look at its work.
    pub const KICK: u8 = 0xf0;
    /// The one-shot timer.
    pub const TIMER: u8 = 0xf1;
    /// An IOMMU has recorded a fault.
    pub const IOMMU_FAULT: u8 = 0xf2;
    /// The management NIC.
    pub const MANAGEMENT: u8 = 0xf3;
    /// Spurious (SDM 3A 10.9).
    pub const SPURIOUS: u8 = 0xff;
}

/// Switches this pCPU's LAPIC on, to x2APIC mode if it has that, with every local interrupt masked but NMI on LINT1.
pub fn enable() {
    // SAFETY: every x86-64 CPU has IA32_APIC_BASE; EN and EXTD are set one after the other as SDM 3A 10.12.5 asks, EXTD only
    // where CPUID announces it.
    unsafe {
        let base = cpu::msr::read(msr::APIC_BASE);
        cpu::msr::write(msr::APIC_BASE, base | 1 << 11);
        if apic_registers::is_x2apic() {
            cpu::msr::write(msr::APIC_BASE, base | 1 << 11 | 1 << 10);
        }
    }
    write(msr::TPR, 0);
    write(msr::LVT_TIMER, MASKED | u64::from(vector::TIMER));
    write(msr::LVT_LINT0, MASKED);
    write(msr::LVT_LINT1, DELIVERY_NMI);
    write(msr::LVT_ERROR, MASKED);
    write(msr::ESR, 0);
    write(msr::SVR, 1 << 8 | u64::from(vector::SPURIOUS));
}

/// This pCPU's APIC id.
pub fn id() -> u32 {
    let id = read(msr::ID) as u32;
    if apic_registers::is_x2apic() { id } else { id >> 24 }
}

/// The interrupt in service is done.
pub fn end_of_interrupt() {
    write(msr::EOI, 0);
}

/// Sends a fixed interrupt to the pCPU with APIC id `target`.
pub fn send(target: u32, vector: u8) {
    write_command(target, u64::from(vector));
}

/// Sends INIT to the pCPU with APIC id `target` (SDM 3A 10.6.1).
pub fn send_init(target: u32) {
    write_command(target, 0x4500);
}

/// Sends an NMI to the pCPU with APIC id `target`.
pub fn send_nmi(target: u32) {
    write_command(target, 1 << 14 | DELIVERY_NMI);
}

/// Makes LINT0 raise an NMI on this pCPU, or masks it again.
pub fn set_lint0_nmi(on: bool) {
    write(msr::LVT_LINT0, if on { DELIVERY_NMI } else { MASKED });
}

/// Sends a start-up IPI: the pCPU starts at `page`, which lies below 1 MiB.
pub fn send_startup(target: u32, page: u64) {
    write_command(target, 0x4600 | page >> 12);
}

/// Interrupts requested and not yet taken, among the vectors of devices: 64 in a word.
pub fn pending_device_vectors() -> [u64; 4] {
    let mut found = DEVICE_VECTORS;
    for (word, place) in (0..8).step_by(2).zip(&mut found) {
        *place &= (read(msr::IRR + word) & 0xffff_ffff) | read(msr::IRR + word + 1) << 32;
    }
    found
}

/// The vectors of devices, 64 in a word.
const DEVICE_VECTORS: [u64; 4] = {
    let mut words = [0; 4];
    let mut vector = vector::DEVICE_FIRST;
    while vector <= vector::DEVICE_LAST {
        words[vector as usize / 64] |= 1 << (vector % 64);
        vector += 1;
    }
    words
};

/// How many those are.
pub fn pending_device_interrupts() -> u64 {
    pending_device_vectors().iter().map(|word| u64::from(word.count_ones())).sum()
}

/// Starts the timer for a measurement; its count now.
pub fn start_measuring() -> u64 {
    write(msr::DIVIDE, DIVIDE_BY_1);
    write(msr::LVT_TIMER, MASKED | u64::from(vector::TIMER));
    write(msr::INITIAL_COUNT, 0xffff_ffff);
    read(msr::CURRENT_COUNT)
}

/// Ticks since [`start_measuring`] returned `start`.
pub fn measured(start: u64) -> u64 {
    start.saturating_sub(read(msr::CURRENT_COUNT))
}

/// Stops the timer.
pub fn stop_measuring() {
    write(msr::INITIAL_COUNT, 0);
}

/// Arms this pCPU's one-shot timer for the moment `deadline` of the TSC, or disarms it. A moment in the
/// past fires at once; one too far away fires early, and the caller arms it again.
pub fn set_deadline(deadline: Option<u64>) {
    let Some(deadline) = deadline else {
        write(msr::INITIAL_COUNT, 0);
        return;
    };
    let count = time::lapic_ticks(deadline.saturating_sub(cpu::tsc()));
    write(msr::DIVIDE, DIVIDE_BY_1);
    write(msr::LVT_TIMER, u64::from(vector::TIMER));
    write(msr::INITIAL_COUNT, count);
    ARMED.fetch_add(1, Ordering::Relaxed);
}

static ARMED: AtomicU64 = AtomicU64::new(0);

/// How often a timer was armed, for the metrics.
pub fn armed() -> u64 {
    ARMED.load(Ordering::Relaxed)
}
