//! Handover: taking over live units, and every reason not to.

use super::SHAPE;
use crate::intel::spec::registers::Capability;
use crate::model::{Delivered, ModelUnit};
use crate::state::{AliasState, DidState, Snapshot};
use crate::tests::rig::{BASE, DISK, GUEST, MANAGEMENT, NIC, Rig, config, platform, routes};
use crate::tests::std::string::ToString;
use crate::{Bdf, Error, InterruptTarget, Iommu, Platform, UnitIndex, msi_message};
use alloc::vec::Vec;
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;

const GIB: u64 = 1 << 30;

/// Two units; a guest with a disk and an aliased card, one interrupt; the management card.
pub(super) fn machine() -> Rig {
    let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap); 2]);
    rig.create(GUEST);
    rig.create(MANAGEMENT);
    rig.map(GUEST, 0, GIB, GIB).unwrap();
    rig.map(GUEST, GIB, 0x1000, 0x5000).unwrap();
    rig.map(MANAGEMENT, 0x1000, 0x9000, 0x1000).unwrap();
    rig.attach(DISK, GUEST).unwrap();
    rig.iommu.attach(platform!(rig), Bdf::from_requester_id(0, 0x0110), &[0x0118], GUEST, None).unwrap();
    rig.attach(NIC, MANAGEMENT).unwrap();
    let range = rig.iommu.allocate_interrupts(platform!(rig), DISK, 3).unwrap();
    rig.iommu.set_interrupt(platform!(rig), range.unit, range.first, &InterruptTarget::fixed(0x51, 2)).unwrap();
    rig.iommu.drain(platform!(rig)).unwrap();
    rig
}

pub(super) fn regs(rig: &Rig) -> Vec<(HostPhys, ModelUnit)> {
    rig.units.iter().enumerate().map(|(index, unit)| (config(index).base, unit.clone())).collect()
}

pub(super) fn adopt(rig: &Rig, snapshot: &mut Snapshot) -> Result<Iommu<ModelUnit>, Error> {
    let mem = rig.mem.clone();
    Iommu::adopt(snapshot, regs(rig), routes(2), &rig.mem, &|frame| mem.holds(frame))
}

pub(super) fn writes(rig: &Rig) -> (u64, Vec<u64>) {
    (rig.mem.writes(), rig.units.iter().map(ModelUnit::writes).collect())
}

#[test]
fn adoption_writes_nothing_and_dma_goes_on() {
    let mut rig = machine();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let before = writes(&rig);
    let adopted = adopt(&rig, &mut snapshot).unwrap();
    assert_eq!(writes(&rig), before);
    assert_eq!(adopted.snapshot().unwrap().domains, rig.iommu.snapshot().unwrap().domains);
    rig.iommu = adopted;
    assert_eq!(rig.access(1, DISK, 0x1234, true), Ok(GIB + 0x1234));
    assert_eq!(rig.read(Bdf::from_requester_id(0, 0x0118), GIB), Ok(0x1000));
    assert_eq!(rig.read(NIC, 0x1000), Ok(0x9000));
    let (address, data) = msi_message(0, 0);
    assert_eq!(rig.units[1].msi(0x0300, address, data), Ok(Delivered { vector: 0x51, destination: 2 }));

    // Mutable at once: map, unmap, attach, detach, interrupts.
    rig.map(GUEST, 4 * GIB, 0, GIB).unwrap();
    assert_eq!(rig.access(1, DISK, 4 * GIB, true), Ok(0));
    rig.unmap(GUEST, 0, GIB).unwrap();
    assert_eq!(rig.access(1, DISK, 0x1234, true), Err(0x05));
    rig.detach(NIC).unwrap();
    assert_eq!(rig.read(NIC, 0x1000), Err(0x02));
    rig.attach(NIC, GUEST).unwrap();
    rig.iommu.set_interrupt(platform!(rig), UnitIndex(1), 1, &InterruptTarget::fixed(0x52, 2)).unwrap();
    let next = rig.iommu.allocate_interrupts(platform!(rig), DISK, 1).unwrap();
    assert_eq!((next.unit, next.first), (UnitIndex(1), 3));
    rig.iommu.drain(platform!(rig)).unwrap();
    rig.assert_clean();

    // And handed on again.
    let mut snapshot = rig.iommu.snapshot().unwrap();
    adopt(&rig, &mut snapshot).unwrap();
}

/// The next image prepares while the last one still works and interrupts move.
#[test]
fn prepared_early_finished_late() {
    let mut rig = machine();
    rig.iommu.freeze(GUEST).unwrap();
    rig.iommu.freeze(MANAGEMENT).unwrap();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let mem = rig.mem.clone();
    let owned = |frame| mem.holds(frame);
    let mut next = Iommu::prepare(&snapshot, regs(&rig), routes(2), &rig.mem, &owned).unwrap();
    assert_eq!(next.freeze(GUEST), Ok(1));
    assert_eq!(next.unfreeze(GUEST), Ok(0));
    let busy = next.create_domain(platform!(rig), crate::Token(7));
    assert_eq!(busy, Err(Error::NotAdopted));
    assert_eq!(next.snapshot().map(|_| ()), Err(Error::NotAdopted));

    rig.iommu.set_interrupt(platform!(rig), UnitIndex(1), 0, &InterruptTarget::fixed(0x77, 1)).unwrap();
    assert!(matches!(next.finish(&mut snapshot, &rig.mem), Err(Error::Mismatch { register: "IQT", .. })));
    rig.iommu.drain(platform!(rig)).unwrap();
    rig.iommu.snapshot_into(&mut snapshot).unwrap();
    let before = writes(&rig);
    next.finish(&mut snapshot, &rig.mem).unwrap();
    assert_eq!(writes(&rig), before);
    rig.iommu = next;
    rig.unmap(GUEST, 0, 0x1000).unwrap();
    assert_eq!(rig.access(1, DISK, 0, false), Err(0x06));
    rig.assert_clean();
}

#[test]
fn law_15_nothing_is_adopted_twice() {
    let rig = machine();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let mut adopted = adopt(&rig, &mut snapshot).unwrap();
    assert_eq!(adopt(&rig, &mut snapshot).unwrap_err(), Error::Consumed { what: "unit", name: BASE });
    assert!(matches!(adopted.finish(&mut snapshot, &rig.mem), Err(Error::Consumed { .. })));
    // A refused adoption consumes nothing.
    let mut fresh = rig.iommu.snapshot().unwrap();
    fresh.dids[0].did = 9;
    adopt(&rig, &mut fresh).unwrap_err();
    assert!(fresh.units.iter().all(|unit| !unit.consumed));
}

/// Each live register is compared, and the error names it with both values.
#[test]
fn every_register_counts() {
    let registers: [(usize, u64, &str); 15] = [
        (0x08, 1 << 3, "CAP"),
        (0x10, 1, "ECAP"),
        (0x1c, 1 << 31, "GSTS"),
        (0x1c, 1 << 25, "GSTS"),
        (0x1c, 1 << 23, "GSTS"),
        (0x20, 1 << 12, "RTADDR"),
        (0x20, 1 << 10, "RTADDR"),
        (0xb8, 1 << 11, "IRTA"),
        (0xb8, 1 << 3, "IRTA"),
        (0x90, 1 << 12, "IQA"),
        (0x38, 1 << 31, "FECTL"),
        (0x3c, 1, "FEDATA"),
        (0x40, 1 << 12, "FEADDR"),
        (0x44, 1 << 8, "FEUADDR"),
        (0xa0, 1 << 31, "IECTL"),
    ];
    for (offset, flip, name) in registers {
        let rig = machine();
        let mut snapshot = rig.iommu.snapshot().unwrap();
        let wide = matches!(offset, 0x08 | 0x10 | 0x20 | 0x90 | 0xb8);
        let old = if wide { rig.units[1].read64(offset) } else { u64::from(rig.units[1].read32(offset)) };
        rig.units[1].tamper(offset, old ^ flip);
        let error = adopt(&rig, &mut snapshot).unwrap_err();
        let unit = HostPhys(BASE + 0x1000);
        assert_eq!(error, Error::Mismatch { unit, register: name, expected: old, found: old ^ flip });
        assert!(error.to_string().contains(name));
        rig.units[1].tamper(offset, old);
        adopt(&rig, &mut snapshot).unwrap();
    }
}

#[test]
fn the_queue_must_be_empty_and_sound() {
    let rig = machine();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let tail = rig.units[0].read64(0x88);
    rig.units[0].tamper(0x80, tail ^ 0x20);
    assert!(matches!(adopt(&rig, &mut snapshot), Err(Error::Mismatch { register: "IQH", .. })));
    rig.units[0].tamper(0x80, tail);
    rig.units[0].tamper(0x34, 1 << 4);
    assert!(matches!(adopt(&rig, &mut snapshot), Err(Error::Mismatch { register: "FSTS (queue errors)", .. })));
    rig.units[0].tamper(0x34, 1 << 6);
    assert!(matches!(adopt(&rig, &mut snapshot), Err(Error::Mismatch { register: "FSTS (queue errors)", .. })));
    // What a device may cause by itself does not stop an upgrade.
    rig.units[0].tamper(0x34, 1 << 5);
    adopt(&rig, &mut snapshot.clone()).unwrap();
    rig.units[0].tamper(0x34, 0);
    snapshot.units[0].sequence += 1;
    let error = adopt(&rig, &mut snapshot).unwrap_err();
    assert!(matches!(error, Error::Mismatch { register: "the invalidation status word", .. }));
}

/// Faults that happen in the pause are reported by the next image, after those before.
#[test]
fn law_11_faults_of_the_pause_are_carried_over() {
    let mut rig = machine();
    let stranger = Bdf::from_requester_id(0, 0x0001);
    assert!(rig.read(stranger, 0).is_err());
    rig.service_faults();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    assert!(rig.read(stranger, 0x1000).is_err());
    rig.iommu = adopt(&rig, &mut snapshot).unwrap();
    assert_eq!(rig.service_faults(), 1);
    assert_eq!((rig.iommu.faults().total, rig.iommu.faults().lines()[0].count), (2, 2));
}

type Change = fn(&mut Snapshot);

/// Records that contradict themselves or the tables.
#[test]
fn lies_are_refused() {
    let changes: [(&str, Change); 24] = [
        ("a unit that is not there", |s| s.units[0].base += 0x8000),
        ("a unit twice", |s| s.units.push(s.units[0])),
        ("the other mode", |s| s.units[0].rtaddr ^= 1 << 10),
        ("translation off", |s| s.units[0].gsts &= !(1 << 31)),
        ("a queue of the other width", |s| s.units[0].iqa ^= 1 << 11),
        ("a tail outside the queue", |s| s.units[0].iqt = 0x1000),
        ("a status word elsewhere", |s| s.units[0].status = 0x1000),
        ("a domain twice", |s| s.domains.push(s.domains[0])),
        ("a root that is no frame", |s| s.domains[0].root += 8),
        ("a root that is not ours", |s| s.domains[0].root = 0x1000),
        ("a root of another domain", |s| s.domains[0].root = s.domains[1].root),
        ("too few levels", |s| s.domains[0].levels = 3),
        ("too many levels", |s| s.domains[0].levels = 6),
        ("unknown leaves", |s| s.domains[0].leaf_sizes = 4),
        ("a domain id of two domains", |s| {
            let (unit, did) = (s.dids[0].unit, s.dids[0].did);
            for other in s.dids.iter_mut().filter(|other| other.unit == unit) {
                other.did = did;
            }
        }),
        ("domain id 0", |s| s.dids[0].did = 0),
        ("another domain id", |s| s.dids[0].did = 77),
        ("a domain id without a domain", |s| s.dids.push(DidState { token: 99, did: 50, ..s.dids[0] })),
        ("a device without a domain", |s| s.devices[0].token = 99),
        ("a device in another domain", |s| s.devices[0].token = if s.devices[0].token == 1 { 0x600d } else { 1 }),
        ("a device twice", |s| s.devices.push(s.devices[0])),
        ("a device that is missing", |s| s.devices.truncate(s.devices.len() - 1)),
        ("an alias that is another device", |s| {
            s.aliases.push(AliasState { segment: 0, source: s.devices[0].source, alias: s.devices[1].source });
        }),
        ("an alias of nobody", |s| s.aliases.push(AliasState { segment: 0, source: 0x7777, alias: 0x7778 })),
    ];
    let rig = machine();
    for (lie, change) in changes {
        let mut snapshot = rig.iommu.snapshot().unwrap();
        change(&mut snapshot);
        let before = writes(&rig);
        let result = adopt(&rig, &mut snapshot);
        assert!(result.is_err(), "{lie} was believed");
        assert!(!result.unwrap_err().to_string().is_empty());
        assert_eq!(writes(&rig), before);
    }
    let mut snapshot = rig.iommu.snapshot().unwrap();
    adopt(&rig, &mut snapshot).unwrap();
}

#[test]
fn law_14_a_domain_id_is_reserved_on_its_own_unit_only() {
    let rig = machine();
    let snapshot = rig.iommu.snapshot().unwrap();
    // The guest has an id on either unit; both are the first free ones, and differ in owner.
    let ids: Vec<(u64, u16)> = snapshot.dids.iter().map(|did| (did.unit, did.did)).collect();
    assert!(ids.contains(&(BASE, 1)) && ids.contains(&(BASE + 0x1000, 1)));
    let mut claimed = snapshot.clone();
    let second = claimed.dids.iter().position(|did| did.unit == BASE && did.did == 2).unwrap();
    claimed.dids[second].did = 1;
    let error = adopt(&rig, &mut claimed).unwrap_err();
    assert!(matches!(error, Error::DomainIdClaimed { unit: HostPhys(BASE), did: 1, .. }), "{error}");
}

#[test]
fn interrupt_entries_are_compared() {
    let changes: [(&str, Change); 9] = [
        ("an owner behind another unit", |s| s.irtes[0].owner = Some(NIC)),
        ("an owner behind no unit", |s| s.irtes[0].owner = Some(Bdf::from_requester_id(9, 0))),
        ("an entry of a unit that is not there", |s| s.irtes[0].unit += 0x8000),
        ("another vector", |s| s.irtes[0].low ^= 1 << 16),
        ("another source", |s| s.irtes[0].high ^= 1),
        ("posted", |s| s.irtes[0].low |= 1 << 15),
        ("outside the table", |s| s.irtes[0].index = 0x1000),
        ("a present entry that is missing", |s| s.irtes.retain(|irte| irte.index != 0)),
        ("twice", |s| s.irtes.push(s.irtes[0])),
    ];
    let rig = machine();
    for (lie, change) in changes {
        let mut snapshot = rig.iommu.snapshot().unwrap();
        change(&mut snapshot);
        assert!(adopt(&rig, &mut snapshot).is_err(), "{lie} was believed");
    }
    // Memory and record agree on an entry that anybody may use: this driver wrote no such thing.
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let open = snapshot.irtes[0].high & !(3 << 18);
    let place = HostPhys((rig.units[1].read64(0xb8) & !0xfff) + 8);
    rig.mem.clone().write(place, open);
    snapshot.irtes[0].high = open;
    let error = adopt(&rig, &mut snapshot).unwrap_err();
    assert_eq!(error, Error::BadRecord { what: "interrupt entry", value: 0 });
}

/// Tables in memory that changed, or that lead into memory that is not the IOMMU's.
#[test]
fn tables_are_compared() {
    let mut rig = machine();
    let root = rig.units[1].read64(0x20) & !0xfff;
    let entry_bytes = if SHAPE.is_scalable() { 32 } else { 16 };
    let context = rig.mem.read(HostPhys(root + 3 * 16)) & !0xfff;
    let pml4 = rig.iommu.domain(GUEST).unwrap().root();
    let places = [
        ("a root entry too many", root + 9 * 16, 0x1001u64),
        ("a reserved bit in a root entry", root + 3 * 16, context | 3),
        ("a device too many", context + 5 * entry_bytes, 0x1001),
        ("a device too few", context, 0),
        ("another table for a device", context, 0x1001),
        ("a table elsewhere", pml4.0 + 8 * 8, 0x5003),
        ("a loop", pml4.0 + 8 * 8, pml4.0 | 3),
    ];
    for (lie, at, value) in places {
        let old = rig.mem.read(HostPhys(at));
        rig.mem.write(HostPhys(at), value);
        let mut snapshot = rig.iommu.snapshot().unwrap();
        assert!(adopt(&rig, &mut snapshot).is_err(), "{lie} was believed");
        rig.mem.write(HostPhys(at), old);
    }
    let mut snapshot = rig.iommu.snapshot().unwrap();
    adopt(&rig, &mut snapshot).unwrap();
}

#[test]
fn law_12_every_unit_is_accounted_for() {
    let rig = machine();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let missing = Iommu::adopt(&mut snapshot, regs(&rig)[..1].to_vec(), routes(1), &rig.mem, &|_| true);
    assert_eq!(missing.unwrap_err(), Error::MissingUnit { unit: HostPhys(BASE + 0x1000) });
    snapshot.units.pop();
    assert_eq!(adopt(&rig, &mut snapshot).unwrap_err(), Error::UnknownUnit { unit: HostPhys(BASE + 0x1000) });
    // The machine's own view of who translates for whom counts, too.
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let moved = Iommu::adopt(&mut snapshot, regs(&rig), routes(1), &rig.mem, &|_| true);
    assert!(matches!(moved, Err(Error::AliasElsewhere { device: DISK, .. })));
}

/// A thousand plan-and-cancel rounds leak no frame and leave nothing frozen.
#[test]
fn law_8_a_thousand_plans_and_cancels_leak_nothing() {
    let mut rig = machine();
    let (frames, before) = (rig.mem.in_use(), rig.iommu.snapshot().unwrap());
    for _ in 0..1_000 {
        rig.iommu.freeze(GUEST).unwrap();
        rig.iommu.inspect(&rig.mem, &|frame| rig.mem.holds(frame), &[GUEST], &mut |_, _| true).unwrap();
        rig.iommu.snapshot().unwrap();
        rig.iommu.unfreeze(GUEST).unwrap();
    }
    assert_eq!((rig.mem.in_use(), rig.iommu.snapshot().unwrap()), (frames, before));
    rig.map(GUEST, 8 * GIB, 0, 0x1000).unwrap();
}

/// The record says what was written to the registers; the model says what they show.
#[test]
fn the_record_is_what_registers_show() {
    let rig = machine();
    for (state, unit) in rig.iommu.snapshot().unwrap().units.iter().zip(&rig.units) {
        assert_eq!(state.rtaddr, unit.read64(0x20));
        assert_eq!((state.irta, state.iqa), (unit.read64(0xb8), unit.read64(0x90)));
        assert_eq!((state.iqt, state.gsts), (unit.read64(0x80), unit.status()));
        assert_eq!(Capability::from_bits(state.cap).into_bits(), unit.read64(0x08));
    }
}
