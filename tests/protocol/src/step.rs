//! Who can take which step.

use handover::jump::{CPU_REFUSES, CPU_VERIFIED};
use handover::phase::{Event, Outcome, Phase, Upgrade};
use stateright::{Model, Property};

use crate::flaw::Flaw;
use crate::laws;
use crate::machine::{At, Machine, Order};

/// A protocol and how far it is searched.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    /// pCPUs of the machine.
    pub pcpus: u8,
    /// Failures that may happen, in all.
    pub failures: u8,
    /// Upgrades one after the other.
    pub upgrades: u8,
    /// Whether somebody ends silence.
    pub supervisor: bool,
    /// What is wrong with it.
    pub flaw: Option<Flaw>,
}

/// A step of one pCPU, or of the supervisor. A number is the pCPU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Old image, guests run: STAGE, PLAN or WARM takes this event.
    Prepare(Event),
    /// Old image: the sandbox of an upgrade that has ended is ended (only where that is a step of its own).
    EndSandbox,
    /// Old image: takes its virtual CPUs out of their guests.
    Park(u8),
    /// Old image: a pCPU has not parked in time.
    ParkLate,
    /// Old image, pCPU 0: writes the rest, opens the slot, jumps.
    Switch,
    /// Old image: sees that it is called.
    SeeCall(u8),
    /// Jumps.
    Jump(u8),
    /// New image: finds everything as told.
    Verify(u8),
    /// New image, pCPU 0: calls the others over.
    Call,
    /// New image, pCPU 0: has waited long enough for the others.
    GiveUp,
    /// New image: refuses, by a check or a panic of its own.
    Refuse(u8),
    /// New image: an exception; the old image's handler runs.
    Crash(u8),
    /// New image: hangs.
    Hang(u8),
    /// New image, pCPU 0: decides.
    Commit,
    /// New image: sees that it must go back, and does.
    GoBack(u8),
    /// New image: sees the decision, runs guests.
    Run(u8),
    /// The deadline passes; the supervisor decides, if nobody has.
    Deadline,
    /// The supervisor's NMI reaches a pCPU that is in the new image.
    Nmi(u8),
    /// Old image's handler: decides, if nobody has, and obeys the decision.
    Handle(u8),
    /// Old image, pCPU 0, in ROLLBACK: lets the others run guests.
    Thaw,
    /// Old image, pCPU 0, in ROLLBACK: undoes PLAN and reports.
    Undo,
    /// Old image: runs guests again.
    Resume(u8),
    /// A failure in ROLLBACK.
    FailBack(u8),
    /// New image, pCPU 0: RETIRE.
    Retire,
    /// The operator asks for another upgrade.
    Again,
}

impl Protocol {
    /// Whether it has this flaw.
    #[must_use]
    pub fn is(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    fn old_steps(&self, machine: &Machine, steps: &mut Vec<Action>) {
        let first = machine.pcpus[0].at;
        match machine.upgrade {
            Upgrade::In(phase @ (Phase::Stage | Phase::Plan | Phase::Warm)) if first == At::Guests => {
                steps.extend([Event::Done, Event::Refuse, Event::Cancel].map(Action::Prepare));
                // In the sandbox the new image can crash and hang; before it nothing of it runs.
                if phase == Phase::Warm && machine.failures > 0 {
                    steps.push(Action::Prepare(Event::Fail));
                }
            }
            Upgrade::In(Phase::Freeze) => {
                let parked = machine.others(|pcpu| pcpu.at == At::Parked);
                steps.push(if parked { Action::Switch } else { Action::ParkLate });
            }
            Upgrade::In(Phase::Rollback) if first == At::Home => match machine.order {
                Order::Park => steps.push(Action::Thaw),
                Order::Run if machine.others(|pcpu| pcpu.at == At::Guests) => steps.push(Action::Undo),
                Order::Run => {}
            },
            Upgrade::Ended(outcome) if machine.upgrades > 0 && !machine.halted() && outcome != Outcome::Committed => {
                steps.push(Action::Again);
            }
            _ => {}
        }
        let sandbox_left = machine.sandbox && matches!(machine.upgrade, Upgrade::Ended(_));
        if sandbox_left {
            steps.push(Action::EndSandbox);
        }
    }

    fn pcpu_steps(&self, machine: &Machine, index: u8, steps: &mut Vec<Action>) {
        let pcpu = machine.pcpus[usize::from(index)];
        let may_fail = machine.failures > 0;
        match pcpu.at {
            At::Guests if index != 0 && machine.order == Order::Park => steps.push(Action::Park(index)),
            // The loop of a parked pCPU: the order first, then the mailbox.
            At::Parked | At::Home if index != 0 && machine.order == Order::Run => steps.push(Action::Resume(index)),
            At::Parked if index != 0 && pcpu.called => steps.push(Action::SeeCall(index)),
            At::Jumping => steps.push(Action::Jump(index)),
            At::Handler => steps.push(Action::Handle(index)),
            at if at.visits() && at != At::Silent => {
                self.visitor_steps(machine, index, steps);
                // What fails after COMMIT is the new image's own.
                if may_fail && !machine.committed() {
                    steps.extend([Action::Refuse(index), Action::Crash(index), Action::Hang(index)]);
                }
            }
            _ => {}
        }
        if may_fail && machine.is_in(Phase::Rollback) && pcpu.at == At::Home {
            steps.push(Action::FailBack(index));
        }
    }

    fn visitor_steps(&self, machine: &Machine, index: u8, steps: &mut Vec<Action>) {
        let first = machine.pcpus[0];
        let at = machine.pcpus[usize::from(index)].at;
        let back = if self.is(Flaw::FollowersWatchTheLeader) && index != 0 {
            first.mark == CPU_REFUSES
        } else {
            machine.abandoned()
        };
        // Only who waits looks at the decision; whoever is at work notices it when the work is done.
        match at {
            At::Entered => steps.push(Action::Verify(index)),
            At::Calls => steps.push(Action::Call),
            At::Stores => steps.push(Action::Commit),
            At::Waits if back => steps.push(Action::GoBack(index)),
            At::Waits if index == 0 => {
                if machine.others(|pcpu| pcpu.mark == CPU_VERIFIED) || self.is(Flaw::CommitsAlone) {
                    steps.push(Action::Commit);
                } else {
                    steps.push(Action::GiveUp);
                }
            }
            At::Waits if machine.committed() || self.is(Flaw::RunsBeforeCommit) => steps.push(Action::Run(index)),
            _ => {}
        }
    }

    fn supervisor_steps(&self, machine: &Machine, steps: &mut Vec<Action>) {
        if !self.supervisor || machine.word.is_none() {
            return;
        }
        if !machine.late {
            // Time may pass at any moment, as long as a pCPU is in the new image and does not own it.
            if machine.pcpus.iter().any(|pcpu| pcpu.at.visits()) {
                steps.push(Action::Deadline);
            }
            return;
        }
        for (index, pcpu) in (0u8..).zip(&machine.pcpus) {
            let once = self.is(Flaw::SupervisorLooksOnce) && machine.looked & 1 << index == 0;
            // After COMMIT only those are left to be told that can't see it for themselves.
            let needed = if machine.committed() { pcpu.at == At::Silent } else { pcpu.at.visits() };
            if needed && !once {
                steps.push(Action::Nmi(index));
            }
        }
    }
}

impl Model for Protocol {
    type State = Machine;
    type Action = Action;

    fn init_states(&self) -> Vec<Machine> {
        vec![Machine::new(self.pcpus, self.failures, self.upgrades)]
    }

    fn actions(&self, machine: &Machine, steps: &mut Vec<Action>) {
        if machine.halted() {
            return;
        }
        self.old_steps(machine, steps);
        for index in 0..self.pcpus {
            self.pcpu_steps(machine, index, steps);
        }
        self.supervisor_steps(machine, steps);
        let retired = machine.pcpus[0].at == At::Owns && matches!(machine.upgrade, Upgrade::In(_));
        let all = machine.pcpus.iter().all(|pcpu| pcpu.at == At::Owns);
        if retired && (all || self.is(Flaw::WipesEarly)) {
            steps.push(Action::Retire);
        }
    }

    fn next_state(&self, last: &Machine, action: Action) -> Option<Machine> {
        let mut machine = last.clone();
        self.act(&mut machine, action);
        Some(machine)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        laws::all()
    }
}
