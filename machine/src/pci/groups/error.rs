//! Why a function can't be given away.

use super::Why;
use crate::pci::Bdf;
use alloc::vec::Vec;
use core::fmt;

/// Reasons that a message gives: a group of a large switch has one for each port.
const REASONS: usize = 3;

/// Why a function can't be given to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupError {
    /// There is no such function.
    Absent {
        /// Its name.
        device: Bdf,
    },
    /// It is a bridge.
    Bridge {
        /// The bridge.
        device: Bdf,
    },
    /// Others of its group have no owner or another one.
    Partial {
        /// The function.
        device: Bdf,
        /// Those that are missing.
        missing: Vec<Bdf>,
        /// What joins them.
        why: Vec<Why>,
    },
    /// Its root port does not check whose ids requests carry.
    Unvalidated {
        /// The function.
        device: Bdf,
        /// The root port.
        port: Bdf,
    },
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { device } => write!(f, "there is no device {device}; check the address in baton.toml"),
            Self::Bridge { device } => write!(f, "{device} is a bridge; assign the devices behind it instead"),
            Self::Partial { device, missing, why } => {
                write!(f, "device {device} can't be told apart from")?;
                for (index, member) in missing.iter().enumerate() {
                    write!(f, "{}{member}", if index == 0 { " " } else { ", " })?;
                }
                for (index, why) in why.iter().take(REASONS).enumerate() {
                    write!(f, "{}{why}", if index == 0 { ": " } else { ", " })?;
                }
                if why.len() > REASONS {
                    f.write_str(" and more")?;
                }
                f.write_str("; give all of them to this guest, or choose a device in a slot of its own")
            }
            Self::Unvalidated { device, port } => write!(
                f,
                "device {device} is behind root port {port}, which does not check whose id requests carry (no ACS source \
                 validation): it could pose as any device; move it to another slot"
            ),
        }
    }
}

impl core::error::Error for GroupError {}
