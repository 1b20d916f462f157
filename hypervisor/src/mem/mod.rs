//! Physical memory: who owns what, and how the hypervisor reaches it.
//!
//! - `layout`: the constants of slots and arena
//! - `regions`: the machine's memory as owned ranges; hands out large pieces
//! - `arena`: frames that the next image must find, each with an owner's tag
//! - `frames`: the machine's one arena, as page tables use it
//! - `heap`: talc over the rest of the image slot
//! - `guard`: counts who takes memory in an upgrade's pause
//! - `host_map`: the hypervisor's own page tables (identity, W^X, guard pages)
//! - `window`: short checked mappings of guest memory
//! - `dma`: identity-mapped buffers for devices of our own

pub mod arena;
pub mod dma;
pub mod frames;
pub mod guard;
pub mod heap;
pub mod host_map;
pub mod layout;
pub mod regions;
pub mod window;
