//! The management NIC and its TCP/IP stack.
//!
//! - [`nic`]: what a driver offers; [`dma`]: the memory it shares with its device.
//! - [`e1000e`]: the driver of the Intel 82574.
//! - [`stack`]: TCP/IP over a NIC, by smoltcp; `device` joins the two; [`address`]: where its address comes from.
//! - [`channel`]: the byte stream that HTTP is written against; TLS will be another one.

pub mod address;
pub mod channel;
mod device;
pub mod dma;
pub mod e1000e;
pub mod nic;
pub mod stack;

#[cfg(test)]
pub(crate) mod loopback;
#[cfg(test)]
mod stack_tests;
