//! Intel VT-d: one unit and what belongs to it.
//!
//! - [`spec`]: the manual's layouts
//! - `window`: registers and the bounded waits on them
//! - `queue`: the invalidation queue
//! - [`mode`]: legacy or scalable mode, and what a unit translates in it
//! - `tables`: root and context tables
//! - `pasids`: PASID directories and tables
//! - `entries`: what context and PASID entries must be for a domain
//! - `dids`: domain ids
//! - [`remap`]: interrupt remapping; `grow`: a larger table while it is on
//! - [`fault`]: fault records in words; [`fault_log`]: the log of them
//! - [`unit`]: all of these together
//! - `cold`: power-on
//! - `live`: comparing a live unit with a record

pub mod cold;
pub(crate) mod dids;
pub(crate) mod entries;
pub mod fault;
pub mod fault_log;
pub(crate) mod grow;
pub(crate) mod live;
pub mod mode;
pub(crate) mod pasids;
pub(crate) mod queue;
pub mod remap;
pub mod spec;
pub(crate) mod tables;
pub mod unit;
pub(crate) mod window;
