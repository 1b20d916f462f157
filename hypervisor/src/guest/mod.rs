//! The platform a guest sees: interrupt controllers, console, PCI, clock, CPUID and MSR policy.
