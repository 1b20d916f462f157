//! The reader: a stream is opened whole or not at all.
//!
//! [`Stream::open`] checks the header's checksum, every bound, the payload's checksum and the framing of
//! each record, in that order, before anything is decoded. Iterating over an open stream cannot fail.
//!
//! In two steps: what was planned is read in the sandbox and remembered as a [`Prefix`]; at the
//! jump [`Prefix::reopen`] checksums and frames only what stands behind the mark, so the pause does
//! not grow with the planned part. If what is settled is as it was then, it begins behind that, so the pause does not grow with
//! devices either.

mod error;

use zerocopy::FromBytes;

use crate::checksum::{self, Running};
use crate::header::{HEADER_BYTES, Header, HeaderError};
use crate::record::{self, CRITICAL, FRAME_BYTES, Frame, Record};
use crate::state::stream::{EndV1, MarkV1, SettledV1};
pub use error::ReadError;

/// A record of an open stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// Which type.
    pub kind: u32,
    /// Version of the type.
    pub version: u16,
    /// [`CRITICAL`] or zero.
    pub flags: u16,
    /// The body, without padding.
    pub body: &'a [u8],
    /// Bytes from the start of the payload.
    pub offset: usize,
}

impl RawRecord<'_> {
    /// Whether a reader that does not know the kind must refuse.
    #[must_use]
    pub const fn is_critical(&self) -> bool {
        self.flags & CRITICAL != 0
    }

    /// The body as a `T`. The caller has compared [`RawRecord::kind`].
    pub fn decode<T: Record>(&self) -> Result<T, ReadError> {
        record::decode(self.version, self.body).map_err(|error| ReadError::Body { offset: self.offset, error })
    }
}

/// An open stream, or the part of one behind the mark.
#[derive(Clone)]
pub struct Stream<'a> {
    header: Header,
    payload: &'a [u8],
    /// Where iteration starts in the payload.
    from: usize,
    /// It starts behind what is settled.
    unsettled: bool,
    prefix: Prefix,
}

/// What a reader remembers of a planned part it has read.
#[derive(Clone)]
pub struct Prefix {
    generation: u64,
    region_base: u64,
    region_bytes: u64,
    /// Where the frame of the mark starts, in bytes of payload.
    mark_at: usize,
    /// Where the records behind the mark start, in bytes of payload.
    rest_at: usize,
    mark: MarkV1,
    /// The checksum up to `rest_at`.
    running: Running,
    settled: Option<Settled>,
}

/// Likewise, of what is settled behind it.
#[derive(Clone)]
struct Settled {
    /// Where the frame of the record starts that ends it, in bytes of payload.
    at: usize,
    /// Where the records behind it start.
    rest_at: usize,
    mark: SettledV1,
    /// The checksum up to `rest_at`.
    running: Running,
}

impl<'a> Stream<'a> {
    /// Opens the stream in `region`, which lies at host physical address `base`.
    pub fn open(region: &'a [u8], base: u64) -> Result<Self, ReadError> {
        let header = Header::check(region, base)?;
        let payload = payload(region, &header)?;
        let computed = checksum::crc32c(payload);
        if computed != header.payload_crc {
            return Err(ReadError::Checksum { stored: header.payload_crc, computed });
        }
        let walk = walk(payload, 0, 0)?;
        let Some((mark_at, rest_at, mark)) = walk.mark else {
            return Err(ReadError::Order {
                offset: payload.len(),
                what: "no mark between the planned and the frozen part",
            });
        };
        let mut running = checksum::running();
        running.update(payload.get(..mark_at).unwrap_or_default());
        let crc = running.clone().finalize();
        if crc != mark.crc {
            return Err(ReadError::Checksum { stored: mark.crc, computed: crc });
        }
        running.update(payload.get(mark_at..rest_at).unwrap_or_default());
        counts(walk.end, mark.records)?;
        let settled = match walk.settled {
            Some((at, behind, mark)) => {
                let mut running = running.clone();
                running.update(payload.get(rest_at..at).unwrap_or_default());
                let crc = running.clone().finalize();
                if crc != mark.crc {
                    return Err(ReadError::Checksum { stored: mark.crc, computed: crc });
                }
                running.update(payload.get(at..behind).unwrap_or_default());
                Some(Settled { at, rest_at: behind, mark, running })
            }
            None => None,
        };
        let prefix = Prefix {
            generation: header.generation,
            region_base: base,
            region_bytes: header.region_bytes,
            mark_at,
            rest_at,
            mark,
            running,
            settled,
        };
        Ok(Self { header, payload, from: 0, unsettled: false, prefix })
    }

    /// The header, checked.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The records, mark and end included.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records { payload: self.payload, at: self.from }
    }

    /// What to remember of the planned part.
    #[must_use]
    pub fn prefix(&self) -> Prefix {
        self.prefix.clone()
    }

    /// Whether this is only what stands behind the mark.
    #[must_use]
    pub const fn is_rest(&self) -> bool {
        self.from != 0
    }

    /// Whether this is only what stands behind the settled part, which is as it was read before.
    #[must_use]
    pub const fn is_unsettled(&self) -> bool {
        self.unsettled
    }
}

impl Prefix {
    /// Opens what stands behind the mark, in the region the planned part was read from.
    ///
    /// The checksum of the whole payload is compared, continued from what was remembered of the planned part;
    /// that part itself is not read again, nor what is settled, if it ends as it did. Their memory has been writable by the old image only.
    pub fn reopen<'a>(&self, region: &'a [u8], base: u64) -> Result<Stream<'a>, ReadError> {
        let header = Header::check(region, base)?;
        let payload = payload(region, &header)?;
        let same = header.generation == self.generation
            && base == self.region_base
            && header.region_bytes == self.region_bytes;
        let mark = frame_at(payload, self.mark_at).ok().and_then(|(record, next)| {
            (record.kind == MarkV1::KIND && next == self.rest_at).then(|| record.decode::<MarkV1>().ok()).flatten()
        });
        if !same || mark != Some(self.mark) {
            return Err(ReadError::Replanned);
        }
        let settled = self.settled.as_ref().filter(|settled| settled.is_in(payload));
        let (from, running, before) = match settled {
            Some(settled) => (settled.rest_at, &settled.running, settled.mark.records),
            None => (self.rest_at, &self.running, self.mark.records),
        };
        let mut running = running.clone();
        running.update(payload.get(from..).unwrap_or_default());
        let computed = running.finalize();
        if computed != header.payload_crc {
            return Err(ReadError::Checksum { stored: header.payload_crc, computed });
        }
        let walk = walk(payload, from, before.saturating_add(1))?;
        if walk.mark.is_some() || settled.is_some() && walk.settled.is_some() {
            return Err(ReadError::Order { offset: from, what: "a second mark" });
        }
        counts(walk.end, self.mark.records)?;
        Ok(Stream { header, payload, from, unsettled: settled.is_some(), prefix: self.clone() })
    }
}

impl Settled {
    /// Whether what is settled ends in `payload` as it did.
    fn is_in(&self, payload: &[u8]) -> bool {
        frame_at(payload, self.at).is_ok_and(|(record, next)| {
            record.kind == SettledV1::KIND && next == self.rest_at && record.decode().ok() == Some(self.mark)
        })
    }
}

/// The records of an open stream.
#[derive(Clone)]
pub struct Records<'a> {
    payload: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = RawRecord<'a>;

    fn next(&mut self) -> Option<RawRecord<'a>> {
        // Every frame was checked when the stream was opened; an error here is the end.
        let (record, next) = frame_at(self.payload, self.at).ok()?;
        self.at = next;
        Some(record)
    }
}

fn payload<'a>(region: &'a [u8], header: &Header) -> Result<&'a [u8], ReadError> {
    let end = usize::try_from(header.payload_bytes).ok().and_then(|bytes| bytes.checked_add(HEADER_BYTES));
    let room = (region.len() as u64).saturating_sub(HEADER_BYTES as u64);
    end.and_then(|end| region.get(HEADER_BYTES..end))
        .ok_or(ReadError::Header(HeaderError::Payload { bytes: header.payload_bytes, room }))
}

/// The record at `offset` and the offset of the next one. Each call moves on by a frame at least.
fn frame_at(payload: &[u8], offset: usize) -> Result<(RawRecord<'_>, usize), ReadError> {
    let fail = |what| ReadError::Frame { offset, what };
    let rest = payload.get(offset..).ok_or(fail("starts past the payload"))?;
    let (frame, rest) = Frame::read_from_prefix(rest).map_err(|_| fail("frame is cut off"))?;
    if frame.flags & !CRITICAL != 0 {
        return Err(fail("unknown flag"));
    }
    if frame.reserved != 0 {
        return Err(fail("reserved field is not zero"));
    }
    if frame.version == 0 {
        return Err(fail("version is zero"));
    }
    let length = frame.length as usize;
    let (body, rest) = rest.split_at_checked(length).ok_or(fail("body is cut off"))?;
    let stride = record::stride(length).ok_or(fail("length overflows"))?;
    let padding = rest.get(..stride - FRAME_BYTES - length).ok_or(fail("padding is cut off"))?;
    if !crate::state::is_zero(padding) {
        return Err(fail("padding is not zero"));
    }
    let record = RawRecord { kind: frame.kind, version: frame.version, flags: frame.flags, body, offset };
    Ok((record, offset + stride))
}

/// What a walk over the frames has found.
struct Walk {
    /// Offset of the mark, offset behind it, the mark.
    mark: Option<(usize, usize, MarkV1)>,
    /// Likewise, of what is settled.
    settled: Option<(usize, usize, SettledV1)>,
    end: EndV1,
}

/// Walks over every frame from `from` on, where `records` were counted before.
fn walk(payload: &[u8], from: usize, mut records: u64) -> Result<Walk, ReadError> {
    let mut at = from;
    let mut mark: Option<(usize, usize, MarkV1)> = None;
    let mut settled: Option<(usize, usize, SettledV1)> = None;
    loop {
        let (record, next) = match frame_at(payload, at) {
            Err(ReadError::Frame { .. }) if at == payload.len() => {
                return Err(ReadError::Order { offset: at, what: "no end record" });
            }
            other => other?,
        };
        if record.kind == MarkV1::KIND {
            if mark.is_some() {
                return Err(ReadError::Order { offset: at, what: "a second mark" });
            }
            let found: MarkV1 = record.decode()?;
            equal("bytes before the mark", found.payload_bytes, at as u64)?;
            equal("records before the mark", found.records, records)?;
            mark = Some((at, next, found));
        }
        if record.kind == SettledV1::KIND {
            // From the mark on when there is none: that was found when the planned part was read.
            if settled.is_some() || from == 0 && mark.is_none() {
                return Err(ReadError::Order { offset: at, what: "a settled mark where none can be" });
            }
            let found: SettledV1 = record.decode()?;
            equal("bytes before the settled mark", found.payload_bytes, at as u64)?;
            equal("records before the settled mark", found.records, records)?;
            settled = Some((at, next, found));
        }
        if record.kind == EndV1::KIND {
            if next != payload.len() {
                return Err(ReadError::Order { offset: next, what: "records behind the end" });
            }
            let end: EndV1 = record.decode()?;
            equal("bytes before the end", end.payload_bytes, at as u64)?;
            equal("records", end.records, records)?;
            return Ok(Walk { mark, settled, end });
        }
        records = records.saturating_add(1);
        at = next;
    }
}

fn counts(end: EndV1, planned: u64) -> Result<(), ReadError> {
    equal("planned records", end.planned_records, planned)
}

fn equal(what: &'static str, stored: u64, found: u64) -> Result<(), ReadError> {
    if stored == found { Ok(()) } else { Err(ReadError::Count { what, stored, found }) }
}
