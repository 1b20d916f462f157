//! The IOMMU: which device reaches which memory, and which interrupts it may raise.
//!
//! Principles of this crate:
//! - A device that is not attached to a domain reaches nothing; an interrupt that no
//!   entry allows to its very sender is blocked. Both leave a fault in the log.
//! - There are two ways to a unit: [`Iommu::init_cold`] at power-on and
//!   [`Iommu::adopt`] in an upgrade. The second writes nothing, neither a register nor memory.
//! - What hardware may still hold is not reused: tables are freed, domain ids and
//!   interrupt entries given to others only after an invalidation that completed.
//! - Every wait on hardware is bounded and its result is used.
//! - An entry that hardware may read is written in one store, and complete before it is linked.
//! - Registers, memory and time are reached through `machine::access`, so that all of this
//!   runs on the host against [`model`], which keeps stale translations as hardware does.
//!
//! Contents:
//! - [`Iommu`] (`fleet`): all units; `geometry`: what they have in common; `mapping`: domains; `forget`: what
//!   they say no longer; `devices` and `pasids`: attaching; `quarantine`: cutting off; `nested`: domains without a
//!   table of ours; `inspect`: what devices really reach; `snapshot` and `adopt`: handover
//! - `interrupts`: remapping entries; `sources`: who may use them; `posted`: where they are noted
//! - [`Domain`]: an address space; `table`: first stage, second stage, neither
//! - [`state`]: what a handover carries, as plain structures
//! - [`intel`]: VT-d; [`intel::spec`]: its manual as data
//! - [`model`]: a VT-d unit in software, for tests
//!
//! The locking is the caller's: every operation takes `&mut`.

#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod adopt;
mod devices;
mod domain;
mod error;
mod fleet;
mod forget;
mod geometry;
mod ids;
mod inspect;
pub mod intel;
mod interrupts;
mod ledger;
mod mapping;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod nested;
mod pasids;
mod platform;
mod posted;
mod quarantine;
mod routes;
mod snapshot;
mod sources;
pub mod state;
mod table;
#[cfg(test)]
mod tests;

pub use domain::Domain;
pub use error::Error;
pub use fleet::Iommu;
pub use geometry::Geometry;
pub use ids::{Token, UnitIndex};
pub use intel::cold::{InterruptRegion, UnitConfig, extended_interrupts, register_bytes};
pub use intel::fault::{Access, Fault};
pub use intel::fault_log::{FaultLine, FaultLog, SourceCount};
pub use intel::mode::{Mode, Preference};
pub use intel::queue::QueueErrors;
pub use intel::remap::{InterruptTarget, msi_message, redirection_entry};
pub use intel::unit::FaultEvent;
pub use interrupts::InterruptRange;
pub use machine::pci::Bdf;
pub use platform::Platform;
pub use posted::PostedDescriptor;
pub use routes::Route;
pub use sources::InterruptSource;
pub use table::Stage;
