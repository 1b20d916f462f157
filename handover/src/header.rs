//! The 64-byte header. It is frozen: no release changes its size, its fields or their meaning, so
//! that any image can tell any other's stream from garbage and say which version it would need.
//!
//! It stands at the first byte of the region and is stored last, after the payload and a fence.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::checksum::crc32c;
use crate::version;

/// First eight bytes of a stream that waits to be read: `BATONHO1` in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"BATONHO1");
/// What the reader stores over [`MAGIC`] (one aligned 8-byte store at [`MAGIC_OFFSET`]) once it has
/// committed, so that the same stream is never adopted twice.
pub const CONSUMED: u64 = u64::from_le_bytes(*b"BATONHO-");
/// Where the magic stands in the region, in bytes.
pub const MAGIC_OFFSET: usize = 0;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Records start at multiples of this many bytes, and so does the region.
pub const ALIGNMENT: usize = 8;
/// The largest region a reader looks at; more than any machine needs, small enough for every sum.
pub const REGION_MAX: u64 = 1 << 30;

/// The header as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`MAGIC`], or [`CONSUMED`] after the stream was adopted.
    pub magic: u64,
    /// Upgrades since power-on, counting the one this stream serves.
    pub generation: u64,
    /// Host physical address of the region's first byte, which is the header's.
    pub region_base: u64,
    /// Bytes of the region.
    pub region_bytes: u64,
    /// Bytes of the payload, which starts right after the header.
    pub payload_bytes: u64,
    /// [`HEADER_BYTES`].
    pub header_bytes: u32,
    /// Format version of the payload.
    pub version: u16,
    /// Oldest format version a reader must know to read the payload.
    pub minimum_reader: u16,
    /// CRC32C of the payload.
    pub payload_crc: u32,
    /// Zero.
    pub reserved: [u32; 2],
    /// CRC32C of the 60 bytes before this field.
    pub header_crc: u32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES && align_of::<Header>() == ALIGNMENT);
const _: () = assert!(core::mem::offset_of!(Header, magic) == MAGIC_OFFSET);
const _: () = assert!(core::mem::offset_of!(Header, header_crc) == 60);

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The region is shorter than a header.
    TooShort {
        /// Bytes of the region.
        bytes: usize,
    },
    /// The stream was adopted before.
    Consumed,
    /// No stream starts here.
    Magic {
        /// What stands in place of the magic.
        found: u64,
    },
    /// The header is damaged.
    Checksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// A frozen field holds what no release writes.
    Shape {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The writer is too new, or too old.
    Version {
        /// Format written.
        version: u16,
        /// Oldest reader the writer allows.
        minimum_reader: u16,
    },
    /// The region is not where, or not as long as, the header says.
    Region {
        /// Base as stored.
        base: u64,
        /// Bytes as stored.
        bytes: u64,
    },
    /// The payload does not fit the region.
    Payload {
        /// Bytes of the payload as stored.
        bytes: u64,
        /// Bytes of the region after the header.
        room: u64,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { bytes } => write!(
                f,
                "handover region of {bytes} bytes is shorter than its 64-byte header; the old image handed over a wrong length"
            ),
            Self::Consumed => {
                write!(f, "handover stream was adopted before; the old image must write a new one for each upgrade")
            }
            Self::Magic { found } => write!(
                f,
                "no handover stream: magic is {found:#018x}; the old image did not finish writing, or the address is wrong"
            ),
            Self::Checksum { stored, computed } => write!(
                f,
                "handover header is damaged: its CRC32C is {computed:#010x}, stored is {stored:#010x}; memory was overwritten after the old image wrote it"
            ),
            Self::Shape { field, value } => write!(
                f,
                "handover header field {field} is {value:#x}, which no release writes; the old image is at fault"
            ),
            Self::Version { version, minimum_reader } => write!(
                f,
                "handover format {version} needs a reader of format {minimum_reader} or newer, this image reads {} to {}; upgrade by way of a release between the two",
                version::READS_MIN,
                version::READS_MAX
            ),
            Self::Region { base, bytes } => write!(
                f,
                "handover header was written for the region {base:#x} of {bytes:#x} bytes, not for the one it was found in; the old image is at fault"
            ),
            Self::Payload { bytes, room } => write!(
                f,
                "handover payload of {bytes:#x} bytes does not fit the {room:#x} bytes of its region; the old image is at fault"
            ),
        }
    }
}

impl core::error::Error for HeaderError {}

impl Header {
    /// The checksum over everything before [`Header::header_crc`].
    #[must_use]
    pub fn checksum(&self) -> u32 {
        self.as_bytes().get(..HEADER_BYTES - 4).map_or(0, crc32c)
    }

    /// Reads the header of `region`, which lies at host physical address `base`, and checks all of
    /// it but the payload's checksum.
    pub fn check(region: &[u8], base: u64) -> Result<Self, HeaderError> {
        let Ok((header, rest)) = Self::read_from_prefix(region) else {
            return Err(HeaderError::TooShort { bytes: region.len() });
        };
        match header.magic {
            MAGIC => {}
            CONSUMED => return Err(HeaderError::Consumed),
            found => return Err(HeaderError::Magic { found }),
        }
        let computed = header.checksum();
        if computed != header.header_crc {
            return Err(HeaderError::Checksum { stored: header.header_crc, computed });
        }
        if header.header_bytes as usize != HEADER_BYTES {
            return Err(HeaderError::Shape { field: "header length", value: header.header_bytes.into() });
        }
        if header.reserved != [0; 2] {
            let [low, high] = header.reserved;
            return Err(HeaderError::Shape { field: "reserved", value: u64::from(low) | u64::from(high) << 32 });
        }
        let Header { version, minimum_reader, .. } = header;
        // A newer format is readable when its writer says so: records only grew at their ends.
        if minimum_reader == 0
            || version < version::READS_MIN
            || minimum_reader > version::READS_MAX
            || minimum_reader > version
        {
            return Err(HeaderError::Version { version, minimum_reader });
        }
        let here = header.region_base == base && header.region_bytes == region.len() as u64;
        if !here || !base.is_multiple_of(ALIGNMENT as u64) || header.region_bytes > REGION_MAX {
            return Err(HeaderError::Region { base: header.region_base, bytes: header.region_bytes });
        }
        let room = rest.len() as u64;
        if header.payload_bytes > room || !header.payload_bytes.is_multiple_of(ALIGNMENT as u64) {
            return Err(HeaderError::Payload { bytes: header.payload_bytes, room });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(mut header: Header) -> [u8; HEADER_BYTES] {
        header.header_crc = header.checksum();
        zerocopy::transmute!(header)
    }

    fn empty() -> Header {
        Header {
            magic: MAGIC,
            generation: 7,
            region_base: 0x10_0000,
            region_bytes: 64,
            payload_bytes: 0,
            header_bytes: 64,
            version: 1,
            minimum_reader: 1,
            payload_crc: 0,
            reserved: [0; 2],
            header_crc: 0,
        }
    }

    /// The frozen layout, byte for byte, written out by hand.
    #[test]
    fn frozen_offsets() {
        let bytes = sealed(empty());
        assert_eq!(&bytes[0..8], b"BATONHO1");
        assert_eq!(&bytes[8..16], &[7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[16..24], &[0, 0, 0x10, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[24..32], &[64, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[32..40], &[0; 8]);
        assert_eq!(&bytes[40..48], &[64, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(&bytes[48..60], &[0; 12]);
        assert_eq!(bytes[60..64], crc32c(&bytes[..60]).to_le_bytes());
    }

    #[test]
    fn each_lie_has_its_refusal() {
        let check = |header: Header| Header::check(&sealed(header), 0x10_0000);
        assert_eq!(check(empty()).map(|header| header.generation), Ok(7));
        assert_eq!(check(Header { magic: CONSUMED, ..empty() }), Err(HeaderError::Consumed));
        assert_eq!(check(Header { magic: 0, ..empty() }), Err(HeaderError::Magic { found: 0 }));
        assert!(matches!(check(Header { header_bytes: 72, ..empty() }), Err(HeaderError::Shape { .. })));
        assert!(matches!(check(Header { reserved: [0, 1], ..empty() }), Err(HeaderError::Shape { .. })));
        assert!(matches!(check(Header { version: 0, ..empty() }), Err(HeaderError::Version { .. })));
        assert!(matches!(
            check(Header { version: 9, minimum_reader: version::READS_MAX + 1, ..empty() }),
            Err(HeaderError::Version { .. })
        ));
        assert!(matches!(check(Header { region_base: 8, ..empty() }), Err(HeaderError::Region { .. })));
        assert!(matches!(check(Header { region_bytes: 72, ..empty() }), Err(HeaderError::Region { .. })));
        assert!(matches!(check(Header { payload_bytes: 8, ..empty() }), Err(HeaderError::Payload { .. })));
        assert!(matches!(check(Header { payload_bytes: u64::MAX, ..empty() }), Err(HeaderError::Payload { .. })));
        assert!(matches!(check(Header { minimum_reader: 0, ..empty() }), Err(HeaderError::Version { .. })));
        // A newer format that still allows this reader is read.
        assert!(check(Header { version: 9, minimum_reader: 1, ..empty() }).is_ok());
    }
}
