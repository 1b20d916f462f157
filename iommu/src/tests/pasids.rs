//! Several PASIDs behind one device: each reaches its own domain and no other, in life and in
//! upgrades.

use super::SHAPE;
use crate::model::{Failures, ModelUnit};
use crate::state::{PasidState, Snapshot};
use crate::tests::rig::{BASE, DISK, GUEST, MANAGEMENT, NIC, Rig, config, platform, routes};
use crate::tests::std::string::ToString;
use crate::{Error, Iommu, Platform, Token};
use machine::access::{Registers, TableMemory};
use machine::addr::{HostPhys, Iova};

/// A domain of one process of the guest.
const PROCESS: Token = Token(0x9999);
/// ECAP.PASID with 16 bits of it, and device TLBs.
const PASIDS: u64 = 1 << 40 | 15 << 35 | 1 << 2;

/// The guest's disk with two PASIDs, the second of them far from the first.
fn two() -> Rig {
    let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap | PASIDS)]);
    for token in [GUEST, PROCESS, MANAGEMENT] {
        rig.create(token);
    }
    rig.attach(DISK, GUEST).unwrap();
    rig.attach_pasid(DISK, 5, PROCESS).unwrap();
    rig.attach_pasid(DISK, 0x4321, MANAGEMENT).unwrap();
    rig.map(GUEST, 0x1000, 0xa000, 0x1000).unwrap();
    rig.map(PROCESS, 0x1000, 0xb000, 0x1000).unwrap();
    rig.map(MANAGEMENT, 0x1000, 0xc000, 0x1000).unwrap();
    rig
}

fn reads(rig: &Rig) -> [Result<u64, u8>; 3] {
    let pasid = |pasid| rig.read_with_pasid(DISK, pasid, 0x1000);
    [rig.read(DISK, 0x1000), pasid(5), pasid(0x4321)]
}

#[test]
fn each_pasid_reaches_its_own_domain() {
    let mut rig = two();
    assert_eq!(reads(&rig), [Ok(0xa000), Ok(0xb000), Ok(0xc000)]);
    // PASID 0 is what requests without PASID use; the others lead nowhere.
    assert_eq!(rig.read_with_pasid(DISK, 0, 0x1000), Ok(0xa000));
    assert_eq!(rig.read_with_pasid(DISK, 6, 0x1000), Err(0x59));
    assert_eq!(rig.read_with_pasid(DISK, 0x1000, 0x1000), Err(0x51));
    assert_eq!(rig.read_with_pasid(DISK, 0x8000, 0x1000), Err(0x46));
    assert_eq!(rig.read_with_pasid(NIC, 5, 0x1000), Err(0x01));
    assert_eq!(rig.service_faults(), 1);
    assert_eq!(rig.iommu.faults().lines()[0].fault.pasid, Some(6));

    // A change of one domain is not one of another's, however warm the caches are.
    rig.unmap(PROCESS, 0x1000, 0x1000).unwrap();
    assert_eq!(reads(&rig), [Ok(0xa000), Err(0x06), Ok(0xc000)]);
    rig.map(PROCESS, 0x1000, 0xd000, 0x1000).unwrap();
    rig.unmap(MANAGEMENT, 0x1000, 0x1000).unwrap();
    assert_eq!(reads(&rig), [Ok(0xa000), Ok(0xd000), Err(0x06)]);
    rig.assert_clean();
}

/// However many PASIDs share a domain, forgetting a page of it is one submission.
#[test]
fn many_pasids_are_one_submission() {
    let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap | 1 << 40 | 15 << 35)]);
    rig.create(GUEST);
    rig.attach(DISK, GUEST).unwrap();
    rig.map(GUEST, 0x1000, 0xa000, 0x1000).unwrap();
    for pasid in 1..=100 {
        rig.attach_pasid(DISK, pasid, GUEST).unwrap();
        assert_eq!(rig.read_with_pasid(DISK, pasid, 0x1000), Ok(0xa000));
    }
    let before = rig.units[0].submissions();
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    assert_eq!(rig.units[0].submissions(), before + 1);
    assert!((0..=100).all(|pasid| rig.read_with_pasid(DISK, pasid, 0x1000) == Err(0x06)));
    rig.assert_clean();
}

#[test]
fn a_detached_pasid_is_blocked_and_its_domain_id_is_clean() {
    let mut rig = two();
    assert_eq!(reads(&rig), [Ok(0xa000), Ok(0xb000), Ok(0xc000)]);
    let did = rig.iommu.domain(PROCESS).unwrap().id_on(crate::UnitIndex(0));
    assert_eq!(rig.detach(DISK), Err(Error::PasidAttached { device: DISK, pasid: 5 }));
    rig.detach_pasid(DISK, 5).unwrap();
    assert_eq!(reads(&rig), [Ok(0xa000), Err(0x59), Ok(0xc000)]);
    assert_eq!(rig.iommu.domain(PROCESS).unwrap().id_on(crate::UnitIndex(0)), None);
    // The next domain gets the id, and finds nothing of the last under it.
    let next = Token(0x77);
    rig.create(next);
    rig.attach_pasid(DISK, 5, next).unwrap();
    assert_eq!(rig.iommu.domain(next).unwrap().id_on(crate::UnitIndex(0)), did);
    assert_eq!(reads(&rig), [Ok(0xa000), Err(0x06), Ok(0xc000)]);
    rig.detach_pasid(DISK, 5).unwrap();
    rig.detach_pasid(DISK, 0x4321).unwrap();
    assert_eq!(rig.detach_pasid(DISK, 5), Err(Error::NoPasid { device: DISK, pasid: 5 }));
    rig.detach(DISK).unwrap();
    assert_eq!(reads(&rig), [Err(0x02); 3]);
    rig.assert_clean();
}

/// One domain, reached without PASID and with two: one unmapping is enough for all.
#[test]
fn one_domain_under_several_pasids() {
    let mut rig = two();
    rig.attach_pasid(DISK, 7, GUEST).unwrap();
    rig.attach(NIC, GUEST).unwrap();
    rig.attach_pasid(NIC, 8, GUEST).unwrap();
    let all = |rig: &Rig| {
        [
            rig.read(DISK, 0x1000),
            rig.read_with_pasid(DISK, 7, 0x1000),
            rig.read(NIC, 0x1000),
            rig.read_with_pasid(NIC, 8, 0x1000),
        ]
    };
    assert_eq!(all(&rig), [Ok(0xa000); 4]);
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    assert_eq!(all(&rig), [Err(0x06); 4]);
    rig.map(GUEST, 0x1000, 0xe000, 0x1000).unwrap();
    rig.detach_pasid(DISK, 7).unwrap();
    assert_eq!(all(&rig), [Ok(0xe000), Err(0x59), Ok(0xe000), Ok(0xe000)]);
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    assert_eq!(all(&rig), [Err(0x06), Err(0x59), Err(0x06), Err(0x06)]);
    rig.assert_clean();
}

#[test]
fn refusals_are_named_and_change_nothing() {
    let mut rig = two();
    let before = (rig.mem.in_use(), rig.iommu.snapshot().unwrap());
    let claimed = Error::PasidClaimed { device: DISK, pasid: 5, token: PROCESS };
    assert_eq!(rig.attach_pasid(DISK, 5, GUEST), Err(claimed));
    assert_eq!(rig.attach_pasid(NIC, 5, GUEST), Err(Error::NotAttached { device: NIC }));
    assert_eq!(rig.attach_pasid(DISK, 9, Token(0x55)), Err(Error::NoDomain { token: Token(0x55) }));
    for pasid in [0, 0x8000, 0x10_0000] {
        let range = Error::PasidRange { device: DISK, pasid, limit: 0x8000 };
        assert_eq!(rig.attach_pasid(DISK, pasid, GUEST), Err(range));
        assert!(range.to_string().contains("0000:03:00.0") && range.to_string().contains("0x7fff"));
    }
    rig.iommu.freeze(PROCESS).unwrap();
    for result in [rig.attach_pasid(DISK, 9, PROCESS), rig.detach_pasid(DISK, 5)] {
        assert!(matches!(result, Err(Error::Busy { token: PROCESS, .. })));
    }
    rig.iommu.unfreeze(PROCESS).unwrap();
    // A device whose own domain is frozen is in an upgrade, too.
    rig.iommu.freeze(GUEST).unwrap();
    for result in [rig.attach_pasid(DISK, 9, PROCESS), rig.detach_pasid(DISK, 5)] {
        assert!(matches!(result, Err(Error::Busy { token: GUEST, .. })));
    }
    rig.iommu.unfreeze(GUEST).unwrap();
    let used = Error::DomainInUse { token: PROCESS, device: DISK };
    assert_eq!(rig.iommu.destroy_domain(platform!(rig), PROCESS), Err(used));
    assert_eq!((rig.mem.in_use(), rig.iommu.snapshot().unwrap()), before);

    // Without ECAP.PASID there are none.
    let mut rig = Rig::guest_of(SHAPE);
    let error = rig.attach_pasid(DISK, 1, GUEST).unwrap_err();
    assert!(error.to_string().contains("ECAP.PASID"));
    assert_eq!(rig.read_with_pasid(DISK, 1, 0x1000), Err(0x45));
}

#[test]
fn out_of_memory_changes_nothing() {
    let mut rig = two();
    let before = rig.iommu.snapshot().unwrap();
    rig.mem.limit(rig.mem.in_use());
    let error = rig.attach_pasid(DISK, 0x100, PROCESS).unwrap_err();
    assert_eq!(error, Error::OutOfMemory { what: "a PASID table" });
    assert_eq!(rig.attach(NIC, PROCESS), Err(Error::OutOfMemory { what: "a context table" }));
    for (spare, what) in [(1, "a PASID directory"), (2, "a PASID table")] {
        rig.mem.limit(rig.mem.in_use() + spare);
        // The context table of a bus stays when the rest fails.
        let device = crate::Bdf::from_requester_id(0, 0x0700 + 0x100 * spare as u16);
        assert_eq!(rig.attach(device, PROCESS), Err(Error::OutOfMemory { what }));
    }
    assert_eq!(rig.iommu.snapshot().unwrap(), before);
    // A place in a table that is there costs nothing.
    rig.attach_pasid(DISK, 6, PROCESS).unwrap();
}

/// What an invalidation that failed left is not reused.
#[test]
fn a_failed_detach_leaves_the_domain_stale() {
    let mut rig = two();
    assert_eq!(reads(&rig), [Ok(0xa000), Ok(0xb000), Ok(0xc000)]);
    rig.fail(Failures { dead_queue: true, ..Failures::default() });
    assert!(matches!(rig.detach_pasid(DISK, 5), Err(Error::Timeout { .. })));
    // Hardware still has it, as the model shows.
    assert_eq!(reads(&rig)[1], Ok(0xb000));
    assert_eq!(rig.attach_pasid(DISK, 6, PROCESS), Err(Error::Stale { token: PROCESS }));
    rig.fail(Failures::default());
    rig.units[0].write_tail_again();
    rig.detach_pasid(DISK, 5).unwrap();
    assert_eq!(reads(&rig), [Ok(0xa000), Err(0x59), Ok(0xc000)]);
    rig.attach_pasid(DISK, 6, PROCESS).unwrap();
}

/// A device with a TLB is told with the PASID that the change was for.
#[test]
fn device_tlbs_are_told_by_pasid() {
    let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap | PASIDS)]);
    rig.create(GUEST);
    rig.create(PROCESS);
    rig.iommu.attach(platform!(rig), DISK, &[], GUEST, Some(8)).unwrap();
    rig.attach_pasid(DISK, 5, PROCESS).unwrap();
    rig.map(GUEST, 0x1000, 0xa000, 0x1000).unwrap();
    rig.map(PROCESS, 0x1000, 0xb000, 0x1000).unwrap();
    rig.unmap(PROCESS, 0x1000, 0x1000).unwrap();
    assert_eq!((rig.units[0].device_tlb().len(), rig.units[0].pasid_device_tlb().len()), (0, 1));
    let (source, pasid, address) = rig.units[0].pasid_device_tlb()[0];
    assert_eq!((source, pasid, address & !0xfff), (0x0300, 5, 0x1000));
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    assert_eq!((rig.units[0].device_tlb().len(), rig.units[0].pasid_device_tlb().len()), (1, 1));
    rig.detach_pasid(DISK, 5).unwrap();
    assert_eq!(rig.units[0].pasid_device_tlb().len(), 2);
    rig.assert_clean();
}

fn adopt(rig: &Rig, snapshot: &mut Snapshot) -> Result<Iommu<ModelUnit>, Error> {
    let mem = rig.mem.clone();
    let regs = [(config(0).base, rig.units[0].clone())].to_vec();
    Iommu::adopt(snapshot, regs, routes(1), &rig.mem, &|frame| mem.holds(frame))
}

/// An upgrade with two PASIDs on one device: nothing is written, nothing is lost, and the next
/// image can change all of it.
#[test]
fn an_upgrade_keeps_every_pasid() {
    let mut rig = two();
    rig.iommu.drain(platform!(rig)).unwrap();
    assert_eq!(reads(&rig), [Ok(0xa000), Ok(0xb000), Ok(0xc000)]);
    let mut snapshot = rig.iommu.snapshot().unwrap();
    assert_eq!(snapshot.pasids.len(), 2);
    let first = PasidState { unit: BASE, token: PROCESS.0, pasid: 5, segment: 0, source: 0x0300, consumed: false };
    assert_eq!(snapshot.pasids[0], first);
    let before = (rig.mem.writes(), rig.units[0].writes());
    let adopted = adopt(&rig, &mut snapshot).unwrap();
    assert_eq!((rig.mem.writes(), rig.units[0].writes()), before);
    assert!(snapshot.pasids.iter().all(|state| state.consumed));
    assert!(matches!(adopt(&rig, &mut snapshot), Err(Error::Consumed { .. })));
    let mut frames = (0, 0);
    rig.iommu.frames(&rig.mem, |_| frames.0 += 1);
    adopted.frames(&rig.mem, |_| frames.1 += 1);
    assert_eq!(frames, (rig.mem.in_use(), rig.mem.in_use()));
    rig.iommu = adopted;
    assert_eq!(reads(&rig), [Ok(0xa000), Ok(0xb000), Ok(0xc000)]);
    rig.unmap(PROCESS, 0x1000, 0x1000).unwrap();
    assert_eq!(reads(&rig), [Ok(0xa000), Err(0x06), Ok(0xc000)]);
    rig.map(PROCESS, 0x1000, 0xd000, 0x1000).unwrap();
    rig.attach_pasid(DISK, 6, GUEST).unwrap();
    assert_eq!(rig.read_with_pasid(DISK, 6, 0x1000), Ok(0xa000));
    rig.detach_pasid(DISK, 0x4321).unwrap();
    assert_eq!(reads(&rig), [Ok(0xa000), Ok(0xd000), Err(0x59)]);
    rig.iommu.drain(platform!(rig)).unwrap();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    adopt(&rig, &mut snapshot).unwrap();
    rig.assert_clean();
}

type Change = fn(&mut Snapshot);

#[test]
fn lies_are_refused() {
    let changes: [(&str, Change); 13] = [
        ("a PASID too few", |s| s.pasids.truncate(1)),
        ("no PASID", |s| s.pasids.clear()),
        ("a PASID too many", |s| s.pasids.push(PasidState { pasid: 9, ..s.pasids[0] })),
        ("a PASID twice", |s| s.pasids.push(s.pasids[0])),
        ("another PASID", |s| s.pasids[0].pasid = 6),
        ("PASID 0", |s| s.pasids[0].pasid = 0),
        ("a PASID beyond the directory", |s| s.pasids[0].pasid = 0x8000),
        ("a PASID of another domain", |s| s.pasids[0].token = s.pasids[1].token),
        ("a PASID of no domain", |s| s.pasids[0].token = 0x55),
        ("a PASID of no device", |s| s.pasids[0].source = 0x0400),
        ("a PASID behind no unit", |s| s.pasids[0].unit += 0x1000),
        ("another directory", |s| s.devices[0].directory += 0x1000),
        ("no directory", |s| s.devices[0].directory = 0),
    ];
    let rig = two();
    for (lie, change) in changes {
        let mut snapshot = rig.iommu.snapshot().unwrap();
        change(&mut snapshot);
        assert!(adopt(&rig, &mut snapshot).is_err(), "{lie} was believed");
    }
    let mut snapshot = rig.iommu.snapshot().unwrap();
    adopt(&rig, &mut snapshot).unwrap();
}

/// Every page of the directory and every table is looked at, in both halves of the context tables.
#[test]
fn law_13_every_page_of_a_directory_is_compared() {
    let mut rig = two();
    let root = rig.units[0].read64(0x20) & !0xfff;
    let context = rig.mem.read(HostPhys(root + 3 * 16)) & !0xfff;
    let directory = rig.mem.read(HostPhys(context)) & !0xfff;
    let low = rig.mem.read(HostPhys(directory)) & !0xfff;
    let far = rig.mem.read(HostPhys(directory + 0x4321 / 64 * 8)) & !0xfff;
    let slot = 0x4321 % 64 * 64;
    let places = [
        ("an upper half of the bus that nobody is in", root + 3 * 16 + 8, 0x1001),
        ("reserved bits in a root half", root + 3 * 16, context | 3),
        ("a device too many", context + 32, directory | 0x401),
        ("the upper half of a context entry", context + 16, 1),
        ("another RID_PASID", context + 8, 5),
        ("a PASID table too many", directory + 8, 0x1001),
        ("reserved bits in a directory entry", directory, low | 5),
        ("a table twice", directory + 8, low | 1),
        ("a device's own PASID gone", low, 0),
        ("a PASID too many", low + 9 * 64, 0x1041),
        ("another domain id", low + 5 * 64 + 8, 0x77),
        ("the first-stage half of an entry", low + 5 * 64 + 16, 0x5005),
        ("the reserved half of an entry", low + 5 * 64 + 40, 1),
        ("the far PASID gone", far + slot, 0),
        ("a PASID next to the far one", far + slot + 64, 0x1041),
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

/// Devices of the upper half of a bus (16 and above) have a context table of their own.
#[test]
fn law_13_both_halves_of_a_bus_are_adopted() {
    let mut rig = two();
    let upper = crate::Bdf::new(0, 3, 0x1f, 7).unwrap();
    assert_eq!(rig.read(upper, 0x1000), Err(0x01));
    rig.attach(upper, PROCESS).unwrap();
    assert_eq!(rig.read(upper, 0x1000), Ok(0xb000));
    assert_eq!(rig.read(crate::Bdf::new(0, 3, 0x10, 0).unwrap(), 0x1000), Err(0x02));
    rig.iommu.drain(platform!(rig)).unwrap();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    rig.iommu = adopt(&rig, &mut snapshot).unwrap();
    rig.detach(upper).unwrap();
    assert_eq!((rig.read(upper, 0x1000), rig.read(DISK, 0x1000)), (Err(0x02), Ok(0xa000)));
    assert_eq!(rig.iommu.translate(&rig.mem, PROCESS, Iova(0x1000)).map(|found| found.to), Some(HostPhys(0xb000)));
}
