//! The client side of Baton's API: `batonctl`, the operator's command, and what the tests use to talk to a machine.
//!
//! - `api`: the JSON bodies, as a client reads them
//! - `client`: requests and what can go wrong with them
//! - `keys`: signing keys, and signatures of images
//! - `upgrade`: sends an image and waits for the report
//! - `show`: tables for people
#![forbid(unsafe_code)]

pub mod api;
pub mod client;
pub mod keys;
pub mod show;
pub mod upgrade;
