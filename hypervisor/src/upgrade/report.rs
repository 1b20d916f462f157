//! What became of upgrades: kept across images, shown by the API.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use handover::note::Note;
use handover::phase::{END, Outcome, Phase};
use handover::state::name_field;
use handover::state::report::{ReportV1, StoppedV1};
use hermit_sync::SpinMutex;
use zerocopy::FromZeros;

use super::convert::report::shown;
use crate::api::types::Outcomes;
use crate::cpu;

/// Reports kept.
const KEPT: usize = 32;

static REPORTS: SpinMutex<Reports> = SpinMutex::new(Reports::NONE);
static OUTCOMES: SpinMutex<Outcomes> =
    SpinMutex::new(Outcomes { committed: 0, rolled_back: 0, refused: 0, cancelled: 0 });

/// What is kept of attempts.
struct Reports {
    /// Oldest first.
    kept: Vec<ReportV1>,
    /// The new image's last words, by the number of the attempt: of this image's attempts only. They come before the report is
    /// kept, and leave with it.
    notes: Vec<(u64, Vec<String>)>,
    /// Guests that upgrades stopped. Likewise, but for all of them.
    stopped: Vec<StoppedV1>,
}

impl Reports {
    const NONE: Self = Self { kept: Vec::new(), notes: Vec::new(), stopped: Vec::new() };

    fn keep(&mut self, report: ReportV1) {
        match self.kept.iter_mut().find(|kept| kept.sequence == report.sequence) {
            Some(kept) => *kept = report,
            None => self.kept.push(report),
        }
        if self.kept.len() > KEPT {
            let gone = self.kept.remove(0).sequence;
            self.notes.retain(|(sequence, _)| *sequence != gone);
            self.stopped.retain(|stopped| stopped.sequence != gone);
        }
    }
}

/// Keeps what the new image of attempt `sequence` said last, as long as the report of that attempt.
pub fn set_notes(sequence: u64, notes: Vec<String>) {
    if !notes.is_empty() {
        REPORTS.lock().notes.push((sequence, notes));
    }
}

/// What the new image of attempt `sequence` said last.
pub fn notes(sequence: u64) -> Vec<String> {
    let reports = REPORTS.lock();
    reports.notes.iter().find(|(kept, _)| *kept == sequence).map(|(_, notes)| notes.clone()).unwrap_or_default()
}

/// Notes guests that an upgrade has stopped.
pub fn add_stopped(stopped: Vec<StoppedV1>) {
    REPORTS.lock().stopped.extend(stopped);
}

/// Takes over what the image before this one noted.
pub fn adopt_stopped(stopped: Vec<StoppedV1>) {
    REPORTS.lock().stopped = stopped;
}

/// All that is noted.
pub fn all_stopped() -> Vec<StoppedV1> {
    REPORTS.lock().stopped.clone()
}

/// Upgrades by outcome, since power-on.
pub fn outcomes() -> Outcomes {
    *OUTCOMES.lock()
}

/// Takes over the counts of the image before this one.
pub fn adopt_outcomes(outcomes: Outcomes) {
    *OUTCOMES.lock() = outcomes;
}

/// All reports kept, oldest first.
pub fn all() -> Vec<ReportV1> {
    REPORTS.lock().kept.clone()
}

/// Takes over what the image before this one kept.
pub fn adopt(reports: Vec<ReportV1>) {
    REPORTS.lock().kept = reports;
}

/// The number of the next attempt.
pub fn next_sequence() -> u64 {
    REPORTS.lock().kept.iter().map(|report| report.sequence).max().unwrap_or(0) + 1
}

/// A report of an upgrade away from the image with note `from`, that begins now, in STAGE.
pub fn begin(sequence: u64, generation: u64, from: &Note) -> ReportV1 {
    let mut report = ReportV1::new_zeroed();
    report.sequence = sequence;
    report.generation = generation;
    report.from_build = from.build_id;
    report.from_version = name_field(&version(from)).unwrap_or_default();
    enter(&mut report, Phase::Stage);
    report
}

/// The upgrade leads to the image with note `to`.
pub fn name_target(report: &mut ReportV1, to: &Note) {
    report.to_build = to.build_id;
    report.to_version = name_field(&version(to)).unwrap_or_default();
}

/// A note's version as people read it.
#[must_use]
pub fn version(note: &Note) -> String {
    let number = if note.build_number == 0 { String::new() } else { format!("+{}", note.build_number) };
    format!("{}.{}.{}{number}", note.major, note.minor, note.patch)
}

/// Ticks from FREEZE to the end of RUN.
#[must_use]
pub fn pause(report: &ReportV1) -> u64 {
    shown(report).ok().flatten().map_or(0, |report| report.pause_ticks)
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
    count(outcome);
    keep(report);
    report
}

fn count(outcome: Outcome) {
    let mut outcomes = OUTCOMES.lock();
    let place = match outcome {
        Outcome::Committed => &mut outcomes.committed,
        Outcome::RolledBack => &mut outcomes.rolled_back,
        Outcome::Refused => &mut outcomes.refused,
        Outcome::Cancelled => &mut outcomes.cancelled,
        Outcome::Halted => return,
    };
    *place += 1;
}

/// Writes the reason, cut to what fits.
pub fn set_reason(report: &mut ReportV1, reason: &str) {
    report.reason.fill(0);
    let end = reason.floor_char_boundary(report.reason.len());
    for (place, byte) in report.reason.iter_mut().zip(reason.bytes().take(end)) {
        *place = byte;
    }
}

/// Keeps a finished report, replacing one with its number.
pub fn keep(report: ReportV1) {
    REPORTS.lock().keep(report);
}

#[cfg(test)]
mod tests {
    use handover::phase::PHASES;
    use handover::state::report::BLAME_OLD_IMAGE;

    use super::*;
    use crate::api::types;

    #[test]
    fn last_words_leave_with_their_report() {
        let mut reports = Reports::NONE;
        let attempts = KEPT as u64 + 8;
        for sequence in 1..=attempts {
            reports.notes.push((sequence, [String::from("the last line")].into()));
            reports.keep(ReportV1 { sequence, ..ReportV1::new_zeroed() });
        }
        let kept: Vec<u64> = reports.kept.iter().map(|report| report.sequence).collect();
        let said: Vec<u64> = reports.notes.iter().map(|(sequence, _)| *sequence).collect();
        assert_eq!((kept.len(), kept.first(), kept.last()), (KEPT, Some(&9), Some(&attempts)));
        assert_eq!(said, kept, "each report has its words, and nothing else is kept");
        for sequence in attempts + 1..=2 * attempts {
            reports.keep(ReportV1 { sequence, ..ReportV1::new_zeroed() });
        }
        assert!(reports.notes.is_empty(), "silent attempts take the place of those that spoke");
    }

    /// Whatever an upgrade comes to: which, from where to where, how it ended, why and by whose fault, how long each phase
    /// took that it reached. And it is counted.
    #[test]
    fn law_24_every_outcome_has_a_complete_report() {
        let note =
            |id| Note { build_id: [id; 32], major: 1, minor: 2, patch: 3, build_number: 4, ..Note::new_zeroed() };
        let (from, to) = (note(0xaa), note(0xbb));
        let ends = [
            (Outcome::Committed, None, 9, types::Outcome::Committed),
            (Outcome::RolledBack, Some(Phase::Verify), 6, types::Outcome::RolledBack),
            (Outcome::Refused, Some(Phase::Plan), 2, types::Outcome::Refused),
            (Outcome::Cancelled, Some(Phase::Stage), 1, types::Outcome::Cancelled),
        ];
        let before = outcomes();
        for (outcome, failed, reached, name) in ends {
            let sequence = next_sequence();
            let mut report = begin(sequence, 4, &from);
            name_target(&mut report, &to);
            PHASES.iter().take(reached).for_each(|phase| enter(&mut report, *phase));
            assert_eq!(shown(&report), Ok(None), "it is under way");
            let reason = if failed.is_some() { "because" } else { "" };
            end(report, outcome, failed, BLAME_OLD_IMAGE, reason);
            let kept = all().into_iter().find(|kept| kept.sequence == sequence).expect("it is kept");
            let shown = shown(&kept).expect("whole").expect("over");
            assert_eq!((shown.id, shown.generation, shown.outcome), (sequence, 4, name));
            assert_eq!((shown.from.as_str(), shown.to.as_str()), ("aa".repeat(32).as_str(), "bb".repeat(32).as_str()));
            assert_eq!((shown.from_version.as_str(), shown.to_version.as_str()), ("1.2.3+4", "1.2.3+4"));
            assert_eq!((shown.reason.as_str(), shown.blame.is_some()), (reason, true));
            assert_eq!(kept.failed_phase, failed.map_or(0, |phase| phase.index() as u32));
            assert!(kept.phase_tsc.iter().take(reached).all(|tsc| *tsc != 0) && kept.phase_tsc[END] != 0);
            assert_eq!(shown.pause_ticks == 0, reached < 4, "{name:?} has paused, or has not");
        }
        let after = outcomes();
        let counts = |of: Outcomes| [of.committed, of.rolled_back, of.refused, of.cancelled];
        assert!(counts(before).iter().zip(counts(after)).all(|(before, after)| after > *before));
    }
}
