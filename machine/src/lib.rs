//! The machine as every other crate sees it: addresses, physical memory and
//! register access, CPU instructions, PCI configuration space, firmware tables
//! and one page-table core. A leaf: it depends on nothing of ours.
//!
//! Principles of this crate:
//! - addresses of different spaces are different types;
//! - what touches hardware is reached through a trait, so that every piece of
//!   logic also runs on the host against a model;
//! - firmware tables are allegations: every length is checked before it is used.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod access;
pub mod acpi;
pub mod addr;
pub mod cpu;
pub mod mmio;
pub mod paging;
pub mod pci;
pub mod sorted;
