//! AMD's SVM (APM2 chapter 15).
//!
//! - [`features`]: what the CPU has; [`enable`]: SVM on and off, per pCPU;
//! - [`vmcb`]: the format; [`permissions`]: the I/O and MSR bitmaps;
//! - [`entry`]: the world switch; [`exits`]: exit codes to neutral words; [`cpu`]: the virtual CPU.

pub mod cpu;
pub mod enable;
pub mod entry;
pub mod exits;
pub mod features;
pub mod permissions;
pub mod vmcb;

mod convert;
mod save;
