//! HANDOVER.md's behaviours on units and domains, by their numbers; others are where their subject is (`grep law_`).

use super::SHAPE;
use super::adopting::{adopt, machine, regs, writes};
use crate::model::{Failures, ModelUnit};
use crate::state::{DeviceState, DidState, DomainState, LeavingState, PASS_THROUGH, Snapshot};
use crate::tests::rig::{BASE, DISK, GUEST, MANAGEMENT, NIC, Rig, platform, routes};
use crate::{Bdf, Error, InterruptRegion, InterruptTarget, Iommu, Platform, Token, UnitIndex};
use alloc::vec;
use alloc::vec::Vec;
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;
use machine::paging::Leaf;

const GIB: u64 = 1 << 30;
/// The guest's other device, and what it sends as too: see `machine`.
const ALIASED: Bdf = Bdf::from_requester_id(0, 0x0110);
const ALIAS: Bdf = Bdf::from_requester_id(0, 0x0118);

fn leaves(rig: &Rig, tokens: &[Token]) -> Result<Vec<(u64, u64, u64)>, Error> {
    let mut leaves: Vec<Leaf> = Vec::new();
    rig.iommu.inspect(&rig.mem, &|frame| rig.mem.holds(frame), tokens, &mut |_, leaf| {
        leaves.push(leaf);
        true
    })?;
    Ok(leaves.iter().map(|leaf| (leaf.at, leaf.to.0, leaf.bytes)).collect())
}

/// What is told is what memory holds now: large leaves as one, and what somebody has put there.
#[test]
fn law_2_live_tables_are_told_leaf_by_leaf() {
    let mut rig = machine();
    let before = writes(&rig);
    let small = (0..5).map(|page| (GIB + page * 0x1000, 0x1000 + page * 0x1000, 0x1000));
    let all: Vec<_> = core::iter::once((0, GIB, GIB)).chain(small).collect();
    assert_eq!(leaves(&rig, &[GUEST]).unwrap(), all);
    assert_eq!(leaves(&rig, &[MANAGEMENT]).unwrap(), [(0x1000, 0x9000, 0x1000)]);
    assert_eq!(leaves(&rig, &[Token(9)]), Err(Error::NoDomain { token: Token(9) }));
    assert_eq!(writes(&rig), before);
    // Behind the driver's back.
    let root = rig.iommu.domain(GUEST).unwrap().root();
    let third = HostPhys(rig.mem.read(root) & !0xfff);
    rig.mem.write(HostPhys(third.0 + 7 * 8), (5 * GIB) | 0x87);
    assert_eq!(leaves(&rig, &[GUEST]).unwrap().last(), Some(&(7 * GIB, 5 * GIB, GIB)));
    // A register, an entry, a table that is not what it must be.
    let rtaddr = rig.units[1].read64(0x20);
    rig.units[1].tamper(0x20, rtaddr ^ 1 << 12);
    assert!(matches!(leaves(&rig, &[GUEST]), Err(Error::Mismatch { register: "RTADDR", .. })));
    rig.units[1].tamper(0x20, rtaddr);
    let context = HostPhys((rig.mem.read(HostPhys((rtaddr & !0xfff) + 3 * 16)) & !0xfff) + 5 * 64);
    rig.mem.write(context, 0x1001);
    assert!(matches!(leaves(&rig, &[GUEST]), Err(Error::Entry { .. })));
    rig.mem.write(context, 0);
    rig.mem.write(HostPhys(third.0 + 8 * 8), third.0 | 7);
    assert!(matches!(leaves(&rig, &[GUEST]), Err(Error::ForeignFrame { what: "a page table", .. })));
}

/// One domain for the devices of several units: each undo takes back what it set, no more.
#[test]
fn law_3_immutability_is_counted_and_each_undo_takes_back_its_own() {
    let mut rig = machine();
    assert_eq!((rig.iommu.freeze(GUEST), rig.iommu.freeze(GUEST), rig.iommu.freeze(MANAGEMENT)), (Ok(1), Ok(2), Ok(1)));
    assert_eq!(rig.iommu.unfreeze(GUEST), Ok(1));
    assert!(matches!(rig.unmap(GUEST, 0, 0x1000), Err(Error::Busy { token: GUEST, .. })));
    assert_eq!(rig.iommu.unfreeze(MANAGEMENT), Ok(0));
    rig.unmap(MANAGEMENT, 0x1000, 0x1000).unwrap();
    assert!(matches!(rig.unmap(GUEST, 0, 0x1000), Err(Error::Busy { token: GUEST, .. })));
    assert_eq!(rig.iommu.unfreeze(GUEST), Ok(0));
    rig.unmap(GUEST, 0, 0x1000).unwrap();
    assert_eq!(rig.iommu.unfreeze(GUEST), Err(Error::NotFrozen { token: GUEST }));
}

/// A token names one domain, a device is in one.
#[test]
fn law_6_a_device_under_two_tokens_and_a_token_twice_are_refused() {
    let mut rig = machine();
    let before = writes(&rig);
    assert_eq!(rig.iommu.create_domain(platform!(rig), GUEST), Err(Error::DomainExists { token: GUEST }));
    let claimed = Error::DeviceClaimed { device: DISK, owner: DISK, token: GUEST };
    assert_eq!(rig.attach(DISK, MANAGEMENT), Err(claimed));
    assert_eq!(rig.attach(DISK, GUEST), Err(claimed));
    assert_eq!(writes(&rig), before);
    let twice: [fn(&mut Snapshot); 3] = [
        |s| s.domains.push(DomainState { token: GUEST.0, stage: PASS_THROUGH, ..DomainState::default() }),
        |s| s.devices.push(s.devices[0]),
        |s| s.devices.push(DeviceState { token: MANAGEMENT.0, ..s.devices[0] }),
    ];
    for change in twice {
        let mut snapshot = rig.iommu.snapshot().unwrap();
        change(&mut snapshot);
        assert!(matches!(adopt(&rig, &mut snapshot), Err(Error::Duplicate { .. })));
    }
}

/// The last descriptors that unit `index` was given, waits left out: their types (VT-d 6.5.2), newest last.
fn told(rig: &Rig, index: usize, count: usize) -> Vec<(u64, u64)> {
    let unit = &rig.units[index];
    let (ring, tail) = (unit.read64(0x90), unit.read64(0x88));
    let bytes = if ring & 1 << 11 != 0 { 32 } else { 16 };
    let mut types = Vec::new();
    let mut at = tail;
    for _ in 0..4096 / bytes {
        at = (at + 4096 - bytes) % 4096;
        let low = rig.mem.read(HostPhys((ring & !0xfff) + at));
        if low & 0xf != 5 {
            types.insert(0, (low & 0xf, low >> 4 & 3));
        }
        if types.len() == count {
            break;
        }
    }
    types
}

/// Who is not preserved is gone under every id before the last snapshot, and what units cached of anybody is forgotten:
/// context entries first, then PASIDs, then translations. The others' DMA goes on.
#[test]
fn law_9_devices_that_are_not_preserved_are_blocked_under_every_id() {
    let mut rig = machine();
    for source in [ALIASED, ALIAS] {
        assert_eq!(rig.read(source, GIB), Ok(0x1000));
    }
    rig.detach(ALIASED).unwrap();
    rig.iommu.forget_all(platform!(rig)).unwrap();
    // Global: granularity 1 of each (VT-d 6.5.2.1, 6.5.2.3; PASID cache: 3, VT-d 6.5.2.2).
    let expected = if SHAPE.is_scalable() { vec![(1, 1), (7, 3), (2, 1)] } else { vec![(1, 1), (2, 1)] };
    for unit in 0..2 {
        assert_eq!(told(&rig, unit, expected.len()), expected, "unit {unit}");
    }
    let root = rig.units[0].read64(0x20) & !0xfff;
    let bytes = if SHAPE.is_scalable() { 32 } else { 16 };
    let table = rig.mem.read(HostPhys(root + 16)) & !0xfff;
    for source in [ALIASED, ALIAS] {
        let entry = table + u64::from(source.requester_id() & 0xff) * bytes;
        assert_eq!((0..bytes / 8).map(|word| rig.mem.read(HostPhys(entry + word * 8))).max(), Some(0));
        assert_eq!(rig.read(source, GIB), Err(0x02));
    }
    assert_eq!(rig.access(1, DISK, 0x1234, true), Ok(GIB + 0x1234));
    // No unit is switched off: this one still blocks, the other still translates.
    assert!(rig.units.iter().all(|unit| unit.status() >> 31 == 1));
    rig.iommu.drain(platform!(rig)).unwrap();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    assert!(snapshot.devices.iter().all(|device| device.source != ALIASED.requester_id()));
    rig.iommu = adopt(&rig, &mut snapshot).unwrap();
    assert_eq!(rig.read(ALIASED, GIB), Err(0x02));
    rig.assert_clean();
}

/// Who is not preserved may have entries while the next image gets ready, if it is named; when it takes over there are none.
#[test]
fn law_9_who_leaves_is_named_first_and_gone_at_last() {
    let named: Vec<_> =
        [ALIASED, ALIAS].map(|id| LeavingState { segment: id.segment(), source: id.requester_id() }).into();
    let mut rig = machine();
    let other = Token(0x600e);
    rig.detach(ALIASED).unwrap();
    rig.create(other);
    rig.map(other, GIB, 0x1000, 0x5000).unwrap();
    rig.iommu.attach(platform!(rig), ALIASED, &[ALIAS.requester_id()], other, None).unwrap();
    rig.iommu.drain(platform!(rig)).unwrap();
    // As the caller leaves out what it does not preserve.
    let without = |rig: &Rig| {
        let mut snapshot = rig.iommu.snapshot().unwrap();
        snapshot.domains.retain(|domain| domain.token != other.0);
        snapshot.dids.retain(|id| id.token != other.0);
        snapshot.devices.retain(|device| device.token != other.0);
        snapshot.aliases.clear();
        snapshot
    };
    let prepare = |rig: &Rig, snapshot: &Snapshot| {
        Iommu::prepare(snapshot, regs(rig), routes(2), &rig.mem, &|frame| rig.mem.holds(frame))
    };
    let there = |error: &Error, id: Bdf| matches!(error, Error::Entry { what: "context entry", index, .. } if *index == id.requester_id().into());
    let mut snapshot = without(&rig);
    assert!(there(&prepare(&rig, &snapshot).unwrap_err(), ALIASED), "nobody is named");
    snapshot.leaving = named[..1].to_vec();
    assert!(there(&prepare(&rig, &snapshot).unwrap_err(), ALIAS), "its other id is not named");
    snapshot.leaving = named.clone();
    let before = writes(&rig);
    let mut next = prepare(&rig, &snapshot).unwrap();
    // It is still there in the end.
    let mut rest = without(&rig);
    assert!(there(&next.finish(&mut rest, &rig.mem).unwrap_err(), ALIASED));
    assert_eq!(
        (writes(&rig), next.attach(platform!(rig), ALIASED, &[], GUEST, None)),
        (before, Err(Error::NotAdopted))
    );

    rig.detach(ALIASED).unwrap();
    rig.iommu.destroy_domain(platform!(rig), other).unwrap();
    rig.iommu.forget_all(platform!(rig)).unwrap();
    rig.iommu.drain(platform!(rig)).unwrap();
    let before = writes(&rig);
    next.finish(&mut without(&rig), &rig.mem).unwrap();
    assert_eq!(writes(&rig), before, "an adoption writes nothing");
    rig.iommu = next;
    for source in [ALIASED, ALIAS] {
        assert_eq!(rig.read(source, GIB), Err(0x02));
    }
    assert_eq!(rig.access(1, DISK, 0x1234, true), Ok(GIB + 0x1234));
    // Afterwards it is a device like any other.
    rig.iommu.attach(platform!(rig), ALIASED, &[ALIAS.requester_id()], GUEST, None).unwrap();
    assert_eq!(rig.read(ALIAS, GIB), Ok(0x1000));
    rig.assert_clean();

    // Nobody leaves and stays.
    let mut snapshot = rig.iommu.snapshot().unwrap();
    snapshot.leaving = named;
    assert!(matches!(prepare(&rig, &snapshot), Err(Error::Duplicate { what: "requester id", .. })));
}

/// Through a device's whole life, an upgrade and a failure included; the model tells of any that comes while GSTS.TES is 0.
#[test]
fn law_10_device_tlbs_are_told_only_while_translation_is_on() {
    let start = || {
        let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap | 4); 2]);
        rig.create(GUEST);
        rig.iommu.attach(platform!(rig), DISK, &[], GUEST, Some(8)).unwrap();
        rig.units[1].give_tlb(DISK.requester_id());
        rig.map(GUEST, 0x4000, 0x9000, 0x4000).unwrap();
        assert_eq!(rig.access(1, DISK, 0x4000, false), Ok(0x9000));
        rig
    };
    let mut rig = start();
    rig.unmap(GUEST, 0x4000, 0x1000).unwrap();
    rig.iommu.drain(platform!(rig)).unwrap();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let told = rig.units[1].device_tlb().len();
    rig.iommu = adopt(&rig, &mut snapshot).unwrap();
    assert_eq!(rig.units[1].device_tlb().len(), told, "an adoption tells nobody anything");
    rig.units[1].fail(Failures { device_timeouts: 1, ..Failures::default() });
    rig.unmap(GUEST, 0x5000, 0x1000).unwrap();
    rig.iommu.quarantine(platform!(rig), DISK).unwrap();
    rig.detach(DISK).unwrap();
    assert!(rig.units[1].device_tlb().len() > told);
    rig.assert_clean();

    // A unit that does not translate is not taken over, and the model does tell.
    let mut rig = start();
    rig.iommu.drain(platform!(rig)).unwrap();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let status = u64::from(rig.units[1].status());
    rig.units[1].tamper(0x1c, status & !(1 << 31));
    assert!(matches!(adopt(&rig, &mut snapshot), Err(Error::Mismatch { register: "GSTS", .. })));
    rig.unmap(GUEST, 0x4000, 0x1000).unwrap();
    assert_eq!(rig.units[1].violations(), ["a device TLB invalidation while translation is off"]);
}

/// Neither the root table's address nor its mode, nor anything else, is written by who takes over; the interrupt table is as
/// large as it is.
#[test]
fn law_12_registers_stay_and_the_interrupt_table_s_size_is_taken() {
    let mut rig = machine();
    let frames: Vec<HostPhys> = (0..2).map(|_| rig.mem.allocate().unwrap()).collect();
    assert_eq!(frames[1].0, frames[0].0 + 0x1000);
    let region = InterruptRegion { base: frames[0], order: 9 };
    rig.iommu.grow_interrupts(platform!(rig), UnitIndex(0), region).unwrap();
    rig.iommu.drain(platform!(rig)).unwrap();
    let registers = |unit: &ModelUnit| [0x1c, 0x20, 0x90, 0xb8].map(|at| unit.read64(at));
    let before: Vec<_> = rig.units.iter().map(registers).collect();
    let written = writes(&rig);
    let mut snapshot = rig.iommu.snapshot().unwrap();
    rig.iommu = adopt(&rig, &mut snapshot).unwrap();
    assert_eq!(rig.units.iter().map(registers).collect::<Vec<_>>(), before);
    assert_eq!(writes(&rig), written);
    // 512 entries here, 256 there.
    assert!(rig.iommu.allocate_interrupts(platform!(rig), NIC, 257).is_ok());
    let full = rig.iommu.allocate_interrupts(platform!(rig), DISK, 257).unwrap_err();
    assert_eq!(full, Error::NoInterruptEntry { unit: HostPhys(BASE + 0x1000), count: 257 });
    // A size that the record makes up is not believed.
    rig.iommu.drain(platform!(rig)).unwrap();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    snapshot.units[1].irta += 1;
    assert!(matches!(adopt(&rig, &mut snapshot), Err(Error::Mismatch { register: "IRTA", .. })));
    rig.assert_clean();
}

/// A mark on any single object is enough.
#[test]
fn law_15_each_object_has_a_mark_of_its_own() {
    type Mark = fn(&mut Snapshot);
    let marks: [(&str, Mark); 3] = [
        ("unit", |s| s.units[1].consumed = true),
        ("domain", |s| s.domains[1].consumed = true),
        ("device", |s| s.devices[2].consumed = true),
    ];
    let rig = machine();
    for (name, mark) in marks {
        let mut snapshot = rig.iommu.snapshot().unwrap();
        mark(&mut snapshot);
        let error = adopt(&rig, &mut snapshot).unwrap_err();
        assert!(matches!(error, Error::Consumed { what, .. } if what == name), "{name}: {error}");
    }
    let mut snapshot = rig.iommu.snapshot().unwrap();
    adopt(&rig, &mut snapshot).unwrap();
    let marked = snapshot.units.iter().map(|one| one.consumed).chain(snapshot.domains.iter().map(|one| one.consumed));
    assert!(marked.chain(snapshot.devices.iter().map(|one| one.consumed)).all(|consumed| consumed));
}

/// Nothing of an image's plan is left in the next: its first change of each kind goes through.
#[test]
fn law_16_restored_domains_accept_map_unmap_attach_and_free_at_once() {
    let mut rig = machine();
    for token in [GUEST, MANAGEMENT] {
        rig.iommu.freeze(token).unwrap();
    }
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let before = rig.mem.in_use();
    rig.iommu = adopt(&rig, &mut snapshot).unwrap();
    assert!(rig.iommu.domains().all(|domain| domain.frozen() == 0));
    rig.map(GUEST, 4 * GIB, 2 * GIB, 0x1000).unwrap();
    assert_eq!(rig.access(1, DISK, 4 * GIB, true), Ok(2 * GIB));
    rig.unmap(GUEST, 4 * GIB, 0x1000).unwrap();
    assert_eq!(rig.access(1, DISK, 4 * GIB, true), Err(0x05));
    rig.attach(Bdf::from_requester_id(0, 0x0120), GUEST).unwrap();
    rig.iommu.set_interrupt(platform!(rig), UnitIndex(1), 0, &InterruptTarget::fixed(0x77, 1)).unwrap();
    for device in [Bdf::from_requester_id(0, 0x0120), DISK, ALIASED, NIC] {
        rig.detach(device).unwrap();
    }
    for token in [GUEST, MANAGEMENT] {
        rig.iommu.destroy_domain(platform!(rig), token).unwrap();
    }
    assert!(rig.mem.in_use() < before);
    // Ids and all are free for the next.
    rig.create(Token(7));
    rig.attach(DISK, Token(7)).unwrap();
    let did = rig.iommu.snapshot().unwrap().dids;
    assert_eq!(did, [DidState { unit: BASE + 0x1000, token: 7, did: 1 }]);
    rig.assert_clean();
}

/// By whatever id it may send as, it stays its owner's until the owner lets go of it.
#[test]
fn law_17_a_restored_device_is_its_owner_s_alone() {
    let mut rig = machine();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    rig.iommu = adopt(&rig, &mut snapshot).unwrap();
    let before = writes(&rig);
    for device in [DISK, ALIASED, ALIAS] {
        let owner = if device == ALIAS { ALIASED } else { device };
        let claimed = Error::DeviceClaimed { device, owner, token: GUEST };
        assert_eq!(rig.attach(device, MANAGEMENT), Err(claimed));
    }
    let stolen = Bdf::from_requester_id(0, 0x0130);
    let alias = rig.iommu.attach(platform!(rig), stolen, &[ALIAS.requester_id()], MANAGEMENT, None);
    assert_eq!(alias, Err(Error::DeviceClaimed { device: ALIAS, owner: ALIASED, token: GUEST }));
    assert_eq!(writes(&rig), before);
    rig.detach(DISK).unwrap();
    rig.attach(DISK, MANAGEMENT).unwrap();
    rig.assert_clean();
}
