//! The phases of an upgrade, as a pure state machine.
//!
//! ```text
//! STAGE -> PLAN -> WARM -> FREEZE -> SWITCH -> VERIFY -> COMMIT -> RUN -> RETIRE -> committed
//!   |       |       |  \______|________|_________|
//!   |       |       |         v
//!   +-------+-------+      ROLLBACK -> rolled back
//!   v
//! refused, cancelled
//! ```
//!
//! Before FREEZE an upgrade can be refused or cancelled; from WARM to VERIFY it can be rolled back; COMMIT is the
//! point of no return. A dry run ends as cancelled after PLAN or WARM.

use core::fmt;

/// A phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The image arrives and is checked.
    Stage,
    /// Objects are preserved, records written, address spaces immutable.
    Plan,
    /// The new image runs in its sandbox.
    Warm,
    /// vCPUs exit, the rest is written. The pause begins.
    Freeze,
    /// Every pCPU leaves the old image.
    Switch,
    /// The new image compares what it finds with what it was told.
    Verify,
    /// One atomic store; the old image is gone.
    Commit,
    /// vCPUs enter. The pause ends.
    Run,
    /// Slot, tables and scratch of the old image become free.
    Retire,
    /// Every pCPU returns to the old image.
    Rollback,
}

/// All phases, by [`Phase::index`].
pub const PHASES: [Phase; 10] = [
    Phase::Stage,
    Phase::Plan,
    Phase::Warm,
    Phase::Freeze,
    Phase::Switch,
    Phase::Verify,
    Phase::Commit,
    Phase::Run,
    Phase::Retire,
    Phase::Rollback,
];

/// Index in a report's array of the moment the upgrade ended.
pub const END: usize = 10;

impl Phase {
    /// Number in reports; never changes.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Plan => "plan",
            Self::Warm => "warm",
            Self::Freeze => "freeze",
            Self::Switch => "switch",
            Self::Verify => "verify",
            Self::Commit => "commit",
            Self::Run => "run",
            Self::Retire => "retire",
            Self::Rollback => "rollback",
        }
    }

    /// Whether guests are paused in this phase. ROLLBACK out of WARM pauses none: there they still run.
    #[must_use]
    pub const fn pauses(self) -> bool {
        matches!(self, Self::Freeze | Self::Switch | Self::Verify | Self::Commit | Self::Run | Self::Rollback)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How an upgrade ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The new image runs.
    Committed,
    /// The new image was tried, the old one runs.
    RolledBack,
    /// The image or a preserved object said no.
    Refused,
    /// The operator, or a dry run, ended it.
    Cancelled,
    /// ROLLBACK itself failed: the machine is halted with its record intact.
    Halted,
}

impl Outcome {
    /// Number in reports; never changes. Zero is "in progress".
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Committed => 1,
            Self::RolledBack => 2,
            Self::Refused => 3,
            Self::Cancelled => 4,
            Self::Halted => 5,
        }
    }

    /// The outcome with that number.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Committed),
            2 => Some(Self::RolledBack),
            3 => Some(Self::Refused),
            4 => Some(Self::Cancelled),
            5 => Some(Self::Halted),
            _ => None,
        }
    }

    /// Name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::RolledBack => "rolled_back",
            Self::Refused => "refused",
            Self::Cancelled => "cancelled",
            Self::Halted => "halted",
        }
    }
}

/// What happens in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The phase did what it is for.
    Done,
    /// Something says no: the image, an object, a record.
    Refuse,
    /// The operator says stop.
    Cancel,
    /// Panic, exception, silence past the deadline.
    Fail,
}

/// Where an upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upgrade {
    /// In a phase.
    In(Phase),
    /// Over.
    Ended(Outcome),
}

/// An event that cannot happen there; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Illegal {
    /// Where the upgrade is.
    pub at: Upgrade,
    /// What was asked of it.
    pub event: Event,
}

impl fmt::Display for Illegal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.at, self.event) {
            (Upgrade::In(phase), Event::Cancel) => {
                write!(f, "an upgrade in phase {phase} can no longer be cancelled; wait for its report")
            }
            (Upgrade::In(phase), event) => {
                write!(f, "an upgrade in phase {phase} cannot take {event:?}; this image is at fault")
            }
            (Upgrade::Ended(outcome), event) => {
                write!(f, "an upgrade that is {} cannot take {event:?}; this image is at fault", outcome.name())
            }
        }
    }
}

impl core::error::Error for Illegal {}

impl Upgrade {
    /// Where each upgrade starts.
    pub const START: Self = Self::In(Phase::Stage);

    /// Where the upgrade is after `event`.
    pub const fn after(self, event: Event) -> Result<Self, Illegal> {
        let next = match self {
            Self::In(phase) => step(phase, event),
            Self::Ended(_) => None,
        };
        match next {
            Some(next) => Ok(next),
            None => Err(Illegal { at: self, event }),
        }
    }

    /// Whether another upgrade must be turned away (409).
    #[must_use]
    pub const fn is_running(self) -> bool {
        matches!(self, Self::In(_))
    }
}

const fn step(phase: Phase, event: Event) -> Option<Upgrade> {
    use Upgrade::{Ended, In};
    Some(match (phase, event) {
        (Phase::Stage, Event::Done) => In(Phase::Plan),
        (Phase::Plan, Event::Done) => In(Phase::Warm),
        (Phase::Warm, Event::Done) => In(Phase::Freeze),
        (Phase::Freeze, Event::Done) => In(Phase::Switch),
        (Phase::Switch, Event::Done) => In(Phase::Verify),
        (Phase::Verify, Event::Done) => In(Phase::Commit),
        (Phase::Commit, Event::Done) => In(Phase::Run),
        (Phase::Run, Event::Done) => In(Phase::Retire),
        (Phase::Retire, Event::Done) => Ended(Outcome::Committed),
        (Phase::Rollback, Event::Done) => Ended(Outcome::RolledBack),
        (Phase::Stage | Phase::Plan | Phase::Warm, Event::Refuse) => Ended(Outcome::Refused),
        (Phase::Stage | Phase::Plan | Phase::Warm, Event::Cancel) => Ended(Outcome::Cancelled),
        // Nothing of the new image ran yet: the old one could not plan.
        (Phase::Stage | Phase::Plan, Event::Fail) => Ended(Outcome::Refused),
        (Phase::Warm, Event::Fail) => In(Phase::Rollback),
        (Phase::Freeze | Phase::Switch | Phase::Verify, Event::Fail | Event::Refuse) => In(Phase::Rollback),
        (Phase::Rollback, Event::Fail) => Ended(Outcome::Halted),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 4] = [Event::Done, Event::Refuse, Event::Cancel, Event::Fail];

    fn run(events: &[Event]) -> Result<Upgrade, Illegal> {
        events.iter().try_fold(Upgrade::START, |at, event| at.after(*event))
    }

    #[test]
    fn the_straight_way_commits() {
        assert_eq!(run(&[Event::Done; 9]), Ok(Upgrade::Ended(Outcome::Committed)));
        assert_eq!(run(&[Event::Done; 5]), Ok(Upgrade::In(Phase::Verify)));
    }

    #[test]
    fn cancel_ends_before_freeze_and_not_later() {
        for (index, phase) in PHASES.iter().enumerate() {
            assert_eq!(phase.index(), index);
            let after = Upgrade::In(*phase).after(Event::Cancel);
            let early = matches!(phase, Phase::Stage | Phase::Plan | Phase::Warm);
            assert_eq!(after.is_ok(), early, "{phase}");
        }
    }

    /// Whatever fails before COMMIT ends on the old image; after it nothing leads back.
    #[test]
    fn law_20_every_failure_before_commit_leads_back_and_none_after() {
        for phase in [Phase::Freeze, Phase::Switch, Phase::Verify] {
            for event in [Event::Fail, Event::Refuse] {
                assert_eq!(Upgrade::In(phase).after(event), Ok(Upgrade::In(Phase::Rollback)));
            }
        }
        assert_eq!(Upgrade::In(Phase::Warm).after(Event::Fail), Ok(Upgrade::In(Phase::Rollback)));
        for phase in [Phase::Commit, Phase::Run, Phase::Retire] {
            for event in [Event::Refuse, Event::Cancel, Event::Fail] {
                assert!(Upgrade::In(phase).after(event).is_err());
            }
        }
        assert_eq!(Upgrade::In(Phase::Rollback).after(Event::Fail), Ok(Upgrade::Ended(Outcome::Halted)));
    }

    /// Nothing but a failure of the way back itself halts the machine, and nothing follows.
    #[test]
    fn law_25_only_a_fault_in_rollback_halts() {
        for phase in PHASES {
            for event in EVENTS {
                let halts = Upgrade::In(phase).after(event) == Ok(Upgrade::Ended(Outcome::Halted));
                assert_eq!(halts, (phase, event) == (Phase::Rollback, Event::Fail), "{phase} {event:?}");
                assert!(Upgrade::Ended(Outcome::Halted).after(event).is_err());
            }
        }
    }

    /// No way through the machine is longer than its phases, so no sequence of events runs in a circle.
    #[test]
    fn every_way_ends() {
        fn longest(at: Upgrade, depth: usize) -> usize {
            assert!(depth <= PHASES.len(), "a circle through {at:?}");
            EVENTS
                .iter()
                .filter_map(|event| at.after(*event).ok())
                .map(|next| longest(next, depth + 1))
                .max()
                .unwrap_or(depth)
        }
        assert_eq!(longest(Upgrade::START, 0), 9);
    }

    #[test]
    fn outcomes_have_stable_codes() {
        for code in 0..10 {
            let outcome = Outcome::from_code(code);
            assert_eq!(outcome.is_some(), (1..=5).contains(&code));
            assert!(outcome.is_none_or(|outcome| outcome.code() == code));
        }
    }
}
