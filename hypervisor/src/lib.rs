//! The hypervisor: from a [`BootInfo`](boot_info::BootInfo) to running guests, and from one image to the next.
#![no_std]

extern crate alloc;

pub mod api;
pub mod config;
pub mod guest;
pub mod net;
pub mod vcpu;
