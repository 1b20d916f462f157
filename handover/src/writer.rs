//! The writer: records stream into a region that the caller hands in.
//!
//! Two steps. At PLAN the records that cannot change any more are written and sealed by
//! [`Writer::mark`]; the [`Draft`] it returns holds position, checksum and counts, but not the region,
//! and lives through the guests' last run. At FREEZE [`Draft::resume`] appends the rest behind the mark,
//! and [`Writer::finish`] returns the header.
//!
//! The dry run of PLAN is the same thing early: resume the draft, append the rest as it is at that
//! moment, finish, and let the new image read all of it. FREEZE then resumes the same draft again and overwrites
//! only what came after the mark.
//!
//! The header is not stored here: the caller issues a fence and stores it last. Until then the place of
//! the header is zero, so that a half-written stream is none.

use core::fmt;

use zerocopy::IntoBytes;

use crate::checksum::{self, Running};
use crate::header::{ALIGNMENT, HEADER_BYTES, Header, MAGIC, REGION_MAX};
use crate::record::{self, CRITICAL, Frame, Part, Record, RecordName, stride};
use crate::state::stream::{EndV1, MarkV1, SettledV1};
use crate::state::trial;
use crate::version;

/// Why the stream cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteError {
    /// The region is misaligned, shorter than a header, or longer than a reader would look at.
    Region {
        /// Host physical address.
        base: u64,
        /// Bytes.
        bytes: usize,
    },
    /// The next image wants a format this one does not write.
    Version {
        /// The format wanted.
        version: u16,
    },
    /// The format that the next image reads can't say what this record says.
    Format {
        /// The record.
        record: RecordName,
        /// The format.
        version: u16,
    },
    /// The region is full.
    Full {
        /// The record that did not fit.
        kind: &'static str,
        /// Bytes of the region.
        bytes: usize,
    },
    /// A record that belongs before the mark came after it, or the other way round.
    Part {
        /// The record.
        kind: &'static str,
    },
    /// The draft is resumed in another region, or its region was overwritten.
    Draft,
    /// `finish` without `mark`: the stream would have no planned part.
    Unmarked,
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Region { base, bytes } => write!(
                f,
                "region {base:#x} of {bytes:#x} bytes cannot hold a handover stream: it must be 8-byte aligned, 64 bytes at least and 1 GiB at most; this image is at fault"
            ),
            Self::Version { version } => write!(
                f,
                "handover format {version} is not written by this image (it writes {} to {}); upgrade by way of a release between the two",
                version::WRITES_MIN,
                version::WRITES_MAX
            ),
            Self::Format { record, version } => write!(
                f,
                "{record} cannot be handed over in format {version}, the newest that the other image reads: it is in use in a way that came later; end that use, or take a newer image"
            ),
            Self::Full { kind, bytes } => write!(
                f,
                "handover region of {bytes:#x} bytes is full at a {kind} record; a larger region must be set aside in the arena"
            ),
            Self::Part { kind } => {
                write!(f, "{kind} record written in the wrong part of the handover stream; this image is at fault")
            }
            Self::Draft => write!(
                f,
                "planned part of the handover stream is not in the region it was written to; something in this image overwrote it"
            ),
            Self::Unmarked => write!(f, "handover stream finished before its planned part was; this image is at fault"),
        }
    }
}

impl core::error::Error for WriteError {}

/// Position and sums of a stream, without the region.
#[derive(Clone)]
struct Progress {
    base: u64,
    generation: u64,
    region_bytes: usize,
    version: u16,
    /// Bytes written from the start of the region.
    at: usize,
    records: u64,
    running: Running,
    mark: Option<MarkV1>,
    /// Nothing of [`Part::Settled`] comes any more.
    settled: bool,
}

/// A stream being written.
pub struct Writer<'a> {
    region: &'a mut [u8],
    progress: Progress,
}

/// The planned part of a stream, sealed, or all up to what is settled; see the module's description.
#[derive(Clone)]
pub struct Draft {
    progress: Progress,
    mark: MarkV1,
}

impl<'a> Writer<'a> {
    /// Starts a stream of format `version` in `region`, which lies at host physical address `base`.
    pub fn new(region: &'a mut [u8], base: u64, generation: u64, version: u16) -> Result<Self, WriteError> {
        let bytes = region.len();
        if !base.is_multiple_of(ALIGNMENT as u64) || bytes as u64 > REGION_MAX {
            return Err(WriteError::Region { base, bytes });
        }
        if !(version::WRITES_MIN..=version::WRITES_MAX).contains(&version) {
            return Err(WriteError::Version { version });
        }
        region.get_mut(..HEADER_BYTES).ok_or(WriteError::Region { base, bytes })?.fill(0);
        let progress = Progress {
            base,
            generation,
            region_bytes: bytes,
            version,
            at: HEADER_BYTES,
            records: 0,
            running: checksum::running(),
            mark: None,
            settled: false,
        };
        Ok(Self { region, progress })
    }

    /// Appends one record, as the stream's format has it. What came later than that format is left out if it is not critical.
    pub fn put<T: Record>(&mut self, record: &T) -> Result<(), WriteError> {
        let in_time = match T::PART {
            Part::Plan => self.progress.mark.is_none(),
            Part::Settled => self.progress.mark.is_some() && !self.progress.settled,
            Part::Freeze => self.progress.mark.is_some(),
            Part::Any => true,
        };
        if !in_time {
            return Err(WriteError::Part { kind: T::NAME });
        }
        let flags = if T::CRITICAL { CRITICAL } else { 0 };
        match record::encode(record, self.progress.version) {
            Some(encoded) if encoded.whole || !T::CRITICAL => {
                let tail = trial::tail(T::KIND, self.progress.version);
                let version = encoded.version + u16::from(!tail.is_empty());
                self.append(T::KIND, version, flags, [encoded.body, tail], T::NAME)
            }
            None if !T::CRITICAL => Ok(()),
            _ => Err(WriteError::Format { record: record.name(), version: self.progress.version }),
        }
    }

    /// Appends a record whose type this crate does not know. Only for tests of how readers meet
    /// the records of later releases.
    pub fn put_raw(&mut self, kind: u32, version: u16, flags: u16, body: &[u8]) -> Result<(), WriteError> {
        self.append(kind, version, flags, [body, &[]], "raw")
    }

    fn append(
        &mut self,
        kind: u32,
        version: u16,
        flags: u16,
        body: [&[u8]; 2],
        name: &'static str,
    ) -> Result<(), WriteError> {
        let full = WriteError::Full { kind: name, bytes: self.region.len() };
        let [body, tail] = body;
        let bytes = body.len().checked_add(tail.len()).ok_or(full)?;
        let length = u32::try_from(bytes).map_err(|_| full)?;
        let end = stride(bytes).and_then(|bytes| self.progress.at.checked_add(bytes)).ok_or(full)?;
        let target = self.region.get_mut(self.progress.at..end).ok_or(full)?;
        let frame = Frame { kind, version, flags, length, reserved: 0 };
        let (head, rest) = target.split_at_mut_checked(size_of::<Frame>()).ok_or(full)?;
        let (content, rest) = rest.split_at_mut_checked(body.len()).ok_or(full)?;
        let (content_tail, padding) = rest.split_at_mut_checked(tail.len()).ok_or(full)?;
        head.copy_from_slice(frame.as_bytes());
        content.copy_from_slice(body);
        content_tail.copy_from_slice(tail);
        padding.fill(0);
        self.progress.running.update(target);
        self.progress.at = end;
        self.progress.records += 1;
        Ok(())
    }

    /// Ends the planned part.
    pub fn mark(mut self) -> Result<Draft, WriteError> {
        let (payload_bytes, records, crc) = self.so_far();
        let mark = MarkV1 { payload_bytes, records, crc, reserved: [0; 4] };
        self.put(&mark)?;
        Ok(Draft { progress: Progress { mark: Some(mark), ..self.progress }, mark })
    }

    /// Whether the stream's format says where what is settled ends.
    #[must_use]
    pub fn settles(&self) -> bool {
        SettledV1::LAYOUTS.first().is_some_and(|layout| layout.format <= self.progress.version)
    }

    /// Ends what is settled. The draft goes on behind it: for a rest in which nothing of that has changed.
    pub fn settle(&mut self) -> Result<Draft, WriteError> {
        let mark = self.progress.mark.ok_or(WriteError::Unmarked)?;
        let (payload_bytes, records, crc) = self.so_far();
        self.put(&SettledV1 { payload_bytes, records, crc, reserved: [0; 4] })?;
        self.progress.settled = true;
        Ok(Draft { progress: self.progress.clone(), mark })
    }

    /// Bytes of payload, records, and their checksum, up to here.
    fn so_far(&self) -> (u64, u64, u32) {
        let Progress { at, records, running, .. } = &self.progress;
        ((at - HEADER_BYTES) as u64, *records, running.clone().finalize())
    }

    /// Ends the stream, with counts of what was really written, and returns the header that the
    /// caller stores at the start of the region, after a fence.
    pub fn finish(mut self) -> Result<[u8; HEADER_BYTES], WriteError> {
        let mark = self.progress.mark.ok_or(WriteError::Unmarked)?;
        let end = EndV1 {
            payload_bytes: (self.progress.at - HEADER_BYTES) as u64,
            records: self.progress.records,
            planned_records: mark.records,
        };
        self.put(&end)?;
        let progress = self.progress;
        let mut header = Header {
            magic: MAGIC,
            generation: progress.generation,
            region_base: progress.base,
            region_bytes: progress.region_bytes as u64,
            payload_bytes: (progress.at - HEADER_BYTES) as u64,
            header_bytes: HEADER_BYTES as u32,
            version: progress.version,
            minimum_reader: version::minimum_reader(progress.version),
            payload_crc: progress.running.finalize(),
            reserved: [0; 2],
            header_crc: 0,
        };
        header.header_crc = header.checksum();
        Ok(zerocopy::transmute!(header))
    }

    /// Bytes written so far, the header's place included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.progress.at
    }

    /// The stream's format.
    #[must_use]
    pub const fn version(&self) -> u16 {
        self.progress.version
    }
}

impl Draft {
    /// Continues behind the mark, or behind what is settled, in the region the draft was written to. May be done any number of
    /// times; each time what came after the mark before is overwritten.
    pub fn resume<'a>(&self, region: &'a mut [u8]) -> Result<Writer<'a>, WriteError> {
        let mark_start = HEADER_BYTES + self.mark.payload_bytes as usize + size_of::<Frame>();
        let same = region.len() == self.progress.region_bytes
            && region.get(mark_start..).is_some_and(|rest| rest.starts_with(self.mark.as_bytes()));
        if !same {
            return Err(WriteError::Draft);
        }
        region.get_mut(..HEADER_BYTES).ok_or(WriteError::Draft)?.fill(0);
        Ok(Writer { region, progress: self.progress.clone() })
    }

    /// Bytes of the region that are written, the header's place included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.progress.at
    }
}
