//! Devices given to guests.
//!
//! - `units`: the machine's IOMMU units behind one lock
//! - `routes`: which unit translates for which device, from the DMAR table
//! - `inventory`: what is on the buses, its groups, and who has what
//! - `assign`: from a selector in `baton.toml` to a function on a guest's bus
//! - `hardware`: a function's configuration space, BARs and MSI-X table
//! - `entries`: remapping entries, from tables that grow
//! - `router`: a device's interrupts on their way to a guest
//! - `requests`: page requests are off
//! - `quarantine`: a device that faults too much is cut off
//! - `release`: a guest's end, for its devices
//! - `sriov`: virtual functions
//! - `nvme`: those of NVMe controllers, which need commands to come online

pub mod assign;
pub mod entries;
pub mod hardware;
pub mod inventory;
pub mod nvme;
pub mod quarantine;
pub mod release;
pub mod requests;
pub mod router;
pub mod routes;
pub mod sriov;
pub mod units;

pub use assign::{Assigned, Candidate, assign, find, reserve, withdraw};
