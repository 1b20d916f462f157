//! The invalidation queue: wrapping, errors, recovery, and how much is submitted.

use super::SHAPE;
use crate::intel::queue::Queue;
use crate::intel::spec::invalidation::Descriptor;
use crate::intel::spec::registers::{Capability, ExtendedCapability, Global, QueueErrorInfo};
use crate::intel::tables::frame;
use crate::intel::window::Window;
use crate::model::{Failures, ModelClock, ModelMemory, ModelUnit};
use crate::tests::rig::{BASE, DISK, GUEST, NIC, Rig, platform};
use crate::tests::std::string::ToString;
use crate::{Bdf, Error, Platform, QueueErrors, UnitIndex};
use alloc::vec::Vec;
use machine::access::Registers;
use machine::addr::HostPhys;

#[test]
fn head_and_tail_wrap() {
    let mut rig = Rig::guest_of(SHAPE);
    // Two descriptors each time; 256 places.
    for round in 0..1_000u64 {
        rig.map(GUEST, 0x1000, round << 12, 0x1000).unwrap();
        assert_eq!(rig.read(DISK, 0x1000), Ok(round << 12));
        rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
        assert_eq!(rig.read(DISK, 0x1000), Err(0x06));
    }
    rig.assert_clean();
}

#[test]
fn a_range_of_any_size_is_one_submission() {
    let mut rig = Rig::guest_of(SHAPE);
    for bytes in [0x1000u64, 0x3000, 0x20_0000, 0x4000_0000, 1 << 40] {
        rig.map(GUEST, 0x7f_c000_0000, 0x4000_0000, bytes).unwrap();
        let before = rig.units[0].submissions();
        rig.unmap(GUEST, 0x7f_c000_0000, bytes).unwrap();
        assert_eq!(rig.units[0].submissions(), before + 1);
        assert_eq!(rig.read(DISK, 0x7f_c000_0000 + bytes - 0x1000), Err(0x06));
    }
    // Without page-selective invalidation too.
    let mut rig = Rig::with(&[(SHAPE.change(|cap| cap.with_page_selective(false)), SHAPE.ecap)]);
    rig.create(GUEST);
    rig.attach(DISK, GUEST).unwrap();
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    assert!(rig.read(DISK, 0x1000).is_ok());
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x06));
    rig.assert_clean();
}

/// Two submissions to each unit, and none to one that the domain is not on, whatever the range.
#[test]
fn two_submissions_to_a_unit_at_most() {
    let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap | 4); 3]);
    rig.create(GUEST);
    for device in [DISK, NIC] {
        rig.iommu.attach(platform!(rig), device, &[], GUEST, Some(8)).unwrap();
    }
    for bytes in [0x1000u64, 0x3000, 0x20_0000, 0x4000_0000, 1 << 40] {
        rig.map(GUEST, 0x7f_c000_0000, 0x4000_0000, bytes).unwrap();
        let before: Vec<u64> = rig.units.iter().map(ModelUnit::submissions).collect();
        rig.unmap(GUEST, 0x7f_c000_0000, bytes).unwrap();
        let cost: Vec<u64> = rig.units.iter().zip(before).map(|(unit, before)| unit.submissions() - before).collect();
        assert_eq!(cost, [2, 2, 0]);
    }
    rig.assert_clean();
}

fn warm() -> Rig {
    let mut rig = Rig::guest_of(SHAPE);
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    assert!(rig.read(DISK, 0x1000).is_ok());
    rig
}

/// A descriptor that is rejected once is skipped and the batch repeated: the first of
/// the batch, or its wait.
#[test]
fn a_rejected_descriptor_is_repeated() {
    for reject_after in 0..2 {
        let mut rig = warm();
        rig.fail(Failures { reject: 1, reject_after, ..Failures::default() });
        rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
        assert_eq!(rig.read(DISK, 0x1000), Err(0x06));
        rig.iommu.drain(platform!(rig)).unwrap();
        rig.assert_clean();
    }
}

#[test]
fn a_descriptor_rejected_twice_is_reported() {
    let mut rig = warm();
    // The spare that takes the bad one's place and the wait are good, then it is bad again.
    let twice = Failures { reject: 2, reject_gap: 2, ..Failures::default() };
    rig.fail(twice);
    let error = rig.unmap(GUEST, 0x1000, 0x1000).unwrap_err();
    let Error::DescriptorRejected { unit: HostPhys(BASE), descriptor, info } = error else { panic!("{error}") };
    assert!(info == QueueErrorInfo(4) && error.to_string().contains("reserved bits"), "{error}");
    // Page-selective, domain 1, drains; page 0x1000, upper levels too.
    // Of a first stage by PASID, which is 0.
    assert_eq!(descriptor, [if SHAPE.has_first_stage() { 0x1_0036 } else { 0x1_00f2 }, 0x1000]);
    assert!(matches!(rig.map(GUEST, 0x5000, 0, 0x1000), Err(Error::Stale { .. })));
    // The queue itself works again.
    rig.fail(Failures::default());
    rig.iommu.drain(platform!(rig)).unwrap();
    rig.detach(DISK).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x02));
}

/// A unit that finds everything bad does not keep us for ever.
#[test]
fn a_queue_that_rejects_everything_is_given_up() {
    let mut rig = warm();
    rig.fail(Failures { reject: u32::MAX, ..Failures::default() });
    let error = rig.unmap(GUEST, 0x1000, 0x1000).unwrap_err();
    assert!(matches!(error, Error::Timeout { wait, .. } if wait.contains("past its errors")), "{error}");
}

/// Descriptors of 256 bits, as scalable mode wants them: 128 places, and the unit refuses narrow ones.
#[test]
fn wide_descriptors() {
    let (mut mem, clock) = (ModelMemory::default(), ModelClock::default());
    let ecap = SHAPE.ecap | 1 << 43;
    let unit = ModelUnit::new(&mem, SHAPE.cap, ecap);
    let window = Window { base: HostPhys(BASE), regs: unit.clone() };
    let platform = &mut Platform { mem: &mut mem, clock: &clock };
    let frames: [HostPhys; 3] = core::array::from_fn(|_| frame(platform, false, "a frame").unwrap());
    window.regs.write64(0x20, frames[2].0 | 1 << 10);
    window.fire(&clock, Global::SRTP, true, "").unwrap();
    for wide in [true, false] {
        let (cap, ecap) = (Capability::from_bits(SHAPE.cap), ExtendedCapability::from_bits(ecap));
        let mut queue = Queue::new(frames[0], frames[1], cap, ecap, wide);
        window.set_tail(0);
        window.regs.write64(0x90, queue.register().0);
        window.switch(&clock, Global::QIE, true, "").unwrap();
        if wide {
            for _ in 0..100 {
                queue
                    .submit(&window, platform, &[Descriptor::context_global(), Descriptor::interrupt_global()])
                    .unwrap();
                assert_eq!(queue.index_at(window.head()), Some(queue.tail));
            }
            // Three places a time, of 128.
            assert_eq!(
                (queue.tail, queue.position(), queue.errors),
                (300 % 128, 300 % 128 * 32, QueueErrors::default())
            );
            assert_eq!((queue.index_at(0x10), queue.index_at(0x1000)), (None, None));
            queue.drain(&window, platform).unwrap();
            window.switch(&clock, Global::QIE, false, "").unwrap();
        } else {
            let error = queue.submit(&window, platform, &[Descriptor::context_global()]).unwrap_err();
            assert!(error.to_string().contains("past its errors") || error.to_string().contains("width"), "{error}");
        }
    }
    assert!(unit.violations().is_empty(), "{:?}", unit.violations());
}

/// What was got over is counted; what nobody asked for does not hold back fault events.
#[test]
fn recovered_errors_are_counted() {
    let errors = |rig: &Rig| rig.iommu.queue_errors(UnitIndex(0)).unwrap();
    let mut rig = warm();
    assert_eq!(errors(&rig), QueueErrors::default());
    rig.fail(Failures { reject: 1, ..Failures::default() });
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    assert_eq!(errors(&rig).rejected, 1);
    rig.fail(Failures { spurious_completions: 1, ..Failures::default() });
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    rig.service_faults();
    assert_eq!((errors(&rig).unasked, errors(&rig).unasked_source), (1, 0x0666));
    assert_eq!(rig.units[0].read32(0x34), 0);
    assert!(rig.read(NIC, 0).is_err());
    assert_eq!(rig.units[0].events(), 1);
}

/// A unit that works after a while is waited for; the fast way looks at memory first.
#[test]
fn a_slow_queue() {
    let mut rig = warm();
    rig.fail(Failures { slow_queue: 100, ..Failures::default() });
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x06));
    rig.iommu.drain(platform!(rig)).unwrap();
    rig.assert_clean();
}

#[test]
fn spurious_completions_are_ignored() {
    let mut rig = warm();
    rig.fail(Failures { spurious_completions: 3, ..Failures::default() });
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x06));
    rig.iommu.drain(platform!(rig)).unwrap();
}

#[test]
fn device_tlbs() {
    let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap | 4)]);
    rig.create(GUEST);
    rig.iommu.attach(platform!(rig), DISK, &[], GUEST, Some(8)).unwrap();
    rig.map(GUEST, 0x4000, 0x9000, 0x4000).unwrap();
    assert_eq!(rig.read(DISK, 0x4000), Ok(0x9000));
    let before = rig.units[0].submissions();
    rig.unmap(GUEST, 0x4000, 0x4000).unwrap();
    assert_eq!(rig.units[0].submissions(), before + 2);
    // 16 KiB from 0x4000: S = 1, bit 12 set, bit 13 clear.
    assert_eq!(rig.units[0].device_tlb(), [(0x0300, 0x5001)]);

    // Once is forgiven, twice is not.
    rig.map(GUEST, 0x4000, 0x9000, 0x4000).unwrap();
    rig.fail(Failures { device_timeouts: 1, ..Failures::default() });
    rig.unmap(GUEST, 0x4000, 0x4000).unwrap();
    rig.map(GUEST, 0x4000, 0x9000, 0x4000).unwrap();
    rig.fail(Failures { device_timeouts: 2, ..Failures::default() });
    let error = rig.unmap(GUEST, 0x4000, 0x4000).unwrap_err();
    assert_eq!(error, Error::DeviceTlbTimeout { unit: HostPhys(BASE), source: 0x0300 });
    assert!(error.to_string().contains("0000:03:00.0"), "{error}");
    rig.detach(DISK).unwrap();
    assert_eq!(rig.units[0].device_tlb().last(), Some(&(0x0300, 0x7fff_ffff_ffff_f001)));
    rig.assert_clean();
}

/// Units that count outstanding invalidations by physical function are told which (VT-d 6.5.2.5: PFSID, with ECAP.DIT); of
/// the others the field is reserved, and the model refuses it.
#[test]
fn device_tlbs_of_virtual_functions() {
    let one = Bdf::from_requester_id(0, 0x1a5c);
    for (throttles, named) in [(1 << 41, true), (0, false)] {
        let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap | 4 | throttles)]);
        rig.iommu.add_virtual_function(DISK, one);
        rig.create(GUEST);
        rig.iommu.attach(platform!(rig), one, &[], GUEST, Some(8)).unwrap();
        rig.iommu.attach(platform!(rig), DISK, &[], GUEST, Some(8)).unwrap();
        rig.map(GUEST, 0x4000, 0x9000, 0x1000).unwrap();
        rig.unmap(GUEST, 0x4000, 0x1000).unwrap();
        rig.iommu.quarantine(platform!(rig), one).unwrap();
        rig.detach(DISK).unwrap();
        let mut told = rig.units[0].physical();
        told.sort_unstable();
        let wanted: &[(u16, u16)] =
            if named { &[(0x0300, 0x0300), (0x0300, 0x0300), (0x1a5c, 0x0300), (0x1a5c, 0x0300)] } else { &[] };
        assert_eq!((told.as_slice(), rig.units[0].device_tlb().len()), (wanted, 4));
        rig.assert_clean();
    }
}

/// A virtual function goes where its physical one goes, also if only that is named (VT-d 8.3).
#[test]
fn virtual_functions_follow_their_physical_one() {
    let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap), (SHAPE.cap, SHAPE.ecap)]);
    let (physical, near, far) =
        (Bdf::from_requester_id(0, 0x0500), Bdf::from_requester_id(0, 0x0501), Bdf::from_requester_id(0, 0x0601));
    assert_eq!([near, far].map(|device| rig.iommu.unit_of(device)), [Some(UnitIndex(1)), Some(UnitIndex(0))]);
    for device in [near, far] {
        rig.iommu.add_virtual_function(physical, device);
        assert_eq!(rig.iommu.unit_of(device), Some(UnitIndex(1)));
    }
    rig.create(GUEST);
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    rig.attach(far, GUEST).unwrap();
    // The other unit has not even a root entry for its bus.
    assert_eq!([1, 0].map(|unit| rig.access(unit, far, 0x1000, false)), [Ok(0x9000), Err(0x01)]);
}

/// A batch that timed out finishes late: its status does not pass for a later one's.
#[test]
fn a_late_completion_is_not_mistaken() {
    let mut rig = warm();
    rig.fail(Failures { dead_queue: true, ..Failures::default() });
    assert!(matches!(rig.iommu.drain(platform!(rig)), Err(Error::Timeout { .. })));
    assert!(matches!(rig.iommu.drain(platform!(rig)), Err(Error::Timeout { .. })));
    rig.fail(Failures::default());
    rig.units[0].write_tail_again();
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x06));
}
