//! Intel's VMX (SDM 3C chapters 24 to 31), with EPT, VPID and unrestricted guest.
//!
//! - [`capabilities`]: what the CPU has, and the controls made of it; [`enable`]: VMX on, per pCPU;
//! - [`vmcs`]: the control structure's instructions; [`setup`]: its controls and the host's part; [`save`]: the guest's part;
//! - [`entry`]: the world switch; [`exits`]: exit reasons to neutral words; [`cpu`]: the virtual CPU;
//! - [`sandbox`]: the virtual CPU in which the next image gets ready.

pub mod capabilities;
pub mod cpu;
pub mod enable;
pub mod entry;
pub mod exits;
pub mod sandbox;
pub mod setup;
pub mod vmcs;

mod convert;
mod save;
