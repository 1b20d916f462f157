//! Why there are no virtual functions.

use crate::pci::{BarError, Bdf};
use core::fmt;

/// Virtual functions could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SriovError {
    /// The function has none to give.
    Unsupported {
        /// The physical function.
        device: Bdf,
    },
    /// It has not so many.
    Count {
        /// The physical function.
        device: Bdf,
        /// How many it can have.
        most: u16,
    },
    /// It has some already.
    Enabled {
        /// The physical function.
        device: Bdf,
    },
    /// They would have impossible names, or those of other functions or buses.
    Names {
        /// The physical function.
        device: Bdf,
        /// The number of the first that can't be, from 0.
        index: u16,
    },
    /// The port above can't reach function numbers beyond 7.
    Ari {
        /// The physical function.
        device: Bdf,
        /// The port.
        port: Bdf,
    },
    /// There is no room for their memory.
    Memory {
        /// The physical function.
        device: Bdf,
        /// The register, 0 to 5.
        bar: u8,
        /// Bytes for all of them.
        bytes: u64,
    },
    /// A BAR makes no sense, or did not take an address.
    Bar(BarError),
    /// One did not appear in time; all are disabled again.
    Lost {
        /// The virtual function.
        device: Bdf,
    },
}

impl fmt::Display for SriovError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported { device } => write!(f, "{device} has no virtual functions; remove it from [[sriov]]"),
            Self::Count { device, most } => write!(f, "{device} can have 1 to {most} virtual functions; correct `vfs`"),
            Self::Enabled { device } => write!(f, "{device} has its virtual functions already"),
            Self::Names { device, index } => write!(
                f,
                "virtual function {index} of {device} would need a bus number that is another's; choose fewer, or reserve \
                 buses for its slot in the firmware's setup"
            ),
            Self::Ari { device, port } => write!(
                f,
                "virtual functions of {device} are out of reach: port {port} has no ARI forwarding; move the card to \
                 another slot"
            ),
            Self::Memory { device, bar, bytes } => write!(
                f,
                "there is no room for {bytes:#x} bytes of BAR {bar} of the virtual functions of {device}; enable SR-IOV in \
                 the firmware's setup, or choose fewer"
            ),
            Self::Bar(error) => error.fmt(f),
            Self::Lost { device } => write!(f, "virtual function {device} does not appear; power-cycle the card"),
        }
    }
}

impl core::error::Error for SriovError {}

impl From<BarError> for SriovError {
    fn from(error: BarError) -> Self {
        Self::Bar(error)
    }
}
