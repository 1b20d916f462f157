//! The contract between two images: what an image that is being replaced tells its
//! successor, and how control passes between them.
//!
//! Principles:
//! 1. The stream is an allegation. Both checksums and every bound are checked before a byte is
//!    decoded ([`reader`]), and the decoded set is checked as a whole ([`graph`]) before it is used.
//! 2. Saved types are not run-time types. A type in [`state`] never changes once released; it grows
//!    at its end, under a new version. The glue to run-time types lives in `hypervisor/src/upgrade`.
//! 3. Nothing is dropped in silence: an unknown critical record refuses the stream, an unknown
//!    harmless one is skipped and reported, and counts come from what was really written.
//! 4. The pause is short: what is known at PLAN is written, checksummed, read and validated while the
//!    guests run; at FREEZE only the small rest is appended ([`writer::Draft`]) and read
//!    ([`reader::Prefix`]), without allocating.
//! 5. This crate knows formats and rules, no hardware (but for the CRC32 instruction, through `machine`): it
//!    forbids unsafe code. Whoever calls it maps memory, stores the header last, and jumps.
//!
//! Contents, in reading order:
//! - [`header`], [`record`]: the frozen 64-byte header, the framing of a record
//! - [`writer`], [`reader`]: the stream, written in two steps and read in two steps
//! - [`state`]: the record types, V1, one file per subject, and the decoded set
//! - [`abi`]: the layouts of all types as text, by which a released one is kept
//! - [`graph`]: whether a decoded set makes sense as a whole
//! - [`note`]: what an image file says about itself, its digest, and who can follow whom
//! - [`jump`]: the machine state at the new image's entry, and the block both images share
//! - [`plan`], [`phase`]: which objects are preserved and frozen; the phases of an upgrade
//!
//! `CHANGELOG.md` in this crate is the history of the format, `docs/handover.md` its description.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

#[cfg(not(target_endian = "little"))]
compile_error!("records are little-endian in memory; a big-endian reader would need a byte-swapping layer");

pub mod abi;
mod checksum;
pub mod graph;
pub mod header;
pub mod jump;
pub mod note;
pub mod phase;
pub mod plan;
pub mod reader;
pub mod record;
pub mod state;
pub mod version;
pub mod writer;

pub use checksum::crc32c;
pub use state::State;
