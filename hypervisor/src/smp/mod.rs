//! The machine's CPUs.
//!
//! - `lapic`: the local APIC: interprocessor interrupts, the timer; `apic_registers`: how it is reached
//! - `pcpu`: what each physical CPU has of its own
//! - `start`: waking the others at power-on

pub mod apic_registers;
pub mod lapic;
pub mod pcpu;
pub mod start;
