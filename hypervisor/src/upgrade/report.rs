//! What became of upgrades: kept across images, shown by the API.

use alloc::vec::Vec;

use handover::phase::{END, Outcome, Phase};
use handover::state::report::ReportV1;
use hermit_sync::SpinMutex;
use zerocopy::FromZeros;

use crate::cpu;

/// Reports kept.
const KEPT: usize = 32;

/// The text of a version, as `ReportV1` has no place for it: three numbers.
static REPORTS: SpinMutex<Vec<ReportV1>> = SpinMutex::new(Vec::new());

/// All reports kept, oldest first.
pub fn all() -> Vec<ReportV1> {
    REPORTS.lock().clone()
}

/// Takes over what the image before this one kept.
pub fn adopt(reports: Vec<ReportV1>) {
    *REPORTS.lock() = reports;
}

/// The number of the next attempt.
pub fn next_sequence() -> u64 {
    REPORTS.lock().iter().map(|report| report.sequence).max().unwrap_or(0) + 1
}

/// A report that begins now, in STAGE.
pub fn begin(sequence: u64, generation: u64, from: [u8; 32]) -> ReportV1 {
    let mut report = ReportV1::new_zeroed();
    report.sequence = sequence;
    report.generation = generation;
    report.from_build = from;
    enter(&mut report, Phase::Stage);
    report
}

/// The upgrade enters `phase` now.
pub fn enter(report: &mut ReportV1, phase: Phase) {
    if let Some(place) = report.phase_tsc.get_mut(phase.index()) {
        *place = cpu::tsc();
    }
}

/// The upgrade has ended: sets outcome, reason and end, and keeps the report.
pub fn end(mut report: ReportV1, outcome: Outcome, failed: Option<Phase>, blame: u32, reason: &str) -> ReportV1 {
    report.outcome = outcome.code();
    report.failed_phase = failed.map_or(0, |phase| phase.index() as u32);
    report.blame = blame;
    set_reason(&mut report, reason);
    if let Some(place) = report.phase_tsc.get_mut(END) {
        *place = cpu::tsc();
    }
    keep(report);
    report
}

/// Writes the reason, cut to what fits.
pub fn set_reason(report: &mut ReportV1, reason: &str) {
    let mut end = reason.len().min(report.reason.len());
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    report.reason = [0; 96];
    report.reason[..end].copy_from_slice(&reason.as_bytes()[..end]);
}

/// Keeps a finished report, replacing one with its number.
pub fn keep(report: ReportV1) {
    let mut reports = REPORTS.lock();
    match reports.iter_mut().find(|kept| kept.sequence == report.sequence) {
        Some(kept) => *kept = report,
        None => reports.push(report),
    }
    if reports.len() > KEPT {
        reports.remove(0);
    }
}
