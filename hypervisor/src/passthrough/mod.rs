//! Devices given to guests.
//!
//! - `units`: the machine's IOMMU units behind one lock
//! - `routes`: which unit translates for which device, from the DMAR table
//! - `assign`: from a selector in `baton.toml` to a function on a guest's bus
//! - `hardware`: a function's configuration space, BARs and MSI-X table
//! - `router`: a device's interrupts on their way to a guest
//! - `release`: a guest's end, for its devices

pub mod assign;
pub mod hardware;
pub mod release;
pub mod router;
pub mod routes;
pub mod units;

pub use assign::{Assigned, Candidate, assign, find};
