//! PCI and PCI Express: names of functions, configuration space, what is there,
//! what it can do, and whether it can be given away safely.
//!
//! Configuration space is firmware's and the devices' word: every walk here is
//! bounded, and what is malformed counts as absent.

mod bar;
mod bdf;
mod capability;
mod config;
mod decode;
mod ecam;
mod enumerate;
mod express;
mod extended;
mod groups;
mod header;
mod legacy;
mod line;
#[cfg(test)]
pub(crate) mod model;
mod msi;
mod reset;
mod sriov;
#[cfg(test)]
mod tests;
mod translation;

pub use bar::{Bar, BarError, BarKind, bars};
pub use bdf::{Bdf, ParseBdfError};
pub use capability::{Capabilities, Capability, ExtendedCapabilities, capabilities, extended_capabilities};
pub use capability::{find, find_extended, id};
pub use config::ConfigSpace;
pub use decode::{BarClash, Decoded, Holder, check_bars};
pub use ecam::{Ecam, EcamRegion};
pub use enumerate::{Buses, Enumeration, Function, Oddity, enumerate};
pub use express::{Express, PortType};
pub use extended::{Acs, Ari};
pub use groups::{Group, GroupError, Groups, Why, enable_acs};
pub use header::{Class, Command, HeaderKind, Ids};
pub use legacy::LegacyConfig;
pub use line::line_only;
pub use msi::{Location, Msi, Msix};
pub use reset::{NoReset, Reset, ResetError, ResetWay, SavedConfig};
pub use sriov::{Room, Sriov, SriovError, VirtualFunction, Windows};
pub use translation::{Ats, Pasid, Pri, TranslationError};
