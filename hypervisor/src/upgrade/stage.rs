//! STAGE: the image arrives in the free slot while the guests run. Nothing is executed of it; its signature is
//! judged when its note has arrived, it is hashed as it comes, and refused as soon as something is wrong.
#![expect(unsafe_code, reason = "the free slot is raw memory")]

use handover::note::{self, DigestStream, FILE_MAX, Note, NoteError, SEARCH_BYTES};
use handover::phase::Outcome;
use handover::state::report::{BLAME_OPERATOR, ReportV1};
use machine::addr::HostPhys;

use super::report;
use super::trust::{self, Untrusted};
use crate::host;
use crate::mem::layout::SLOT_BYTES;

/// The free slot, as memory to write an image to.
struct Slot {
    base: u64,
}

impl Slot {
    fn write(&mut self, at: u64, bytes: &[u8]) -> bool {
        if at.checked_add(bytes.len() as u64).is_none_or(|end| end > SLOT_BYTES) {
            return false;
        }
        // SAFETY: the slot belongs to no image (this one is in the other), is identity mapped writable, and the range was
        // checked to lie inside it.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), (self.base + at) as usize as *mut u8, bytes.len()) };
        true
    }

    fn bytes(&self, count: u64) -> &[u8] {
        let count = count.min(SLOT_BYTES) as usize;
        // SAFETY: as for `write`; the borrow of self keeps writers away.
        unsafe { core::slice::from_raw_parts(self.base as usize as *const u8, count) }
    }
}

/// An image on its way in.
pub struct Staging {
    slot: Slot,
    announced: u64,
    received: u64,
    digest: Option<DigestStream>,
    note: Option<Note>,
    /// The report that this upload becomes.
    pub report: ReportV1,
    /// Only the plan is wanted.
    pub dry_run: bool,
}

/// A whole image that was checked.
#[derive(Clone)]
pub struct Staged {
    /// What it says about itself.
    pub note: Note,
    /// Where it lies.
    pub base: HostPhys,
    /// The handover format it will be handed.
    pub format: u16,
    /// The report of this upgrade.
    pub report: ReportV1,
    /// Only the plan is wanted.
    pub dry_run: bool,
}

/// Why an image is refused.
pub enum Refused {
    /// It is no image, or damaged.
    Image(NoteError),
    /// It can't follow the running one.
    Version(note::Refusal),
    /// Nobody that the operator trusts vouches for it.
    Untrusted(Untrusted),
}

impl core::fmt::Display for Refused {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::Version(refusal) => refusal.fmt(f),
            Self::Untrusted(reason) => reason.fmt(f),
        }
    }
}

impl Staging {
    /// `announced` bytes will follow.
    ///
    /// # Errors
    /// They can't be an image, or don't fit.
    pub fn begin(announced: u64, dry_run: bool) -> Result<Self, NoteError> {
        let host = host::get();
        let room = SLOT_BYTES.min(FILE_MAX);
        if announced > room {
            return Err(NoteError::Oversized { received: announced, due: room });
        }
        Ok(Self {
            slot: Slot { base: host.slots[usize::from(host.slot ^ 1)] },
            announced,
            received: 0,
            digest: None,
            note: None,
            report: report::begin(report::next_sequence(), host.generation + 1, &host.note),
            dry_run,
        })
    }

    /// Bytes that have arrived, and that will have.
    pub fn progress(&self) -> (u64, u64) {
        (self.received, self.announced)
    }

    /// The next bytes.
    ///
    /// # Errors
    /// The image is refused.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        let before = self.received;
        if before + bytes.len() as u64 > self.announced || !self.slot.write(before, bytes) {
            let received = before + bytes.len() as u64;
            return Err(Refused::Image(NoteError::Oversized { received, due: self.announced }));
        }
        self.received += bytes.len() as u64;
        if let Some(digest) = &mut self.digest {
            return digest.update(bytes).map_err(Refused::Image);
        }
        let enough = self.received >= (SEARCH_BYTES as u64).min(self.announced);
        if enough {
            let start = self.slot.bytes(self.received);
            let note = note::parse_note(start).map_err(Refused::Image)?;
            note.check_slot(SLOT_BYTES).map_err(Refused::Image)?;
            note.check_received(self.announced).map_err(Refused::Image)?;
            note::compatible(&host::get().note, &note).map_err(Refused::Version)?;
            trust::admit(&host::get().note, &note).map_err(Refused::Untrusted)?;
            let mut digest = DigestStream::new(&note);
            digest.update(start).map_err(Refused::Image)?;
            report::name_target(&mut self.report, &note);
            self.digest = Some(digest);
            self.note = Some(note);
        }
        Ok(())
    }

    /// All bytes have arrived.
    ///
    /// # Errors
    /// The image is refused.
    pub fn finish(&mut self) -> Result<Staged, Refused> {
        let (Some(digest), Some(note)) = (self.digest.take(), self.note.take()) else {
            return Err(Refused::Image(NoteError::Magic));
        };
        digest.finish().map_err(Refused::Image)?;
        let format = note::compatible(&host::get().note, &note).map_err(Refused::Version)?;
        Ok(Staged { note, base: HostPhys(self.slot.base), format, report: self.report, dry_run: self.dry_run })
    }

    /// The upload ends without an upgrade; the report says why.
    pub fn refuse(&self, reason: &str) -> ReportV1 {
        report::end(self.report, Outcome::Refused, Some(handover::phase::Phase::Stage), BLAME_OPERATOR, reason)
    }

    /// The client went away.
    pub fn cancel(&self) -> ReportV1 {
        report::end(
            self.report,
            Outcome::Cancelled,
            None,
            BLAME_OPERATOR,
            "the upload ended before the image was whole",
        )
    }
}
