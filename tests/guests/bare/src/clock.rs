//! Time by the TSC, whose rate the hypervisor tells (KVM's leaf 4000_0010: ticks per ms).

use machine::cpu::{ids, tsc};

/// Ticks of the TSC per millisecond, which is the local APIC timer's rate as well.
#[must_use]
pub fn khz() -> u64 {
    u64::from(ids::raw(0x4000_0010, 0).eax).max(1)
}

/// Nanoseconds since power-on.
#[must_use]
pub fn now_ns() -> u64 {
    (u128::from(tsc::now()) * 1_000_000 / u128::from(khz())) as u64
}
