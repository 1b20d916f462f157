//! The platform a guest sees: interrupt controllers, console, PCI, clock, CPUID and MSR policy.

pub mod clock;
pub mod cpuid;
pub mod ioapic;
pub mod lapic;
pub mod legacy;
pub mod message;
pub mod msr;
pub mod pci;
pub mod uart;
