//! Single root I/O virtualization: PCIe 9.
//!
//! - `capability`: what a physical function says about its virtual ones, and which there are
//! - `enable`: making them, and taking them back
//! - `place`: room for their memory in the windows of the bridge above
//! - `error`: why there are none
//!
//! A virtual function's configuration space has neither ids nor BARs: both are the physical function's to say.

mod capability;
mod enable;
mod error;
mod place;
#[cfg(test)]
mod tests;

pub use capability::Sriov;
pub use enable::VirtualFunction;
pub use error::SriovError;
pub use place::{Room, Windows};

/// Offsets in the capability, PCIe 9.3.3.
mod at {
    pub const CONTROL: u16 = 0x08;
    pub const INITIAL: u16 = 0x0c;
    pub const TOTAL: u16 = 0x0e;
    pub const COUNT: u16 = 0x10;
    pub const FIRST: u16 = 0x14;
    pub const STRIDE: u16 = 0x16;
    pub const DEVICE: u16 = 0x1a;
    pub const PAGES_SUPPORTED: u16 = 0x1c;
    pub const PAGE_SIZE: u16 = 0x20;
    pub const BAR0: u16 = 0x24;
    /// Bytes in all.
    pub const BYTES: u16 = 0x40;
}

/// Bits of the control register, PCIe 9.3.3.3.
mod control {
    /// The virtual functions exist.
    pub const ENABLE: u16 = 1 << 0;
    /// They answer to their BARs.
    pub const MEMORY: u16 = 1 << 3;
    /// Function numbers beyond 7 reach the device. In the lowest physical function of a device, for all.
    pub const ARI: u16 = 1 << 4;
}
