//! Interrupts: who may raise which.

use super::SHAPE;
use crate::intel::spec::registers::Capability;
use crate::model::{Blocked, Delivered, Failures, ModelClock, ModelMemory, ModelUnit, Signal};
use crate::state::Snapshot;
use crate::tests::rig::{BASE, DISK, GUEST, NIC, Rig, config, platform, routes};
use crate::tests::std::string::ToString;
use crate::{
    Access, Bdf, Error, InterruptRange, InterruptRegion, InterruptSource, InterruptTarget, Iommu, Platform, UnitConfig,
    UnitIndex, msi_message,
};
use alloc::vec;
use alloc::vec::Vec;
use machine::access::TableMemory;
use machine::addr::HostPhys;

const UNIT: UnitIndex = UnitIndex(0);

fn send(rig: &Rig, source: u16, index: u16, subhandle: u16) -> Result<Delivered, Blocked> {
    let (address, data) = msi_message(index, subhandle);
    rig.units[0].msi(source, address, data)
}

#[test]
fn only_the_source_may_use_its_entry() {
    let mut rig = Rig::of(SHAPE);
    let range = rig.iommu.allocate_interrupts(platform!(rig), DISK, 1).unwrap();
    assert_eq!(send(&rig, 0x0300, range.first, 0), Err(Blocked(0x22)));
    let target = InterruptTarget::fixed(0x51, 0x1_0002);
    rig.iommu.set_interrupt(platform!(rig), UNIT, range.first, &target).unwrap();
    rig.service_faults();
    assert_eq!(send(&rig, 0x0300, range.first, 0), Ok(Delivered { vector: 0x51, destination: 0x1_0002 }));
    assert_eq!(send(&rig, 0x0108, range.first, 0), Err(Blocked(0x26)));
    rig.service_faults();
    let fault = rig.iommu.faults().lines()[1].fault;
    assert_eq!((fault.device, fault.access), (NIC, Access::Interrupt(range.first)));
    assert!(fault.to_string().contains("belongs to another source"));
    rig.assert_clean();
}

#[test]
fn entries_are_updated_cleared_and_freed_at_once() {
    let mut rig = Rig::of(SHAPE);
    let range = rig.iommu.allocate_interrupts(platform!(rig), DISK, 4).unwrap();
    assert_eq!(range, InterruptRange { unit: UNIT, first: 0, count: 4 });
    for message in 0..4u8 {
        let target = InterruptTarget::fixed(0x60 + message, 1);
        rig.iommu.set_interrupt(platform!(rig), UNIT, u16::from(message), &target).unwrap();
        // The messages of plain MSI: one handle, and the device adds its number to the data.
        let delivered = send(&rig, 0x0300, range.first, u16::from(message)).unwrap();
        assert_eq!(delivered, Delivered { vector: 0x60 + message, destination: 1 });
    }
    rig.iommu.set_interrupt(platform!(rig), UNIT, 2, &InterruptTarget::fixed(0x99, 7)).unwrap();
    assert_eq!(send(&rig, 0x0300, 2, 0), Ok(Delivered { vector: 0x99, destination: 7 }));
    rig.iommu.clear_interrupt(platform!(rig), UNIT, 2).unwrap();
    assert_eq!(send(&rig, 0x0300, 2, 0), Err(Blocked(0x22)));
    assert_eq!(rig.iommu.interrupt_source(UNIT, 2), Some(InterruptSource::Function(0x0300)));
    rig.iommu.free_interrupts(platform!(rig), range).unwrap();
    assert_eq!(send(&rig, 0x0300, 0, 0), Err(Blocked(0x22)));
    let again = rig.iommu.free_interrupts(platform!(rig), range);
    assert_eq!(again, Err(Error::NoSuchInterrupt { unit: HostPhys(BASE), index: 0 }));
    let next = rig.iommu.allocate_interrupts(platform!(rig), NIC, 1).unwrap();
    assert_eq!((next.first, rig.iommu.interrupt_source(UNIT, 0)), (0, Some(InterruptSource::Function(0x0108))));
}

#[test]
fn the_table_runs_out() {
    let mut rig = Rig::of(SHAPE);
    let mut given = 0;
    let error = loop {
        match rig.iommu.allocate_interrupts(platform!(rig), DISK, 32) {
            Ok(_) => given += 32,
            Err(error) => break error,
        }
    };
    assert_eq!((given, error), (256, Error::NoInterruptEntry { unit: HostPhys(BASE), count: 32 }));
    let target = InterruptTarget::fixed(0x51, 0);
    let outside = rig.iommu.set_interrupt(platform!(rig), UNIT, 256, &target);
    assert_eq!(outside, Err(Error::NoSuchInterrupt { unit: HostPhys(BASE), index: 256 }));
    assert_eq!(send(&rig, 0x0300, 256, 0), Err(Blocked(0x21)));
}

#[test]
fn ioapics_and_small_apic_ids() {
    let (mut mem, clock) = (ModelMemory::default(), ModelClock::default());
    let unit = ModelUnit::new(&mem, SHAPE.cap, SHAPE.ecap);
    let config = UnitConfig { x2apic: false, ..config(0) };
    let platform = &mut Platform { mem: &mut mem, clock: &clock };
    let mut iommu = Iommu::init_cold(vec![(config, unit.clone())], routes(1), platform).unwrap();
    let range = iommu.allocate_interrupts_at(platform, UNIT, InterruptSource::Function(0xf0f8), 1).unwrap();
    let wide = iommu.set_interrupt(platform, UNIT, range.first, &InterruptTarget::fixed(0x31, 0x100));
    assert_eq!(wide, Err(Error::Destination { unit: HostPhys(BASE), apic_id: 0x100 }));
    let target = InterruptTarget { level: true, ..InterruptTarget::fixed(0x31, 3) };
    iommu.set_interrupt(platform, UNIT, range.first, &target).unwrap();
    let (address, data) = msi_message(range.first, 0);
    assert_eq!(unit.msi(0xf0f8, address, data), Ok(Delivered { vector: 0x31, destination: 3 }));
}

/// Behind a bridge a device's messages bear one of several ids; each is let through, and nobody else.
#[test]
fn aliases_and_phantom_functions_may_use_the_entry() {
    let mut rig = Rig::of(SHAPE);
    rig.create(GUEST);
    let device = Bdf::from_requester_id(0, 0x0508);
    rig.iommu.attach(platform!(rig), device, &[0x0300], GUEST, None).unwrap();
    let bridged = rig.iommu.allocate_interrupts(platform!(rig), device, 1).unwrap();
    let phantom = InterruptSource::Phantom { source: 0x0108, bits: 2 };
    let phantom = rig.iommu.allocate_interrupts_at(platform!(rig), UNIT, phantom, 1).unwrap();
    // Its neighbour behind the bridge: attached under its own id only, since the bridge's is taken.
    let neighbour = Bdf::from_requester_id(0, 0x0510);
    rig.iommu.attach(platform!(rig), neighbour, &[], GUEST, None).unwrap();
    let bridge = InterruptSource::Function(0x0300);
    let shared = rig.iommu.allocate_interrupts_as(platform!(rig), neighbour, bridge, 1).unwrap();
    for range in [bridged, phantom, shared] {
        rig.iommu.set_interrupt(platform!(rig), UNIT, range.first, &InterruptTarget::fixed(0x51, 1)).unwrap();
    }
    for (index, sources, others) in [
        (bridged.first, [0x0300, 0x0508, 0x04ff], [0x0108, 0x02ff, 0x0600]),
        (phantom.first, [0x0108, 0x010a, 0x010e], [0x0109, 0x0110, 0x0208]),
        (shared.first, [0x0300; 3], [0x0510, 0x0508, 0x0301]),
    ] {
        assert!(sources.iter().all(|source| send(&rig, *source, index, 0).is_ok()));
        assert!(others.iter().all(|source| send(&rig, *source, index, 0) == Err(Blocked(0x26))));
    }
    let owners: Vec<_> = rig.iommu.snapshot().unwrap().irtes.iter().map(|irte| irte.owner).collect();
    assert_eq!(owners, [Some(device), None, Some(neighbour)]);
    rig.assert_clean();
}

fn posting(change: impl Fn(Capability) -> Capability) -> (Rig, InterruptRange) {
    let mut rig = Rig::with(&[(SHAPE.change(|cap| change(cap.with_posted_interrupts(true))), SHAPE.ecap)]);
    let range = rig.iommu.allocate_interrupts(platform!(rig), DISK, 2).unwrap();
    (rig, range)
}

fn signal(rig: &Rig, index: u16) -> Result<Signal, Blocked> {
    let (address, data) = msi_message(index, 0);
    rig.units[0].signal(0x0300, address, data)
}

/// Remapped, posted, elsewhere, suppressed, urgent, remapped again: each change is one store, and counts at once.
#[test]
fn posted_interrupts() {
    let (mut rig, range) = posting(|cap| cap);
    let sent = |vector, destination| Ok(Signal::Sent(Delivered { vector, destination }));
    let notified = |vector, destination| Ok(Signal::Posted(Some(Delivered { vector, destination })));
    let (quiet, index) = (Ok(Signal::Posted(None)), range.first);
    let remapped = InterruptTarget::fixed(0x51, 2);
    rig.iommu.set_interrupt(platform!(rig), UNIT, index, &remapped).unwrap();
    assert_eq!(signal(&rig, index), sent(0x51, 2));

    let vcpu = rig.iommu.create_posted(platform!(rig), 0xf2, 0x301).unwrap();
    rig.iommu.post_interrupt(platform!(rig), UNIT, index, vcpu, 0x85, false).unwrap();
    assert_eq!(signal(&rig, index), notified(0xf2, 0x301));
    // One notification until software has looked.
    assert_eq!(signal(&rig, index), quiet);
    rig.iommu.post_interrupt(platform!(rig), UNIT, range.first + 1, vcpu, 0x07, true).unwrap();
    assert_eq!(signal(&rig, index + 1), quiet);
    assert_eq!(vcpu.take(&mut rig.mem), [1 << 7, 0, 1 << (0x85 - 128), 0]);
    assert_eq!(vcpu.take(&mut rig.mem), [0; 4]);

    rig.iommu.retarget_posted(platform!(rig), vcpu, 0xf3, 1).unwrap();
    assert_eq!(signal(&rig, index), notified(0xf3, 1));
    vcpu.take(&mut rig.mem);
    vcpu.suppress(&mut rig.mem, true);
    assert_eq!(signal(&rig, index), quiet);
    assert_eq!(signal(&rig, index + 1), notified(0xf3, 1));
    vcpu.suppress(&mut rig.mem, false);
    assert_eq!(vcpu.take(&mut rig.mem), [1 << 7, 0, 1 << 5, 0]);
    // The source counts as before.
    let (address, data) = msi_message(index, 0);
    assert_eq!(rig.units[0].signal(0x0108, address, data), Err(Blocked(0x26)));

    let used = Err(Error::DescriptorInUse { unit: HostPhys(BASE), index });
    assert_eq!(rig.iommu.destroy_posted(vcpu), used);
    rig.iommu.set_interrupt(platform!(rig), UNIT, index, &remapped).unwrap();
    assert_eq!(signal(&rig, index), sent(0x51, 2));
    rig.iommu.clear_interrupt(platform!(rig), UNIT, index + 1).unwrap();
    rig.iommu.destroy_posted(vcpu).unwrap();
    let gone = rig.iommu.post_interrupt(platform!(rig), UNIT, index, vcpu, 0x85, false);
    assert_eq!(gone, Err(Error::NoSuchDescriptor { place: vcpu.place() }));
    rig.assert_clean();
}

#[test]
fn posting_needs_the_capability_and_a_destination_that_fits() {
    let (mut rig, range) = posting(|cap| cap.with_posted_interrupts(false));
    let vcpu = rig.iommu.create_posted(platform!(rig), 0xf2, 1).unwrap();
    let error = rig.iommu.post_interrupt(platform!(rig), UNIT, range.first, vcpu, 1, false).unwrap_err();
    assert!(error.to_string().contains("CAP.PI"), "{error}");
    // 64 descriptors to a frame, each at a place of its own.
    let frames = rig.mem.in_use();
    let mut places: Vec<_> =
        (0..63).map(|_| rig.iommu.create_posted(platform!(rig), 0xf2, 1).unwrap().place()).collect();
    assert_eq!(rig.mem.in_use(), frames);
    places.push(vcpu.place());
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 64);
    rig.iommu.create_posted(platform!(rig), 0xf2, 1).unwrap();
    assert_eq!(rig.mem.in_use(), frames + 1);
}

/// Posted entries and descriptors stay where they are; a record that disagrees is refused.
#[test]
fn posted_interrupts_are_handed_over() {
    let (mut rig, range) = posting(|cap| cap);
    let vcpu = rig.iommu.create_posted(platform!(rig), 0xf2, 3).unwrap();
    rig.iommu.post_interrupt(platform!(rig), UNIT, range.first, vcpu, 0x85, false).unwrap();
    assert!(signal(&rig, range.first).is_ok());
    rig.iommu.drain(platform!(rig)).unwrap();
    let taken = rig.iommu.snapshot().unwrap();
    let mem = rig.mem.clone();
    let owned = |frame| mem.holds(frame);
    let regs = || vec![(HostPhys(BASE), rig.units[0].clone())];
    let adopt = |snapshot: &mut Snapshot| Iommu::adopt(snapshot, regs(), routes(1), &rig.mem, &owned);
    type Lie = fn(&mut Snapshot);
    let lies: [(&str, Lie); 4] = [
        ("a descriptor that was not given out", |s| s.posted[0].used = 2),
        ("no descriptors", |s| s.posted.clear()),
        ("descriptors in memory that is not ours", |s| s.posted[0].frame = 0x7000),
        ("descriptors in a table", |s| s.posted[0].frame = s.units[0].rtaddr & !0xfff),
    ];
    for (lie, change) in lies {
        let mut snapshot = taken.clone();
        change(&mut snapshot);
        assert!(adopt(&mut snapshot).is_err(), "{lie} was believed");
    }
    let mut snapshot = taken.clone();
    let next = adopt(&mut snapshot).unwrap();
    rig.iommu = next;
    // What was requested in the pause is there, once; the next one notifies.
    assert_eq!(vcpu.take(&mut rig.mem), [0, 0, 1 << 5, 0]);
    rig.iommu.retarget_posted(platform!(rig), vcpu, 0xf4, 1).unwrap();
    let notified = Signal::Posted(Some(Delivered { vector: 0xf4, destination: 1 }));
    assert_eq!(signal(&rig, range.first), Ok(notified));
    rig.iommu.free_interrupts(platform!(rig), range).unwrap();
    rig.iommu.destroy_posted(vcpu).unwrap();
}

fn region(rig: &mut Rig, order: u8) -> InterruptRegion {
    let frames: Vec<_> = (0..(16u64 << order) / 0x1000).map(|_| rig.mem.allocate().unwrap()).collect();
    assert!(frames.windows(2).all(|two| two[1].0 == two[0].0 + 0x1000));
    InterruptRegion { base: frames[0], order }
}

/// A full table gives way to a larger one; interrupts arrive before, after, and through the same index.
#[test]
fn a_table_grows_while_interrupts_arrive() {
    for enhanced in [false, true] {
        let mut rig = Rig::with(&[(SHAPE.change(|cap| cap.with_enhanced_sirtp(enhanced)), SHAPE.ecap)]);
        let full = rig.iommu.allocate_interrupts(platform!(rig), DISK, 256).unwrap();
        rig.iommu.set_interrupt(platform!(rig), UNIT, 255, &InterruptTarget::fixed(0x51, 2)).unwrap();
        assert!(send(&rig, 0x0300, 255, 0).is_ok());
        let [small, large, larger] = [8, 10, 11].map(|order| region(&mut rig, order));
        let refused = rig.iommu.grow_interrupts(platform!(rig), UNIT, small).unwrap_err();
        assert!(refused.to_string().contains("larger"), "{refused}");
        let (frames, submissions) = (rig.mem.in_use(), rig.units[0].submissions());
        // The first table was a frame of the driver's own.
        assert_eq!(rig.iommu.grow_interrupts(platform!(rig), UNIT, large), Ok(None));
        assert_eq!(rig.mem.in_use(), frames - 1);
        assert_eq!(rig.units[0].submissions() - submissions, u64::from(!enhanced));
        assert_eq!(rig.units[0].status(), 0xc700_0000);
        assert_eq!(send(&rig, 0x0300, 255, 0), Ok(Delivered { vector: 0x51, destination: 2 }));
        let more = rig.iommu.allocate_interrupts(platform!(rig), NIC, 512).unwrap();
        assert_eq!((full.first, more.first), (0, 512));
        rig.iommu.set_interrupt(platform!(rig), UNIT, 1023, &InterruptTarget::fixed(0x61, 1)).unwrap();
        assert_eq!(send(&rig, 0x0108, 1023, 0), Ok(Delivered { vector: 0x61, destination: 1 }));
        // Handed over with the size as found (HANDOVER 12), and again with the caller's region.
        rig.iommu.drain(platform!(rig)).unwrap();
        let mut snapshot = rig.iommu.snapshot().unwrap();
        let (mem, regs) = (rig.mem.clone(), vec![(HostPhys(BASE), rig.units[0].clone())]);
        rig.iommu = Iommu::adopt(&mut snapshot, regs, routes(1), &rig.mem, &|frame| mem.holds(frame)).unwrap();
        assert_eq!(rig.iommu.grow_interrupts(platform!(rig), UNIT, larger), Ok(Some(large)));
        assert_eq!(send(&rig, 0x0108, 1023, 0), Ok(Delivered { vector: 0x61, destination: 1 }));
        rig.create(GUEST);
        rig.iommu.freeze(GUEST).unwrap();
        let busy = rig.iommu.grow_interrupts(platform!(rig), UNIT, large);
        assert!(matches!(busy, Err(Error::Busy { .. })));
        rig.assert_clean();
    }
}

/// A unit that does not take the larger table: nothing is changed in either, nothing freed, nothing
/// handed over, until it does.
#[test]
fn a_growth_that_times_out() {
    let mut rig = Rig::of(SHAPE);
    let range = rig.iommu.allocate_interrupts(platform!(rig), DISK, 1).unwrap();
    let target = InterruptTarget::fixed(0x51, 2);
    rig.iommu.set_interrupt(platform!(rig), UNIT, range.first, &target).unwrap();
    let large = region(&mut rig, 9);
    let frames = rig.mem.in_use();
    rig.fail(Failures { stuck: 1 << 24, ..Failures::default() });
    let error = rig.iommu.grow_interrupts(platform!(rig), UNIT, large).unwrap_err();
    assert!(matches!(error, Error::Timeout { wait, .. } if wait.contains("IRTPS")), "{error}");
    assert_eq!(send(&rig, 0x0300, range.first, 0), Ok(Delivered { vector: 0x51, destination: 2 }));
    assert_eq!(rig.iommu.clear_interrupt(platform!(rig), UNIT, range.first), Err(error));
    assert_eq!(rig.iommu.snapshot().map(|_| ()), Err(error));
    assert_eq!(rig.mem.in_use(), frames);
    rig.fail(Failures::default());
    rig.iommu.clear_interrupt(platform!(rig), UNIT, range.first).unwrap();
    assert_eq!(send(&rig, 0x0300, range.first, 0), Err(Blocked(0x22)));
    assert_eq!(rig.mem.in_use(), frames - 1);
    rig.iommu.snapshot().unwrap();
    rig.assert_clean();
}

/// Entries that could not be freed stay their source's.
#[test]
fn a_failed_free_leaves_the_source() {
    let mut rig = Rig::of(SHAPE);
    let range = rig.iommu.allocate_interrupts(platform!(rig), DISK, 1).unwrap();
    rig.fail(Failures { reject: 2, reject_gap: 2, ..Failures::default() });
    let error = rig.iommu.free_interrupts(platform!(rig), range).unwrap_err();
    assert!(matches!(error, Error::DescriptorRejected { .. }), "{error}");
    rig.fail(Failures::default());
    rig.iommu.set_interrupt(platform!(rig), UNIT, range.first, &InterruptTarget::fixed(0x51, 2)).unwrap();
    assert!(send(&rig, 0x0300, range.first, 0).is_ok());
    assert_eq!(send(&rig, 0x0108, range.first, 0), Err(Blocked(0x26)));
}

/// Freeing a run is one descriptor, whatever its length.
#[test]
fn a_run_is_freed_in_one_submission() {
    for (mask, ecap) in [(15, SHAPE.ecap), (0, SHAPE.ecap & !(0xf << 20))] {
        let mut rig = Rig::with(&[(SHAPE.cap, ecap)]);
        let range = rig.iommu.allocate_interrupts(platform!(rig), DISK, 100).unwrap();
        for index in 0..100 {
            rig.iommu.set_interrupt(platform!(rig), UNIT, index, &InterruptTarget::fixed(0x51, 2)).unwrap();
            assert!(send(&rig, 0x0300, index, 0).is_ok());
        }
        let before = rig.units[0].submissions();
        rig.iommu.free_interrupts(platform!(rig), range).unwrap();
        assert_eq!(rig.units[0].submissions(), before + 1);
        assert!((0..100).all(|index| send(&rig, 0x0300, index, 0) == Err(Blocked(0x22))), "mask up to {mask}");
        rig.assert_clean();
    }
}
