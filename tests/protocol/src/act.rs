//! What a step does.

use handover::jump::{ABANDONED, COMMITTED, CPU_ARRIVED, CPU_BACK, CPU_OLD, CPU_REFUSES, CPU_VERIFIED, UNDECIDED};
use handover::phase::{Event, Phase, Upgrade};

use crate::flaw::Flaw;
use crate::machine::{At, Domains, Machine, Order};
use crate::step::{Action, Protocol};

/// One compare-exchange of the word: the decision, if there was none.
fn abandon(machine: &mut Machine) {
    if machine.undecided() {
        machine.word = Some(ABANDONED);
    }
}

/// The upgrade takes an event by the rules of [`handover::phase`].
fn take(machine: &mut Machine, event: Event) {
    match machine.upgrade.after(event) {
        Ok(next) => machine.upgrade = next,
        Err(_) => machine.illegal = true,
    }
}

impl Protocol {
    /// Takes the step.
    pub(crate) fn act(&self, machine: &mut Machine, action: Action) {
        match action {
            Action::Prepare(event) => self.prepare(machine, event),
            Action::EndSandbox => machine.sandbox = false,
            Action::Park(index) => set(machine, index, At::Parked),
            Action::ParkLate => {
                take(machine, Event::Fail);
                set(machine, 0, At::Home);
            }
            Action::Switch => switch(machine),
            Action::SeeCall(index) => set(machine, index, At::Jumping),
            Action::Jump(index) => {
                set(machine, index, if machine.open { At::Entered } else { At::Lost });
                mark(machine, index, CPU_ARRIVED);
            }
            Action::Verify(0) => set(machine, 0, At::Calls),
            Action::Verify(index) => {
                set(machine, index, At::Waits);
                mark(machine, index, CPU_VERIFIED);
            }
            Action::Call => {
                set(machine, 0, At::Waits);
                machine.pcpus.iter_mut().skip(1).for_each(|pcpu| pcpu.called = true);
            }
            Action::GiveUp => Self::refuse(machine, 0),
            Action::Refuse(index) => {
                machine.failures -= 1;
                Self::refuse(machine, index);
            }
            Action::Crash(index) => {
                machine.failures -= 1;
                set(machine, index, At::Handler);
            }
            Action::Hang(index) => {
                machine.failures -= 1;
                set(machine, index, At::Silent);
            }
            Action::Commit => self.commit(machine),
            Action::GoBack(index) => Self::go_home(machine, index),
            Action::Run(index) => set(machine, index, At::Owns),
            Action::Deadline => {
                machine.late = true;
                abandon(machine);
                for (index, pcpu) in machine.pcpus.iter().enumerate() {
                    machine.looked |= u8::from(pcpu.at.visits()) << index;
                }
            }
            Action::Nmi(index) => set(machine, index, At::Handler),
            Action::Handle(index) => self.handle(machine, index),
            Action::Thaw => {
                if self.is(Flaw::ThawsEarly) {
                    machine.domains = Domains::Mutable;
                }
                machine.open &= !self.is(Flaw::ClosesSlotEarly);
                machine.order = Order::Run;
            }
            Action::Undo => undo(machine),
            Action::Resume(index) => set(machine, index, At::Guests),
            Action::FailBack(_) => {
                machine.failures -= 1;
                take(machine, Event::Fail);
            }
            Action::Retire => {
                machine.whole = false;
                // COMMIT, RUN and RETIRE are done.
                (0..3).for_each(|_| take(machine, Event::Done));
            }
            Action::Again => {
                machine.upgrades -= 1;
                machine.upgrade = Upgrade::START;
            }
        }
    }

    fn prepare(&self, machine: &mut Machine, event: Event) {
        let before = machine.upgrade;
        machine.failures -= u8::from(event == Event::Fail);
        take(machine, event);
        match machine.upgrade {
            Upgrade::In(Phase::Plan) => machine.domains = Domains::Frozen,
            Upgrade::In(Phase::Warm) => machine.sandbox = true,
            Upgrade::In(Phase::Freeze) => {
                machine.sandbox = false;
                machine.order = Order::Park;
                set(machine, 0, At::Parked);
            }
            // Out of WARM nobody was parked: ROLLBACK has only PLAN to undo.
            _ => {
                machine.sandbox &= self.is(Flaw::ThawsBeforeTheSandboxEnds);
                machine.domains = Domains::Mutable;
                if machine.is_in(Phase::Rollback) {
                    take(machine, Event::Done);
                }
            }
        }
        debug_assert_ne!(before, machine.upgrade);
    }

    /// The new image says no on one pCPU, which then obeys the decision as the others do.
    fn refuse(machine: &mut Machine, index: u8) {
        abandon(machine);
        mark(machine, index, CPU_REFUSES);
        set(machine, index, At::Waits);
    }

    fn commit(&self, machine: &mut Machine) {
        if self.is(Flaw::PlainCommit) && machine.pcpus[0].at != At::Stores {
            if machine.undecided() {
                set(machine, 0, At::Stores);
            }
            return;
        }
        if machine.undecided() || self.is(Flaw::PlainCommit) {
            machine.word = Some(COMMITTED);
            take(machine, Event::Done);
            machine.domains = Domains::Mutable;
            set(machine, 0, At::Owns);
        }
    }

    /// The old image's handler on a pCPU that was in the new one.
    fn handle(&self, machine: &mut Machine, index: u8) {
        abandon(machine);
        if machine.committed() && !self.is(Flaw::FaultsIgnoreTheDecision) {
            // It had said yes, or nobody could have committed: it enters the new image again by its mailbox.
            set(machine, index, At::Waits);
        } else {
            Self::go_home(machine, index);
        }
    }

    /// Back in the old image; pCPU 0 leads ROLLBACK there.
    fn go_home(machine: &mut Machine, index: u8) {
        set(machine, index, At::Home);
        mark(machine, index, CPU_BACK);
        if index == 0 {
            take(machine, Event::Fail);
        }
    }
}

fn set(machine: &mut Machine, index: u8, at: At) {
    machine.pcpus[usize::from(index)].at = at;
}

fn mark(machine: &mut Machine, index: u8, state: u32) {
    machine.pcpus[usize::from(index)].mark = state;
}

/// The rest, the slot, the block, the jump of pCPU 0.
fn switch(machine: &mut Machine) {
    machine.open = true;
    machine.word = Some(UNDECIDED);
    for pcpu in &mut machine.pcpus {
        (pcpu.mark, pcpu.called) = (CPU_OLD, false);
    }
    // FREEZE and SWITCH are done.
    take(machine, Event::Done);
    take(machine, Event::Done);
    set(machine, 0, At::Entered);
    mark(machine, 0, CPU_ARRIVED);
}

/// As before PLAN.
fn undo(machine: &mut Machine) {
    machine.open = false;
    machine.word = None;
    machine.late = false;
    machine.looked = 0;
    for pcpu in &mut machine.pcpus {
        (pcpu.mark, pcpu.called) = (CPU_OLD, false);
    }
    machine.domains = Domains::Mutable;
    set(machine, 0, At::Guests);
    take(machine, Event::Done);
}
