//! Why PCI refuses.

use core::fmt;

use machine::pci::Bdf;

/// Why a function cannot be given to a guest, or its saved state cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciError {
    /// Nobody answers at this address.
    Absent(Bdf),
    /// A bridge or CardBus controller.
    NotAnEndpoint(Bdf),
    /// The capability list never ends.
    CapabilityLoop(Bdf),
    /// A capability lies outside configuration space.
    CapabilityOutside(Bdf, u16),
    /// A BAR has a size, address or place that no BAR can have.
    BadBar(Bdf, u8),
    /// The MSI-X table is not within a memory BAR.
    TableOutside(Bdf),
    /// The guest's bus is full.
    NoSlot(Bdf),
    /// The guest's windows have no room for this BAR.
    NoRoom(Bdf, u8),
    /// A saved state belongs to another function, or is damaged.
    State(Bdf, &'static str),
    /// A saved state knows a different number of functions.
    FunctionCount {
        /// In the record.
        record: usize,
        /// On this bus.
        present: usize,
    },
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(device) => write!(f, "no PCI function at {device}; check `devices` of the guest"),
            Self::NotAnEndpoint(device) => {
                write!(f, "{device} is a bridge; only endpoints can be assigned")
            }
            Self::CapabilityLoop(device) => {
                write!(f, "the capability list of {device} loops; the device is broken, don't assign it")
            }
            Self::CapabilityOutside(device, offset) => {
                write!(
                    f,
                    "{device} has a capability at {offset:#x} that does not fit; the device is broken, don't assign it"
                )
            }
            Self::BadBar(device, bar) => {
                write!(f, "BAR {bar} of {device} is not a legal memory BAR; don't assign the device")
            }
            Self::TableOutside(device) => {
                write!(
                    f,
                    "the MSI-X table of {device} is outside its memory BARs; the device is broken, don't assign it"
                )
            }
            Self::NoSlot(device) => write!(f, "no slot is left for {device}; assign at most 31 devices to a guest"),
            Self::NoRoom(device, bar) => {
                write!(
                    f,
                    "the guest's PCI window has no room for BAR {bar} of {device}; assign fewer or smaller devices"
                )
            }
            Self::State(device, what) => write!(
                f,
                "the record of {device} does not fit the device: {what}; the record is damaged or of another device"
            ),
            Self::FunctionCount { record, present } => {
                write!(
                    f,
                    "the record knows {record} PCI functions, the guest has {present}; the record is of another guest"
                )
            }
        }
    }
}
