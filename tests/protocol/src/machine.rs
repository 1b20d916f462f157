//! A state of the machine, as far as the protocol sees it.

use handover::jump::{ABANDONED, COMMITTED, CPU_OLD, UNDECIDED};
use handover::phase::{Outcome, Phase, Upgrade};

/// Where a pCPU is, and what it does there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum At {
    /// Old image: runs guests; pCPU 0 does management as well.
    Guests,
    /// Old image: out of its guests, waits to be called.
    Parked,
    /// Old image: has seen its call, has not jumped yet.
    Jumping,
    /// New image: has come over, has said nothing yet.
    Entered,
    /// New image, pCPU 0 only: found everything as told, calls the others.
    Calls,
    /// New image: has said yes, waits for the decision.
    Waits,
    /// New image, pCPU 0 only: has looked at everybody's word and is about to store (only where COMMIT is no single step).
    Stores,
    /// New image: does nothing any more.
    Silent,
    /// Old image's handler of exceptions and NMIs, on a pCPU that was in the new image.
    Handler,
    /// Old image: is back from the new one.
    Home,
    /// New image: runs guests on tables and descriptors of its own.
    Owns,
    /// Jumped to where nothing may be executed.
    Lost,
}

impl At {
    /// Whether the new image's instructions run here before it owns the machine: it reads what the old one has left.
    #[must_use]
    pub const fn visits(self) -> bool {
        matches!(self, Self::Entered | Self::Calls | Self::Waits | Self::Stores | Self::Silent)
    }

    /// Whether this pCPU acts for the old image as its owner.
    #[must_use]
    pub const fn runs_old(self) -> bool {
        matches!(self, Self::Guests)
    }
}

/// One pCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pcpu {
    /// Where it is.
    pub at: At,
    /// Its state in the jump block, a `CPU_*` of [`handover::jump`].
    pub mark: u32,
    /// The new image has written its entry into this pCPU's mailbox.
    pub called: bool,
}

/// What the old image orders its other pCPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// Run guests.
    Run,
    /// Leave them and wait.
    Park,
}

/// The preserved guests' domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Domains {
    /// Map and unmap work.
    Mutable,
    /// They are Busy.
    Frozen,
}

/// The machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Machine {
    /// Where the upgrade is.
    pub upgrade: Upgrade,
    /// The pCPUs by number.
    pub pcpus: Vec<Pcpu>,
    /// Order to the pCPUs but the first.
    pub order: Order,
    /// Domains.
    pub domains: Domains,
    /// The new image runs in its sandbox.
    pub sandbox: bool,
    /// The decision's word in the jump block; `None` while there is no block.
    pub word: Option<u64>,
    /// The new image's slot is executable.
    pub open: bool,
    /// The old image's slot is whole.
    pub whole: bool,
    /// The deadline has passed.
    pub late: bool,
    /// pCPUs the supervisor has looked at, where it looks only once.
    pub looked: u8,
    /// Failures that may still happen.
    pub failures: u8,
    /// Upgrades that may still be asked for.
    pub upgrades: u8,
    /// The phases' rules forbade a step that the protocol took.
    pub illegal: bool,
}

impl Machine {
    /// Before the first upgrade.
    #[must_use]
    pub fn new(pcpus: u8, failures: u8, upgrades: u8) -> Self {
        let pcpu = Pcpu { at: At::Guests, mark: CPU_OLD, called: false };
        Self {
            upgrade: Upgrade::START,
            pcpus: vec![pcpu; pcpus.into()],
            order: Order::Run,
            domains: Domains::Mutable,
            sandbox: false,
            word: None,
            open: false,
            whole: true,
            late: false,
            looked: 0,
            failures,
            upgrades: upgrades.saturating_sub(1),
            illegal: false,
        }
    }

    /// Nobody has decided yet.
    #[must_use]
    pub fn undecided(&self) -> bool {
        self.word == Some(UNDECIDED)
    }

    /// The new image has taken over.
    #[must_use]
    pub fn committed(&self) -> bool {
        self.word == Some(COMMITTED)
    }

    /// Somebody has decided to go back.
    #[must_use]
    pub fn abandoned(&self) -> bool {
        self.word == Some(ABANDONED)
    }

    /// Whether the upgrade is in a phase.
    #[must_use]
    pub fn is_in(&self, phase: Phase) -> bool {
        self.upgrade == Upgrade::In(phase)
    }

    /// ROLLBACK itself failed.
    #[must_use]
    pub fn halted(&self) -> bool {
        self.upgrade == Upgrade::Ended(Outcome::Halted)
    }

    /// Whether it holds for every pCPU but the first.
    pub fn others(&self, holds: impl Fn(&Pcpu) -> bool) -> bool {
        self.pcpus.iter().skip(1).all(holds)
    }
}
