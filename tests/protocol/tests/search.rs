//! The protocol holds in every state that can be reached, and each flaw is found.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use baton_protocol::{Flaw, Machine, Protocol};
use stateright::{Checker, Model};

const SOUND: Protocol = Protocol { pcpus: 2, failures: 1, upgrades: 1, supervisor: true, flaw: None };

/// Searches the whole space. Every law holds and every example is found; how many states there are.
fn holds(protocol: Protocol) -> usize {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let search = protocol.checker().threads(threads).spawn_bfs().join();
    assert!(search.is_done());
    search.assert_properties();
    search.unique_state_count()
}

/// The laws that a protocol breaks.
fn broken(protocol: Protocol) -> Vec<&'static str> {
    let search = protocol.checker().spawn_bfs().join();
    let laws = protocol.properties();
    let failures = laws.iter().filter(|law| law.expectation.discovery_is_failure());
    failures.map(|law| law.name).filter(|law| search.discovery(law).is_some()).collect()
}

#[test]
fn one_pcpu_three_failures_two_upgrades() {
    assert!(holds(Protocol { pcpus: 1, failures: 3, upgrades: 2, ..SOUND }) > 100);
}

#[test]
fn two_pcpus_three_failures_two_upgrades() {
    assert!(holds(Protocol { failures: 3, upgrades: 2, ..SOUND }) > 1_000);
}

#[test]
fn three_pcpus_three_failures() {
    assert!(holds(Protocol { pcpus: 3, failures: 3, ..SOUND }) > 10_000);
}

#[test]
fn four_pcpus_two_failures() {
    assert!(holds(Protocol { pcpus: 4, failures: 2, ..SOUND }) > 100_000);
}

/// No state is reached from itself: whatever never stops would never come to its end.
#[test]
fn every_way_ends() {
    let protocol = Protocol { failures: 2, upgrades: 2, ..SOUND };
    let start = protocol.init_states();
    // Depth first; a state is open while what follows from it is looked at.
    let mut seen: HashMap<Machine, bool> = HashMap::new();
    let mut path: Vec<(Machine, Vec<Machine>)> = Vec::new();
    for state in start {
        seen.insert(state.clone(), true);
        path.push((state.clone(), protocol.next_states(&state)));
    }
    while let Some((state, rest)) = path.last_mut() {
        match rest.pop() {
            None => {
                seen.insert(state.clone(), false);
                path.pop();
            }
            Some(next) => match seen.get(&next) {
                Some(open) => assert!(!open, "a circle through {next:?}"),
                None => {
                    seen.insert(next.clone(), true);
                    let rest = protocol.next_states(&next);
                    path.push((next, rest));
                }
            },
        }
    }
    assert!(seen.len() > 1_000);
}

/// Slow pCPUs are no failure: nobody has to end silence that nobody caused.
#[test]
fn without_failures_no_supervisor_is_needed() {
    let alone = Protocol { pcpus: 3, failures: 0, supervisor: false, ..SOUND };
    assert_eq!(broken(alone), <[&str; 0]>::default());
    let watch_the_leader = Protocol { flaw: Some(Flaw::FollowersWatchTheLeader), ..alone };
    assert_eq!(broken(watch_the_leader), ["every upgrade ends on one image"]);
}

#[test]
fn without_a_supervisor_silence_lasts() {
    assert_eq!(broken(Protocol { supervisor: false, ..SOUND }), ["every upgrade ends on one image"]);
}

/// A search that finds nothing wrong with a wrong protocol would prove nothing about the right one.
#[test]
fn every_flaw_is_found() {
    const OWNED: &str = "an image owns the machine";
    const TWICE: &str = "no two images own the machine";
    const DOMAIN: &str = "no domain is mutable while a peer reads it";
    const MEMORY: &str = "no pCPU needs memory that is gone";
    const ENDS: &str = "every upgrade ends on one image";
    let expected = [
        (Flaw::PlainCommit, TWICE),
        (Flaw::CommitsAlone, OWNED),
        (Flaw::FaultsIgnoreTheDecision, TWICE),
        (Flaw::SupervisorLooksOnce, ENDS),
        (Flaw::ThawsEarly, DOMAIN),
        (Flaw::ThawsBeforeTheSandboxEnds, DOMAIN),
        (Flaw::ClosesSlotEarly, MEMORY),
        (Flaw::WipesEarly, MEMORY),
        (Flaw::RunsBeforeCommit, OWNED),
    ];
    for (flaw, law) in expected {
        let broken = broken(Protocol { flaw: Some(flaw), ..SOUND });
        assert!(broken.contains(&law), "{flaw:?} breaks {broken:?}");
    }
    let elsewhere = Flaw::FollowersWatchTheLeader;
    assert!(Flaw::ALL.iter().all(|flaw| *flaw == elsewhere || expected.iter().any(|(known, _)| known == flaw)));
}
