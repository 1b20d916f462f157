//! The driver against the model.

extern crate std;

mod adopting;
mod dma;
mod power_on;
mod queue;
mod random;
mod remapping;
mod rig;
