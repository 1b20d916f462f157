//! The driver against the model.
//!
//! The common cases (`dma`, `adopting`, `law`, `oracle`, `power_on`, `quarantine`, `queue`, `random`, `remapping`) run three times:
//! on a unit in legacy mode, in scalable mode with second stages, and with first stages; `pasids` in the
//! latter two. [`modes`]: what differs, nested and pass-through domains, units of different abilities.

extern crate std;

mod first_stage;
mod legacy;
mod modes;
mod rig;
mod second_stage;
