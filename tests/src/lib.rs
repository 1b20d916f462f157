//! The emulator harness and the end-to-end cases. Nothing here runs an emulator by `cargo test`: `./x test e2e` does.
//!
//! - `paths`: where everything lies in the work tree
//! - `spec`: a QEMU machine as TESTBEDS describes it, and its command line
//! - `machine`: the same when it runs, until it is killed
//! - `bochs`: the other emulator, where VMX is
//! - `qmp`: QEMU's monitor
//! - `bus`: the machine's bus from outside
//! - `log`: serial logs and traces, waited for by condition
//! - `keys`: the key that the tests' images are signed by
//! - `config`: the `baton.toml` of the tests
//! - `guest_log`: what the guest's load program prints
//! - `outside`: what QEMU says about the IOMMU and the disk, against what Baton says
//! - `tables`: the IOMMU's structures in memory, read from outside
//! - `images`: images that are wrong in a known way
//! - `witness`: one upgrade, watched from all sides
//! - `wire`: the other end of a network card's wire
//! - `soak`: upgrades of every kind, again and again
//! - `cases`: the end-to-end cases
#![forbid(unsafe_code)]

pub mod bochs;
pub mod bus;
pub mod cases;
pub mod config;
pub mod guest_log;
pub mod images;
pub mod keys;
pub mod log;
pub mod machine;
pub mod outside;
pub mod paths;
pub mod qmp;
pub mod soak;
pub mod spec;
pub mod tables;
pub mod wire;
pub mod witness;
