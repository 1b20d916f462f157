//! PLAN: every preserved object says yes or no; address spaces become immutable; the records that
//! can't change any more are written, read back by this image's own reader, and judged as a whole.

use alloc::string::String;

use handover::state::report::ReportV1;

use super::stage::Staged;
use crate::api::types;

/// An upgrade whose every object said yes.
pub struct Planned {
    /// The image.
    pub staged: Staged,
}

/// What PLAN would say, object by object; nothing is changed.
pub fn dry_run(_staged: &Staged) -> types::Plan {
    types::Plan { ok: false, objects: alloc::vec::Vec::new(), estimated_pause_ticks: 0, memory_bytes: 0 }
}

/// Plans. The guests run on.
///
/// # Errors
/// The report of the refusal, which is kept; everything is as before.
pub fn plan(staged: Staged) -> Result<Planned, ReportV1> {
    let reason = String::from("planning is not there yet");
    Err(super::report::end(staged.report, handover::phase::Outcome::Refused, None, 0, &reason))
}
