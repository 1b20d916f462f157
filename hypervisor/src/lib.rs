//! The hypervisor.
#![no_std]
