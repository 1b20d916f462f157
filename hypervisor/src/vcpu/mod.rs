//! Virtual CPUs: one small trait, one neutral exit enum, one implementation per vendor.
//!
//! From the outside in:
//! - [`run`] enters a virtual CPU until something concerns its pCPU;
//! - [`handle`] answers each exit, once for all vendors, through the [`bus`];
//! - [`emulate`] decodes and performs what hardware leaves to software;
//! - [`cpu`] is what a vendor module implements: [`svm`] for AMD, [`vmx`] for Intel;
//! - [`sandbox`]: how a virtual CPU without a platform ends, in which the next image gets ready.

pub mod bus;
pub mod counters;
pub mod cpu;
pub mod emulate;
pub mod event;
pub mod exit;
pub mod frames;
pub mod handle;
pub mod limits;
pub mod msr;
pub mod run;
pub mod sandbox;
pub mod state;
pub mod svm;
pub mod vmx;
pub mod xstate;

mod hw;
#[cfg(test)]
mod testing;
