//! What format 1 has no place for comes back as it was, too. HANDOVER.md 13.

use alloc::string::ToString;

use handover::graph;
use handover::state::device::PasidV1;
use iommu::state::{
    DidState, DomainState, FIRST_STAGE, LeavingState, NESTED, PASS_THROUGH, PasidState, PostedState, SECOND_STAGE,
};
use machine::pci::Bdf;

use super::sample::{Everything, everything};
use crate::passthrough::sriov;
use crate::upgrade::convert::{iommu as units, pci, report};

/// The sample with its unit in scalable mode, and two PASIDs on the guest's device.
fn scalable() -> Everything {
    let mut all = everything();
    let snapshot = &mut all.snapshot;
    // TTM 01b (VT-d 11.4.5), and 256-bit descriptors (11.4.9.3).
    snapshot.units[0].rtaddr |= 1 << 10;
    snapshot.units[0].iqa |= 1 << 11;
    let base = snapshot.units[0].base;
    let arena = snapshot.domains[0].root & !0xff_ffff;
    for (device, directory) in snapshot.devices.iter_mut().zip([arena | 0x20_0000, arena | 0x20_1000]) {
        device.directory = directory;
    }
    let guests = snapshot.devices[1];
    let own = snapshot.domains.iter().find(|domain| domain.token == guests.token).copied().expect("the guest's domain");
    for domain in &mut snapshot.domains {
        if domain.token != guests.token {
            (domain.stage, domain.root, domain.levels, domain.snoop) = (PASS_THROUGH, 0, 0, 0);
        }
    }
    let second = DomainState { token: own.token + 0x100, root: arena | 0x20_2000, ..own };
    let nested = DomainState { token: own.token + 0x101, root: 0x5000, parent: own.token, stage: NESTED, ..own };
    snapshot.domains.extend([second, nested]);
    for (did, (pasid, domain)) in (0x40..).zip([(1, second), (0xf_ffff, nested)]) {
        snapshot.dids.push(DidState { unit: base, token: domain.token, did });
        let (segment, source, token) = (guests.segment, guests.source, domain.token);
        snapshot.pasids.push(PasidState { unit: base, token, pasid, segment, source, consumed: false });
    }
    all
}

#[test]
fn pasids_and_their_domains_come_back() {
    let all = scalable();
    let state = all.save();
    assert_eq!(units::load(&state).as_ref(), Ok(&all.snapshot));
    assert_eq!(state.pasids.len(), 2);
}

#[test]
fn a_first_stage_comes_back_with_its_width() {
    let mut all = scalable();
    for domain in all.snapshot.domains.iter_mut().filter(|domain| domain.stage == SECOND_STAGE) {
        (domain.stage, domain.address_bits) = (FIRST_STAGE, 47);
    }
    // A nested domain stands on a second stage only.
    all.snapshot.domains.retain(|domain| domain.stage != NESTED);
    all.snapshot.pasids.truncate(1);
    all.snapshot.dids.retain(|id| all.snapshot.domains.iter().any(|domain| domain.token == id.token));
    assert_eq!(units::load(&all.save()).as_ref(), Ok(&all.snapshot));
}

#[test]
fn a_pasid_of_nobody_is_refused() {
    let mut state = scalable().save();
    state.pasids.push(PasidV1 { domain: state.pasids[0].domain, device: 0x0900, pasid: 5 });
    state.sort();
    let error = units::load(&state).expect_err("there is no such device").to_string();
    assert!(error.contains("device 0000:09:00.0 is missing"), "{error}");
    assert!(graph::validate_plan(&state).is_err());
}

#[test]
fn a_quarantine_and_posted_interrupts_come_back() {
    let mut all = everything();
    all.snapshot.devices[1].quarantined = 1;
    all.snapshot.posted.push(PostedState { frame: 0x1_7000, used: 1 << 63 | 1 });
    assert_eq!(units::load(&all.save()).as_ref(), Ok(&all.snapshot));
    let mut state = everything().save();
    pci::save_policy(&mut state, 25);
    assert_eq!((pci::load_policy(&state), pci::load_policy(&everything().save())), (Some(25), None));
}

#[test]
fn who_leaves_and_who_was_stopped_come_back() {
    let mut all = everything();
    all.snapshot.leaving = [0x0108, 0x0420].map(|source| LeavingState { segment: 0, source }).into();
    let mut state = all.save();
    assert_eq!(units::load(&state).as_ref(), Ok(&all.snapshot));
    state.stopped = [(3, "batch"), (4, "scratch"), (4, "web")]
        .iter()
        .zip(1..)
        .map(|((sequence, name), number)| report::stopped(*sequence, number, name).expect("a name"))
        .collect();
    assert_eq!(graph::validate_plan(&state), Ok(()));
    let stopped = report::load_stopped(&state).expect("names");
    assert_eq!(report::shown_stopped(&stopped, 4), ["scratch", "web"]);
    assert!(report::shown_stopped(&stopped, 5).is_empty());
    state.stopped[0].name[0] = 0xff;
    assert!(report::load_stopped(&state).is_err());
}

#[test]
fn virtual_functions_come_back() {
    let mut all = everything().save();
    let known = [
        sriov::recorded(Bdf::from_requester_id(0, 0x0200), 0x10c9_8086, 0x10ca, 2, 0x80, 2),
        sriov::recorded(Bdf::from_requester_id(1, 0x0400), 0x0010_1b36, 0x0010, 1, 1, 0),
    ];
    pci::save_physical(&mut all, &known);
    assert_eq!(pci::load_physical(&all).as_deref(), Ok(&known[..]));
    let names: alloc::vec::Vec<_> = known[0].functions().map(|one| alloc::format!("{one}")).collect();
    assert_eq!(names, ["0000:02:10.0", "0000:02:10.2"]);
    all.physical_functions[0].count = 0x1_0000;
    let error = pci::load_physical(&all).expect_err("too many").to_string();
    assert!(error.contains("physical function 0000:02:00.0: number of functions"), "{error}");
}
