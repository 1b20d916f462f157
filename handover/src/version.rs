//! Versions of the format, and which of them this build speaks.
//!
//! Besides the image as it is released the source builds three more, for tests of upgrades from release to release. They differ
//! in this file and in [`crate::state::trial`], by features:
//! - `previous` knows only the format before: it writes and reads no other.
//! - `next` writes a format after this one, which the present one may read: a record has grown by an optional field, and
//!   there is a kind of record that is not critical.
//! - `next-critical` has a critical kind of record as well.

/// The newest format this source knows.
pub const NEWEST: u16 = if cfg!(feature = "next") { 3 } else { 2 };
/// The newest format that was released: up to it nothing changes any more.
pub const RELEASED: u16 = 1;
/// The newest format this build writes.
pub const WRITES_MAX: u16 = if cfg!(feature = "previous") { 1 } else { NEWEST };
/// The oldest format this build can still write, for a downgrade by one release.
pub const WRITES_MIN: u16 = 1;
/// The newest format this build reads.
pub const READS_MAX: u16 = WRITES_MAX;
/// The oldest format this build reads.
pub const READS_MIN: u16 = 1;

/// The oldest reader that understands a stream of format `version`. A record that only grew at its
/// end does not raise it; a record whose meaning an old reader would get wrong does.
#[must_use]
pub const fn minimum_reader(version: u16) -> u16 {
    match version {
        0 | 1 => 1,
        // Only grows, or says by a critical kind that it does not (`crate::state::trial`).
        3 if cfg!(feature = "next") => 2,
        newer => newer,
    }
}

// Each release reads what it writes, and both ranges are ranges.
const _: () = assert!(WRITES_MIN <= WRITES_MAX && READS_MIN <= READS_MAX);
const _: () = assert!(READS_MIN <= WRITES_MIN && WRITES_MAX <= READS_MAX);
const _: () = assert!(RELEASED <= NEWEST && WRITES_MAX <= NEWEST);
