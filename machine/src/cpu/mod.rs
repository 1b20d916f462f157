//! Instructions of the CPU, one topic per file: thin wrappers, no policy.
//!
//! They compile on the host too, where all but [`ids`], [`tsc`], [`cache`], [`crc`], [`random`] and
//! XGETBV fault: the hypervisor is ring 0, a test is not. A function is `unsafe`
//! where a wrong argument or moment can break memory safety, not merely where
//! it is privileged.

pub mod cache;
pub mod control;
pub mod crc;
pub mod ids;
pub mod interrupts;
pub mod msr;
pub mod port;
pub mod random;
pub mod tables;
pub mod tlb;
pub mod tsc;
pub mod xsave;
