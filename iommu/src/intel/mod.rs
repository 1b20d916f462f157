//! Intel VT-d: one unit and what belongs to it.
//!
//! - [`spec`]: the manual's layouts
//! - `window`: registers and the bounded waits on them
//! - `queue`: the invalidation queue
//! - `tables`: root and context tables
//! - `dids`: domain ids
//! - [`remap`]: interrupt remapping
//! - [`fault`]: fault records and the log of them
//! - [`unit`]: all of these together
//! - `cold`: power-on
//! - `live`: comparing a live unit with a record

pub mod cold;
pub(crate) mod dids;
pub mod fault;
pub(crate) mod live;
pub(crate) mod queue;
pub mod remap;
pub mod spec;
pub(crate) mod tables;
pub mod unit;
pub(crate) mod window;
