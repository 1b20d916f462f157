//! AMD's SVM (APM2 chapter 15).
//!
//! - [`features`]: what the CPU has; [`enable`]: SVM on and off, per pCPU;
//! - [`vmcb`]: the format; [`permissions`]: the I/O and MSR bitmaps;
//! - [`entry`]: the world switch; [`exits`]: exit codes to neutral words; [`cpu`]: the virtual CPU;
//! - [`sandbox`]: the virtual CPU in which the next image gets ready.

pub mod cpu;
pub mod enable;
pub mod entry;
pub mod exits;
pub mod features;
pub mod permissions;
pub mod sandbox;
pub mod vmcb;

mod convert;
mod save;
