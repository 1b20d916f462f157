//! Why a stream is refused.

use core::fmt;

use crate::header::HeaderError;
use crate::record::BodyError;

/// Why a stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// By its header.
    Header(HeaderError),
    /// The payload is damaged.
    Checksum {
        /// As stored in the header.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// A record's frame is not one.
    Frame {
        /// Bytes from the start of the payload.
        offset: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A record's body is not one.
    Body {
        /// Bytes from the start of the payload.
        offset: usize,
        /// What is wrong with it.
        error: BodyError,
    },
    /// Mark or end are missing, doubled or out of place.
    Order {
        /// Bytes from the start of the payload.
        offset: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// What was counted is not what is there.
    Count {
        /// Which count.
        what: &'static str,
        /// As stored.
        stored: u64,
        /// As found.
        found: u64,
    },
    /// A critical record of a kind this image does not know.
    UnknownCritical {
        /// Its kind.
        kind: u32,
        /// Its version.
        version: u16,
    },
    /// A record stands before the mark, or after it, where its kind may not.
    Part {
        /// The kind.
        kind: &'static str,
    },
    /// The stream is not the one whose planned part was read before.
    Replanned,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Header(error) => error.fmt(f),
            Self::Checksum { stored, computed } => write!(
                f,
                "handover payload is damaged: its CRC32C is {computed:#010x}, stored is {stored:#010x}; memory was overwritten after the old image wrote it"
            ),
            Self::Frame { offset, what } => {
                write!(f, "handover record at payload offset {offset:#x}: {what}; the old image is at fault")
            }
            Self::Body { offset, error } => {
                write!(f, "handover record at payload offset {offset:#x}: {error}")
            }
            Self::Order { offset, what } => {
                write!(f, "handover stream at payload offset {offset:#x}: {what}; the old image is at fault")
            }
            Self::Count { what, stored, found } => {
                write!(f, "handover stream states {stored} {what}, {found} are there; the old image is at fault")
            }
            Self::UnknownCritical { kind, version } => write!(
                f,
                "handover record of kind {kind:#x} version {version} is critical and unknown to this image; upgrade to a release that knows it"
            ),
            Self::Part { kind } => {
                write!(f, "handover record {kind} stands on the wrong side of the mark; the old image is at fault")
            }
            Self::Replanned => write!(
                f,
                "planned part of the handover stream is not the one read in the sandbox; the old image planned again without starting the sandbox again"
            ),
        }
    }
}

impl core::error::Error for ReadError {}

impl From<HeaderError> for ReadError {
    fn from(error: HeaderError) -> Self {
        Self::Header(error)
    }
}
