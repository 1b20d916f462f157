//! Versions of the format, and which of them this build speaks.

/// The newest format this build writes.
pub const WRITES_MAX: u16 = 1;
/// The oldest format this build can still write, for a downgrade by one release.
pub const WRITES_MIN: u16 = 1;
/// The newest format this build reads.
pub const READS_MAX: u16 = 1;
/// The oldest format this build reads.
pub const READS_MIN: u16 = 1;

/// The oldest reader that understands a stream of format `version`. A record that only grew at its
/// end does not raise it; a record whose meaning an old reader would get wrong does.
#[must_use]
pub const fn minimum_reader(version: u16) -> u16 {
    match version {
        0 | 1 => 1,
        newer => newer,
    }
}

// Each release reads what it writes, and both ranges are ranges.
const _: () = assert!(WRITES_MIN <= WRITES_MAX && READS_MIN <= READS_MAX);
const _: () = assert!(READS_MIN <= WRITES_MIN && WRITES_MAX <= READS_MAX);
