//! The common cases on units in legacy mode.
#![allow(clippy::duplicate_mod, reason = "the same cases on other units are the point")]

use super::rig::Shape;

/// The units of these cases.
const SHAPE: Shape = Shape::LEGACY;

#[path = "adopting.rs"]
mod adopting;
#[path = "dma.rs"]
mod dma;
#[path = "law.rs"]
mod law;
#[path = "oracle.rs"]
mod oracle;
#[path = "power_on.rs"]
mod power_on;
#[path = "quarantine.rs"]
mod quarantine;
#[path = "queue.rs"]
mod queue;
#[path = "random.rs"]
mod random;
#[path = "remapping.rs"]
mod remapping;
