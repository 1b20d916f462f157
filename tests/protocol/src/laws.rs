//! What must hold in every state, and what must come in the end.

use handover::phase::{Outcome, Upgrade};
use stateright::{Model, Property};

use crate::machine::{At, Domains, Machine, Order};
use crate::step::Protocol;

/// Every law. The first three are HANDOVER.md's; the others are what they rest on.
pub(crate) fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always("an image owns the machine", |_, machine| owned(machine)),
        Property::always("no two images own the machine", |_, machine| !owned_twice(machine)),
        Property::always("no domain is mutable while a peer reads it", |_, machine| !changed_under_a_reader(machine)),
        Property::always("no pCPU needs memory that is gone", |_, machine| !in_the_void(machine)),
        Property::always("the phases allow every step", |_, machine: &Machine| !machine.illegal),
        Property::always("a rollback leaves nothing behind", |_, machine| rolled_back_whole(machine)),
        // With `every way ends` of the tests, which finds no circle, this says that every upgrade comes to such an end.
        Property::always("every upgrade ends on one image", |protocol, machine| {
            settled(machine) || !protocol.next_states(machine).is_empty()
        }),
        Property::sometimes("an upgrade commits", |_, machine| ended(machine, Outcome::Committed)),
        Property::sometimes("an upgrade is rolled back", |_, machine| ended(machine, Outcome::RolledBack)),
        Property::sometimes("an upgrade is refused", |_, machine| ended(machine, Outcome::Refused)),
        Property::sometimes("an upgrade is cancelled", |_, machine| ended(machine, Outcome::Cancelled)),
    ]
}

fn ended(machine: &Machine, outcome: Outcome) -> bool {
    machine.upgrade == Upgrade::Ended(outcome)
}

/// Before COMMIT the old image is whole and every pCPU has a way into it; after COMMIT no pCPU goes on for the old one.
/// A machine that halted in ROLLBACK has its record: the stream and the block are as they were.
fn owned(machine: &Machine) -> bool {
    if machine.committed() {
        machine.pcpus.iter().all(|pcpu| pcpu.at == At::Owns || pcpu.at.visits() || pcpu.at == At::Handler)
    } else {
        machine.whole && machine.pcpus.iter().all(|pcpu| pcpu.at != At::Owns)
    }
}

/// Both act as owners, on whatever pCPUs.
fn owned_twice(machine: &Machine) -> bool {
    let old = machine.pcpus.iter().any(|pcpu| pcpu.at.runs_old() || pcpu.at == At::Home);
    let new = machine.pcpus.iter().any(|pcpu| pcpu.at == At::Owns);
    (old || machine.order == Order::Run) && (new || machine.committed())
}

/// Whoever may change a domain does it while the other image relies on it: the new one, as a visitor or in its sandbox, before
/// COMMIT; the old one, if it goes on anywhere, after it.
fn changed_under_a_reader(machine: &Machine) -> bool {
    let visited = machine.sandbox || machine.pcpus.iter().any(|pcpu| pcpu.at.visits() || pcpu.at == At::Jumping);
    let old = machine.pcpus.iter().any(|pcpu| matches!(pcpu.at, At::Guests | At::Parked | At::Jumping | At::Home));
    let reader = if machine.committed() { old } else { visited };
    machine.domains == Domains::Mutable && reader
}

/// A pCPU jumped into a closed slot, or depends on the old image's descriptor tables and stacks, which are wiped.
fn in_the_void(machine: &Machine) -> bool {
    let lost = machine.pcpus.iter().any(|pcpu| pcpu.at == At::Lost);
    lost || !machine.whole && machine.pcpus.iter().any(|pcpu| pcpu.at != At::Owns)
}

/// Refused, cancelled, rolled back: as before PLAN, but for the sandbox's memory, which is the new image's own.
fn rolled_back_whole(machine: &Machine) -> bool {
    let over = [Outcome::RolledBack, Outcome::Refused, Outcome::Cancelled].map(Upgrade::Ended);
    !over.contains(&machine.upgrade)
        || machine.whole
            && !machine.open
            && machine.word.is_none()
            && machine.domains == Domains::Mutable
            && machine.order == Order::Run
            && machine.pcpus.iter().all(|pcpu| pcpu.at == At::Guests && !pcpu.called)
}

/// The end of every way: guests run on one image, on every pCPU. Only a failure in ROLLBACK itself halts.
fn settled(machine: &Machine) -> bool {
    let all = |at| machine.pcpus.iter().all(|pcpu| pcpu.at == at);
    match machine.upgrade {
        Upgrade::Ended(Outcome::Halted) => true,
        Upgrade::Ended(Outcome::Committed) => all(At::Owns),
        Upgrade::Ended(_) => machine.upgrades == 0 && all(At::Guests),
        Upgrade::In(_) => false,
    }
}
