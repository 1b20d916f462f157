//! The upgrade's protocol as a model, searched state by state: every interleaving of the pCPUs' steps, with a refusal, a
//! crash or silence at each of them.
//!
//! The model is an abstraction of `hypervisor/src/upgrade`: one action is one step that another pCPU can see between. What the
//! images share it takes from `handover` itself: the phases ([`handover::phase`]), the states of a pCPU and the decision's
//! word ([`handover::jump`]). Devices, records and guests are no more than who may touch them.
//!
//! - `machine`: what a state of the machine is
//! - `step`: who can do what in it
//! - `act`: what that does
//! - `laws`: what must hold in every state, and what must come in the end
//! - `flaw`: protocols that are wrong in one place, which the search must find
//!
//! Not modelled: failures of the old image of its own before SWITCH (nobody is there to take over), failures of the new one after
//! COMMIT (there is no way back from them by design), memory that reads stale (the shared words are atomics with
//! acquire and release order).
#![forbid(unsafe_code)]

mod act;
mod flaw;
mod laws;
mod machine;
mod step;

pub use flaw::Flaw;
pub use machine::{At, Domains, Machine, Order, Pcpu};
pub use step::{Action, Protocol};
