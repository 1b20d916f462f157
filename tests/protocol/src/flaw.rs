//! Protocols that are wrong in one place. A search that does not find them would prove nothing.

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// COMMIT is a store behind a check, not one compare-exchange: somebody may have given up in between.
    PlainCommit,
    /// COMMIT does not wait for every pCPU's word.
    CommitsAlone,
    /// Followers look at pCPU 0's state, which its return overwrites, and not at the decision.
    FollowersWatchTheLeader,
    /// A pCPU that fails after it has said yes goes home although the others have committed.
    FaultsIgnoreTheDecision,
    /// The supervisor looks once, when the deadline passes, and not until all are back.
    SupervisorLooksOnce,
    /// Domains become mutable before the other pCPUs are back.
    ThawsEarly,
    /// Domains become mutable before the sandbox is ended.
    ThawsBeforeTheSandboxEnds,
    /// The new image's slot is closed before the other pCPUs are back.
    ClosesSlotEarly,
    /// The old slot is wiped as soon as pCPU 0 runs guests.
    WipesEarly,
    /// Guests of the new image run before the decision.
    RunsBeforeCommit,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::PlainCommit,
        Self::CommitsAlone,
        Self::FollowersWatchTheLeader,
        Self::FaultsIgnoreTheDecision,
        Self::SupervisorLooksOnce,
        Self::ThawsEarly,
        Self::ThawsBeforeTheSandboxEnds,
        Self::ClosesSlotEarly,
        Self::WipesEarly,
        Self::RunsBeforeCommit,
    ];
}
