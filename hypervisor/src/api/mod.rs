//! The management API.
//!
//! - [`server`]: listening slots, connections and [`Control`] together: what the main loop polls.
//! - [`routes`]: which request does what; [`control`]: what the hypervisor does for it.
//! - [`types`]: the JSON bodies; [`error`]: refusals; [`metrics`]: the same figures for Prometheus.
//! - [`http`]: one HTTP/1.1 connection over a byte stream; [`request`] and [`response`]: its messages.

pub mod control;
pub mod error;
pub mod http;
pub mod metrics;
pub mod request;
pub mod response;
pub mod routes;
pub mod server;
pub mod types;

pub use control::{Control, Finished, UploadId};
pub use error::{ApiError, Code};
pub use server::Management;

#[cfg(test)]
mod http_tests;
#[cfg(test)]
mod json_tests;
#[cfg(test)]
mod routes_tests;
#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod testing;
