//! The framing of a record, and the rules by which its body becomes a type.
//!
//! A record is a 16-byte [`Frame`], `length` bytes of body, and zeros up to the next multiple of
//! eight. Bodies have no variable part: an array is written as several records, and a long string of
//! bytes as several pieces with their offsets. So each layout is asserted at compile time, and
//! growing a type at its end never moves anything.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::header::ALIGNMENT;
use crate::version;

/// Bytes of a [`Frame`].
pub const FRAME_BYTES: usize = 16;
/// Flag of [`Frame::flags`]: a reader that does not know the kind must refuse the stream.
pub const CRITICAL: u16 = 1;

/// What stands before the body of each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Frame {
    /// Which type the body is; see [`crate::state`].
    pub kind: u32,
    /// Version of that type, 1 at first.
    pub version: u16,
    /// [`CRITICAL`] or zero; other bits are refused.
    pub flags: u16,
    /// Bytes of the body, padding not counted.
    pub length: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Frame>() == FRAME_BYTES);

/// When a record can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// At PLAN, while the guests run: it cannot change before the jump.
    Plan,
    /// At PLAN, behind the mark, and in the pause again only if a guest has changed it since: seldom.
    Settled,
    /// At FREEZE, in the pause: it changes as long as guests run.
    Freeze,
    /// Either: a log whose old entries are known at PLAN.
    Any,
}

/// One version of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Format of the stream that it came with.
    pub format: u16,
    /// Its bytes: those of the version before and what was appended.
    pub bytes: usize,
}

/// The newest of a type's versions. Versions rise, in formats that this build knows and in bytes that keep the stream aligned.
#[must_use]
pub const fn newest(layouts: &[Layout]) -> Layout {
    let mut newest = Layout { format: 0, bytes: 0 };
    let mut index = 0;
    while index < layouts.len() {
        let next = layouts[index];
        assert!(next.format > newest.format && next.bytes > newest.bytes, "each version has its format and its tail");
        assert!(next.format <= version::NEWEST, "a format that this build does not know");
        newest = next;
        index += 1;
    }
    newest
}

/// A type of record.
///
/// Implemented by the `record!` macro in [`crate::state`] only, so that no type escapes its rules.
pub trait Record: FromBytes + IntoBytes + Immutable + KnownLayout + Copy + fmt::Debug + PartialEq {
    /// Number in [`Frame::kind`], never given to another type.
    const KIND: u32;
    /// The versions of this type, the first one first. The last is this type as it is.
    const LAYOUTS: &'static [Layout];
    /// The newest version.
    const VERSION: u16 = Self::LAYOUTS.len() as u16;
    /// Whether a reader that does not know it must refuse.
    const CRITICAL: bool;
    /// When it is written.
    const PART: Part;
    /// What errors call it.
    const NAME: &'static str;
    /// Name, type and offset of each field, for [`crate::abi`].
    const FIELDS: &'static [(&'static str, &'static str, usize)];

    /// Identity among the records of its kind; they are written in strictly ascending order of it.
    fn key(&self) -> [u64; 2];
    /// Whether the explicit padding is zero.
    fn padding_is_zero(&self) -> bool;

    /// The record's name for errors.
    fn name(&self) -> RecordName {
        RecordName { kind: Self::NAME, key: self.key() }
    }
}

/// A record as errors name it: kind and key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordName {
    /// The type.
    pub kind: &'static str,
    /// Its [`Record::key`].
    pub key: [u64; 2],
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor] = self.key;
        match self.kind {
            "device" | "bridge" | "PCI function" | "physical function" => {
                write!(f, "{} {}", self.kind, Bdf(major as u32))
            }
            "MSI-X entry" if minor >> 32 != 0 => write!(f, "MSI of device {}", Bdf(major as u32)),
            "MSI-X entry" | "BAR" | "config space" | "PASID" => {
                write!(f, "{} {minor:#x} of device {}", self.kind, Bdf(major as u32))
            }
            "requester alias" => write!(f, "{} {} of device {}", self.kind, Bdf(minor as u32), Bdf(major as u32)),
            "domain id"
            | "extent"
            | "mapping of an object"
            | "reserved range"
            | "IRTE"
            | "vCPU"
            | "LAPIC"
            | "kvmclock"
            | "vCPU place"
            | "vCPU MSRs"
            | "CPUID entry"
            | "XSAVE piece"
            | "I/O APIC"
            | "UART"
            | "UART input" => {
                write!(f, "{} {major:#x}/{minor:#x}", self.kind)
            }
            _ => write!(f, "{} {major:#x}", self.kind),
        }
    }
}

/// A PCI function as records hold it: segment in bits 31:16, bus in 15:8, device in 7:3, function in 2:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bdf(pub u32);

impl Bdf {
    /// PCI segment group.
    #[must_use]
    pub const fn segment(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment(), self.bus(), self.0 >> 3 & 0x1f, self.0 & 7)
    }
}

/// Why the body of a record does not become a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The body is shorter or longer than its version can be.
    Length {
        /// The type.
        kind: &'static str,
        /// Version as stored.
        version: u16,
        /// Bytes as stored.
        length: usize,
    },
    /// Explicit padding holds something.
    Padding {
        /// The record.
        record: RecordName,
    },
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Length { kind, version, length } => write!(
                f,
                "{kind} record of version {version} has {length} bytes, which no release wrote; the old image is at fault"
            ),
            Self::Padding { record } => write!(
                f,
                "{record} has non-zero padding; the old image is at fault, or it used a field this image does not know"
            ),
        }
    }
}

impl core::error::Error for BodyError {}

/// How a record is written in a stream of an older format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded<'a> {
    /// Version of the type.
    pub version: u16,
    /// The body.
    pub body: &'a [u8],
    /// Whether nothing is said by fields that came later, where the reader takes zero.
    pub whole: bool,
}

/// The bytes of a record in a stream of format `format`; `None` when that format has no such kind.
#[must_use]
pub fn encode<T: Record>(record: &T, format: u16) -> Option<Encoded<'_>> {
    fn cut<'a>(layouts: &[Layout], bytes: &'a [u8], format: u16) -> Option<Encoded<'a>> {
        let version = layouts.iter().take_while(|layout| layout.format <= format).count();
        let layout = layouts.get(version.checked_sub(1)?)?;
        let (body, late) = bytes.split_at_checked(layout.bytes)?;
        Some(Encoded { version: version as u16, body, whole: crate::state::is_zero(late) })
    }
    cut(T::LAYOUTS, record.as_bytes(), format)
}

/// Decodes the body of a record of version `version`.
///
/// An older version is shorter: what is missing reads as zero. A newer one may be longer: the tail this
/// image does not know is ignored. A version that this image knows has its length.
pub fn decode<T: Record>(version: u16, body: &[u8]) -> Result<T, BodyError> {
    fn fill(layouts: &[Layout], version: u16, record: &mut [u8], body: &[u8]) -> Option<()> {
        let known = usize::from(version).checked_sub(1)?;
        let plausible = match layouts.get(known) {
            Some(layout) => body.len() == layout.bytes,
            None => body.len() >= record.len(),
        };
        let taken = body.len().min(record.len());
        record.get_mut(..taken)?.copy_from_slice(body.get(..taken)?);
        plausible.then_some(())
    }
    let mut record = T::new_zeroed();
    fill(T::LAYOUTS, version, record.as_mut_bytes(), body).ok_or(BodyError::Length {
        kind: T::NAME,
        version,
        length: body.len(),
    })?;
    if record.padding_is_zero() { Ok(record) } else { Err(BodyError::Padding { record: record.name() }) }
}

/// Bytes a body of `length` bytes takes in the stream, frame and padding included.
#[must_use]
pub(crate) const fn stride(length: usize) -> Option<usize> {
    match length.checked_next_multiple_of(ALIGNMENT) {
        Some(padded) => padded.checked_add(FRAME_BYTES),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    /// A type in its second version, as one will look after a first release.
    #[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
    #[repr(C)]
    struct Grown {
        id: u32,
        reserved: [u8; 4],
        late: u64,
    }

    impl Record for Grown {
        const KIND: u32 = 0xffff_0001;
        const LAYOUTS: &'static [Layout] = &[Layout { format: 1, bytes: 8 }, Layout { format: 2, bytes: 16 }];
        const FIELDS: &'static [(&'static str, &'static str, usize)] = &[];
        const CRITICAL: bool = false;
        const PART: Part = Part::Any;
        const NAME: &'static str = "grown";
        fn key(&self) -> [u64; 2] {
            [self.id.into(), 0]
        }
        fn padding_is_zero(&self) -> bool {
            self.reserved == [0; 4]
        }
    }

    #[test]
    fn a_missing_tail_is_zero_and_an_unknown_tail_is_ignored() {
        let old = [5, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(decode(1, &old), Ok(Grown { id: 5, reserved: [0; 4], late: 0 }));
        let mut newer = [0; 24];
        newer[0] = 5;
        newer[8] = 9;
        newer[20] = 1;
        assert_eq!(decode(3, &newer), Ok(Grown { id: 5, reserved: [0; 4], late: 9 }));
    }

    #[test]
    fn an_older_format_carries_what_it_can() {
        let record = Grown { id: 5, reserved: [0; 4], late: 0 };
        let old = [5, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(encode(&record, 1), Some(Encoded { version: 1, body: &old, whole: true }));
        assert_eq!(encode(&record, 2).map(|encoded| (encoded.version, encoded.body.len())), Some((2, 16)));
        assert_eq!(encode(&record, 9).map(|encoded| encoded.version), Some(2));
        assert_eq!(encode(&record, 0), None);
        let says_more = Grown { late: 1, ..record };
        assert_eq!(encode(&says_more, 1), Some(Encoded { version: 1, body: &old, whole: false }));
        assert!(encode(&says_more, 2).is_some_and(|encoded| encoded.whole));
    }

    #[test]
    fn lengths_no_release_wrote_are_refused() {
        for (version, length) in [(0, 8), (1, 0), (1, 7), (1, 12), (1, 16), (1, 17), (2, 8), (2, 15), (2, 24), (3, 8)] {
            assert!(
                matches!(decode::<Grown>(version, &[0; 24][..length]), Err(BodyError::Length { .. })),
                "{version} {length}"
            );
        }
    }

    #[test]
    fn padding_is_checked() {
        assert!(matches!(decode::<Grown>(1, &[0, 0, 0, 0, 1, 0, 0, 0]), Err(BodyError::Padding { .. })));
    }

    #[test]
    fn names_are_readable() {
        assert_eq!(RecordName { kind: "device", key: [0x0001_03fa, 0] }.to_string(), "device 0001:03:1f.2");
        assert_eq!(stride(9), Some(32));
    }
}
