//! Release 0.1, format 1: what became of upgrades. Reports are kept as records at run time, too; the API shows them in its own form.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use handover::State;
use handover::phase::{self, END, PHASES, Phase};
use handover::state::is_zero;
use handover::state::report::{
    BLAME_GUEST, BLAME_MACHINE, BLAME_NEW_IMAGE, BLAME_NONE, BLAME_OLD_IMAGE, BLAME_OPERATOR, ReportV1, StoppedV1,
};
use handover::state::{name_field, text};

use super::{ConvertError, Converted, check_text, read_text, refuse, require};
use crate::api::error::Blame;
use crate::api::types::{Outcome, Phases, Report};

/// Appends reports: finished ones as part of the plan, the one of the upgrade under way as part of the rest.
pub fn save(state: &mut State, reports: &[ReportV1]) {
    state.reports.extend_from_slice(reports);
}

/// The reports in a set, each such that [`shown`] shows it once it has an outcome.
///
/// # Errors
/// A report that cannot be.
pub fn load(state: &State) -> Converted<Vec<ReportV1>> {
    state.reports.iter().map(|record| check(record).map(|()| *record)).collect()
}

/// The report of the upgrade that is under way: the last one. Takes no memory.
///
/// # Errors
/// There is none, or it cannot be.
pub fn load_own(state: &State) -> Converted<ReportV1> {
    let missing = ConvertError::Missing { record: super::name_of::<ReportV1>([u64::MAX, 0]) };
    let own = state.reports.last().filter(|report| report.outcome == 0).ok_or(missing)?;
    check(own).map(|()| *own)
}

/// A guest that upgrade `sequence` stops, as a record; `None` when its name can't be one.
#[must_use]
pub fn stopped(sequence: u64, number: u16, name: &str) -> Option<StoppedV1> {
    Some(StoppedV1 { sequence, name: name_field(name)?, number: number.into(), reserved: [0; 4] })
}

/// The guests in a set that upgrades have stopped.
///
/// # Errors
/// A name that is none.
pub fn load_stopped(state: &State) -> Converted<Vec<StoppedV1>> {
    let stopped = |record: &StoppedV1| {
        read_text(record, "name", &record.name)?;
        Ok(*record)
    };
    state.stopped.iter().map(stopped).collect()
}

/// The names of the guests that upgrade `sequence` stopped.
#[must_use]
pub fn shown_stopped(stopped: &[StoppedV1], sequence: u64) -> Vec<String> {
    let of = stopped.iter().filter(|record| record.sequence == sequence);
    of.filter_map(|record| text(&record.name).map(String::from)).collect()
}

fn check(record: &ReportV1) -> Converted<()> {
    outcome(record)?;
    blame(record)?;
    require((record.failed_phase as usize) < END, record, "failed phase", record.failed_phase)?;
    let texts: [(_, &[u8]); 3] = [
        ("reason", &record.reason),
        ("version of the old image", &record.from_version),
        ("version of the new image", &record.to_version),
    ];
    texts.iter().try_for_each(|(field, bytes)| check_text(record, field, bytes).map(|_| ()))
}

/// `None` while it is under way.
fn outcome(record: &ReportV1) -> Converted<Option<Outcome>> {
    match phase::Outcome::from_code(record.outcome) {
        None if record.outcome == 0 => Ok(None),
        Some(phase::Outcome::Committed) => Ok(Some(Outcome::Committed)),
        Some(phase::Outcome::RolledBack) => Ok(Some(Outcome::RolledBack)),
        Some(phase::Outcome::Refused) => Ok(Some(Outcome::Refused)),
        Some(phase::Outcome::Cancelled) => Ok(Some(Outcome::Cancelled)),
        // A machine that has halted hands nothing over.
        Some(phase::Outcome::Halted) | None => refuse(record, "outcome", record.outcome),
    }
}

fn blame(record: &ReportV1) -> Converted<Option<Blame>> {
    Ok(Some(match record.blame {
        BLAME_NONE => return Ok(None),
        BLAME_OPERATOR => Blame::Operator,
        BLAME_OLD_IMAGE | BLAME_NEW_IMAGE => Blame::Baton,
        BLAME_MACHINE => Blame::Hardware,
        BLAME_GUEST => Blame::Guest,
        other => return refuse(record, "blame", other),
    }))
}

/// A report as the API shows it; `None` while its upgrade is under way.
///
/// # Errors
/// A report that cannot be.
pub fn shown(record: &ReportV1) -> Converted<Option<Report>> {
    check(record)?;
    let Some(outcome) = outcome(record)? else {
        return Ok(None);
    };
    let ticks = |phase: Phase| duration(record, phase);
    let pausing = PHASES.iter().filter(|phase| phase.pauses());
    Ok(Some(Report {
        id: record.sequence,
        from: build_id(&record.from_build),
        to: build_id(&record.to_build),
        from_version: read_text(record, "version of the old image", &record.from_version)?,
        to_version: read_text(record, "version of the new image", &record.to_version)?,
        generation: record.generation,
        outcome,
        reason: read_text(record, "reason", &record.reason)?,
        blame: blame(record)?,
        pause_ticks: pausing.map(|phase| ticks(*phase)).fold(0, u64::saturating_add),
        phases: Phases {
            stage: ticks(Phase::Stage),
            plan: ticks(Phase::Plan),
            warm: ticks(Phase::Warm),
            freeze: ticks(Phase::Freeze),
            switch: ticks(Phase::Switch),
            verify: ticks(Phase::Verify),
            commit: ticks(Phase::Commit),
            run: ticks(Phase::Run),
            retire: ticks(Phase::Retire),
        },
        pause_allocations: record.pause_allocations,
        iommu_faults: record.faults,
        interrupts_pending: record.interrupts_pending,
        interrupts_delivered: record.interrupts_delivered,
        stopped: Vec::new(),
        notes: Vec::new(),
    }))
}

/// Ticks from the beginning of a phase to that of the next one that was reached, or to the end.
fn duration(record: &ReportV1, phase: Phase) -> u64 {
    let begin = |index: usize| record.phase_tsc.get(index).copied().filter(|tsc| *tsc != 0);
    let Some(start) = begin(phase.index()) else {
        return 0;
    };
    // In the order of time; phases that began at one tick follow each other in their own order.
    let later = (0..=END).filter_map(|index| Some((begin(index)?, index)));
    let next = later.filter(|other| *other > (start, phase.index())).min();
    next.map_or(0, |(tsc, _)| tsc - start)
}

/// A build id in hexadecimal, empty when there was none.
fn build_id(id: &[u8; 32]) -> String {
    if is_zero(id) {
        return String::new();
    }
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
