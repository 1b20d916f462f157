//! The platform a guest sees. Pure logic: hardware is reached only through traits.
//!
//! - [`platform`]: the whole machine of a guest, and the [`Bus`](crate::vcpu::bus::Bus) of each vCPU.
//! - [`message`]: interrupt messages and the lock-free fabric that brings them to the vCPUs.
//! - [`lapic`], [`ioapic`]: interrupt controllers.
//! - [`pci`]: the PCI bus with the assigned functions.
//! - [`uart`], [`clock`], [`legacy`]: console, kvmclock, ports of an old PC.
//! - [`cpuid`], [`msr`]: policy.

pub mod clock;
pub mod cpuid;
pub mod ioapic;
pub mod lapic;
pub mod legacy;
pub mod message;
pub mod msr;
pub mod pci;
pub mod platform;
pub mod uart;
