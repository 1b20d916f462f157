//! Why a function can't be reset, or was not.

use super::{PENDING_MS, READY_MS, RESET_MS};
use crate::pci::Bdf;
use core::fmt;

/// There is no way to reset a function that leaves others alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoReset {
    /// The function.
    pub device: Bdf,
    /// What would be reset with it and is another's; none if it is on a root bus.
    pub shared: Option<Bdf>,
}

impl fmt::Display for NoReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device;
        match self.shared {
            Some(other) => write!(
                f,
                "device {device} can't be reset without {other}: give both to the same guest, or move one to a slot of its own"
            ),
            None => write!(
                f,
                "device {device} can't be reset: it has no function level reset, and no bridge above it whose bus could be \
                 reset; move it to a slot behind a port, or choose another device"
            ),
        }
    }
}

impl core::error::Error for NoReset {}

/// A reset failed. The function must not be given to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetError {
    /// A function's requests did not complete; nothing was reset.
    Pending {
        /// The function.
        device: Bdf,
    },
    /// The link behind a port did not come up again.
    Link {
        /// The port.
        bridge: Bdf,
    },
    /// A function did not come back.
    Lost {
        /// The function.
        device: Bdf,
    },
}

impl fmt::Display for ResetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending { device } => {
                write!(f, "device {device} still has requests pending after {PENDING_MS} ms, it was not reset")
            }
            Self::Link { bridge } => write!(f, "the link behind {bridge} is still down {READY_MS} ms after its reset"),
            Self::Lost { device } => {
                write!(f, "device {device} does not answer {} ms after its reset", RESET_MS + READY_MS)
            }
        }?;
        f.write_str("; it stays blocked, power-cycle it")
    }
}

impl core::error::Error for ResetError {}
