//! Port I/O.
#![expect(unsafe_code, reason = "IN, OUT")]

use crate::access::{Ports, Width};
use core::arch::asm;

macro_rules! port {
    ($($read:ident, $write:ident: $type:ty, $register:tt;)+) => {$(
        #[doc = concat!("IN of a `", stringify!($type), "`.")]
        ///
        /// # Safety
        /// Reading this port has no effect that breaks memory safety.
        #[must_use]
        pub unsafe fn $read(port: u16) -> $type {
            let value;
            // SAFETY: the caller's promise.
            unsafe { asm!(concat!("in ", $register, ", dx"), in("dx") port, out($register) value, options(nostack, preserves_flags)) }
            value
        }

        #[doc = concat!("OUT of a `", stringify!($type), "`.")]
        ///
        /// # Safety
        /// What the write makes the device do does not break memory safety.
        pub unsafe fn $write(port: u16, value: $type) {
            // SAFETY: the caller's promise.
            unsafe { asm!(concat!("out dx, ", $register), in("dx") port, in($register) value, options(nostack, preserves_flags)) }
        }
    )+};
}

port! {
    read8, write8: u8, "al";
    read16, write16: u16, "ax";
    read32, write32: u32, "eax";
}

/// A range of this machine's ports.
#[derive(Clone, Copy, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports from `first` to `last`, inclusive.
    ///
    /// # Safety
    /// The ports belong to a device that the holder drives, and no access to them
    /// breaks memory safety.
    #[must_use]
    pub const unsafe fn new(first: u16, last: u16) -> Self {
        Self { first, last }
    }

    fn holds(&self, port: u16, width: Width) -> bool {
        let end = u32::from(port) + u32::from(width.bytes());
        port >= self.first && end <= u32::from(self.last) + 1
    }
}

impl Ports for PortRange {
    fn read(&self, port: u16, width: Width) -> u32 {
        if !self.holds(port, width) {
            return width.all_ones();
        }
        // SAFETY: the port is in the range that the constructor's caller vouched for.
        unsafe {
            match width {
                Width::Byte => read8(port).into(),
                Width::Word => read16(port).into(),
                Width::Long => read32(port),
            }
        }
    }

    fn write(&self, port: u16, width: Width, value: u32) {
        if !self.holds(port, width) {
            return;
        }
        // SAFETY: as for reads.
        unsafe {
            match width {
                Width::Byte => write8(port, value as u8),
                Width::Word => write16(port, value as u16),
                Width::Long => write32(port, value),
            }
        }
    }
}
