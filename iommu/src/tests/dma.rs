//! Domains and devices: what DMA reaches, and what it must not.

use super::SHAPE;
use crate::model::Failures;
use crate::tests::rig::{BASE, DISK, GUEST, MANAGEMENT, NIC, Rig, platform};
use crate::tests::std::string::ToString;
use crate::{Access, Bdf, Error, Platform, Token};
use alloc::vec::Vec;
use machine::addr::{HostPhys, Iova};
use machine::paging::{PagingError, Permissions};

const GIB: u64 = 1 << 30;

#[test]
fn mapped_memory_is_reached_and_nothing_else() {
    let mut rig = Rig::guest_of(SHAPE);
    rig.map(GUEST, 0, 0x4000_0000, GIB).unwrap();
    rig.map(GUEST, GIB, 0x1_2345_6000, 0x3000).unwrap();
    assert_eq!(rig.read(DISK, 0x1234), Ok(0x4000_1234));
    assert_eq!(rig.access(0, DISK, GIB + 0x2fff, true), Ok(0x1_2345_8fff));
    assert_eq!(rig.read(DISK, GIB + 0x3000), Err(0x06));
    assert_eq!(rig.access(0, DISK, 1 << (SHAPE.address_bits() - 1), true), Err(0x05));
    assert_eq!(rig.read(DISK, 1 << SHAPE.address_bits()), Err(0x04));
    rig.assert_clean();
}

#[test]
fn read_only_means_read_only() {
    let mut rig = Rig::guest_of(SHAPE);
    let (iova, to) = (Iova(0x1000), HostPhys(0x9000));
    rig.iommu.map(platform!(rig), GUEST, iova, to, 0x1000, Permissions::READ).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Ok(0x9000));
    assert_eq!(rig.access(0, DISK, 0x1000, true), Err(0x05));
}

/// Devices flush their writes by zero-length reads, which only units with CAP.ZLR let through to
/// a page for writes only.
#[test]
fn write_only_needs_zero_length_reads() {
    let write = Permissions { read: false, write: true, execute: false };
    let (iova, to) = (Iova(0x1000), HostPhys(0x9000));
    let mut rig = Rig::with(&[(SHAPE.change(|cap| cap.with_zero_length_reads(true)), SHAPE.ecap)]);
    rig.create(GUEST);
    rig.attach(DISK, GUEST).unwrap();
    let mapped = rig.iommu.map(platform!(rig), GUEST, iova, to, 0x1000, write);
    if SHAPE.has_first_stage() {
        // Whatever is there can be read.
        assert!(matches!(mapped, Err(Error::Paging { cause: PagingError::Unsupported { .. }, .. })));
    } else {
        assert_eq!((rig.access(0, DISK, 0x1000, true), rig.read(DISK, 0x1000)), (Ok(0x9000), Err(0x06)));
    }
    let mut rig = Rig::with(&[(SHAPE.change(|cap| cap.with_zero_length_reads(false)), SHAPE.ecap)]);
    rig.create(GUEST);
    let refused = rig.iommu.map(platform!(rig), GUEST, iova, to, 0x1000, write);
    assert_eq!(refused, Err(Error::WriteOnly { token: GUEST }));
}

#[test]
fn unmapped_memory_is_out_of_reach_at_once() {
    let mut rig = Rig::guest_of(SHAPE);
    rig.map(GUEST, 0, 0x4000_0000, GIB).unwrap();
    for page in [0u64, 0x20_0000, 0x3fff_f000] {
        assert!(rig.read(DISK, page).is_ok());
        rig.unmap(GUEST, page, 0x1000).unwrap();
        assert_eq!(rig.read(DISK, page), Err(0x06));
        rig.map(GUEST, page, 0x1000, 0x1000).unwrap();
        assert_eq!(rig.read(DISK, page), Ok(0x1000));
    }
    // Warm in the cache, then gone as a whole.
    assert!(rig.read(DISK, 0x1234_5000).is_ok());
    rig.unmap(GUEST, 0, GIB).unwrap();
    for page in [0u64, 0x20_0000, 0x1234_5000, 0x3fff_f000] {
        assert_eq!(rig.read(DISK, page), Err(0x06));
    }
    rig.assert_clean();
}

/// The model is worth something: without invalidation it serves stale translations.
#[test]
fn the_model_keeps_stale_translations() {
    let mut rig = Rig::guest_of(SHAPE);
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    assert!(rig.read(DISK, 0x1000).is_ok());
    rig.fail(Failures { dead_queue: true, ..Failures::default() });
    let error = rig.unmap(GUEST, 0x1000, 0x1000).unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(rig.read(DISK, 0x1000), Ok(0x9000));
}

/// After a failed invalidation nothing is reused: no table freed, no mapping added, no
/// snapshot taken, until the device is detached.
#[test]
fn a_failed_unmap_leaves_the_domain_stale() {
    let mut rig = Rig::guest_of(SHAPE);
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    let frames = rig.mem.in_use();
    rig.fail(Failures { dead_queue: true, ..Failures::default() });
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap_err();
    assert_eq!(rig.mem.in_use(), frames);
    let stale = Err(Error::Stale { token: GUEST });
    assert_eq!(rig.map(GUEST, 0x5000, 0x9000, 0x1000), stale);
    assert_eq!(rig.attach(NIC, GUEST), stale);
    assert_eq!(rig.iommu.freeze(GUEST).map(|_| ()), stale);
    assert_eq!(rig.iommu.snapshot().map(|_| ()), stale);
    rig.detach(DISK).unwrap_err();
    assert_eq!(rig.iommu.owner(DISK), Some((DISK, GUEST)));
    rig.fail(Failures::default());
    rig.units[0].write_tail_again();
    rig.detach(DISK).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x02));
    rig.attach(DISK, GUEST).unwrap();
    rig.map(GUEST, 0x1000, 0xa000, 0x1000).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Ok(0xa000));
}

#[test]
fn an_unassigned_device_is_blocked_and_named() {
    let mut rig = Rig::guest_of(SHAPE);
    assert_eq!(rig.access(0, NIC, 0x12_3000, true), Err(0x01));
    assert_eq!(rig.service_faults(), 1);
    let line = rig.iommu.faults().lines()[0];
    assert_eq!((line.fault.device, line.fault.access, line.fault.address), (NIC, Access::Write, Iova(0x12_3000)));
    assert_eq!(line.fault.reason.0, SHAPE.reason(0x01));
    let neighbour = Bdf::from_requester_id(0, 0x0301);
    assert_eq!(rig.read(neighbour, 0), Err(0x02));
    assert_eq!(rig.service_faults(), 1);
    let text = rig.iommu.faults().lines()[1].fault.to_string();
    assert!(text.contains("0000:03:00.1") && text.contains("not assigned"), "{text}");
    assert_eq!(rig.units[0].events(), 2);
}

#[test]
fn lost_faults_are_counted_and_storms_are_masked() {
    let mut rig = Rig::guest_of(SHAPE);
    for _ in 0..3 {
        assert!(rig.read(NIC, 0).is_err());
    }
    assert_eq!(rig.service_faults(), 1);
    assert_eq!(rig.iommu.faults().overflows, 1);
    for _ in 0..200 {
        assert!(rig.read(NIC, 0).is_err());
        rig.service_faults();
    }
    let events = rig.units[0].events();
    assert!(events < 150, "{events}");
    assert_eq!(rig.iommu.faults().lines().len(), 1);
    assert_eq!(rig.iommu.faults().lines()[0].count, 201);
    // A second later the event is let through again.
    rig.clock.advance(2_000);
    rig.service_faults();
    assert!(rig.read(NIC, 0).is_err());
    assert_eq!(rig.units[0].events(), events + 1);
    let mut told = Vec::new();
    rig.iommu.faults_mut().report(&rig.clock, |line, news| told.push((line.fault.device, news)));
    assert_eq!(told, [(NIC, 201)]);
}

/// A storm of one device makes it a suspect, with a fault or two of another it does not.
#[test]
fn a_hammering_device_is_a_suspect() {
    let mut rig = Rig::with(&[(SHAPE.change(|cap| cap.with_fault_records(7)), SHAPE.ecap)]);
    rig.create(GUEST);
    rig.attach(DISK, GUEST).unwrap();
    for _ in 0..20 {
        for _ in 0..7 {
            assert!(rig.read(DISK, 0x1000).is_err());
        }
        assert!(rig.read(NIC, 0).is_err());
        assert_eq!(rig.service_faults(), 8);
    }
    assert_eq!(rig.iommu.faults().suspects(100).collect::<Vec<_>>(), [DISK]);
    assert_eq!(rig.iommu.faults().overflows, 0);
    let text = rig.iommu.faults().lines()[0].fault.to_string();
    assert!(text.starts_with("device 0000:03:00.0: read at 0x1000 blocked: "), "{text}");
    assert!(text.ends_with("by the unit at 0xfed90000"), "{text}");
}

#[test]
fn several_fault_records() {
    let mut rig = Rig::with(&[(SHAPE.change(|cap| cap.with_fault_records(3)), SHAPE.ecap)]);
    for round in 1..=3u64 {
        for source in 0..4 {
            assert!(rig.read(Bdf::from_requester_id(0, source), 0).is_err());
        }
        assert_eq!(rig.service_faults(), 4);
        assert_eq!(rig.iommu.faults().total, round * 4);
    }
    assert_eq!((rig.iommu.faults().lines().len(), rig.iommu.faults().overflows), (4, 0));
}

#[test]
fn a_detached_device_is_blocked_and_its_domain_id_is_clean() {
    let mut rig = Rig::guest_of(SHAPE);
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    let unit = rig.iommu.unit_of(DISK).unwrap();
    let did = rig.iommu.domain(GUEST).unwrap().id_on(unit);
    assert_eq!(did, Some(1));
    assert!(rig.read(DISK, 0x1000).is_ok());
    rig.detach(DISK).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x02));
    // The next domain gets the id; nothing of the last is left under it.
    rig.create(MANAGEMENT);
    rig.attach(DISK, MANAGEMENT).unwrap();
    assert_eq!(rig.iommu.domain(MANAGEMENT).unwrap().id_on(unit), did);
    assert_eq!(rig.read(DISK, 0x1000), Err(0x06));
    assert_eq!(rig.detach(NIC), Err(Error::NotAttached { device: NIC }));
    rig.assert_clean();
}

#[test]
fn two_devices_share_a_domain_and_two_domains_do_not_mix() {
    let mut rig = Rig::guest_of(SHAPE);
    rig.attach(NIC, GUEST).unwrap();
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    assert_eq!((rig.read(DISK, 0x1000), rig.read(NIC, 0x1000)), (Ok(0x9000), Ok(0x9000)));
    rig.detach(NIC).unwrap();
    assert_eq!((rig.read(DISK, 0x1000), rig.read(NIC, 0x1000)), (Ok(0x9000), Err(0x02)));
    rig.create(MANAGEMENT);
    rig.attach(NIC, MANAGEMENT).unwrap();
    rig.map(MANAGEMENT, 0x1000, 0xb000, 0x1000).unwrap();
    assert_eq!((rig.read(DISK, 0x1000), rig.read(NIC, 0x1000)), (Ok(0x9000), Ok(0xb000)));
    assert_eq!(rig.iommu.devices().count(), 2);
}

#[test]
fn aliases_come_and_go_with_their_device() {
    let mut rig = Rig::of(SHAPE);
    rig.create(GUEST);
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    let alias = Bdf::from_requester_id(0, 0x0408);
    rig.iommu.attach(platform!(rig), DISK, &[0x0408, 0x0408, 0x0300], GUEST, None).unwrap();
    assert_eq!((rig.read(DISK, 0x1000), rig.read(alias, 0x1000)), (Ok(0x9000), Ok(0x9000)));
    let claimed = Error::DeviceClaimed { device: alias, owner: DISK, token: GUEST };
    assert_eq!(rig.attach(alias, GUEST), Err(claimed));
    rig.detach(DISK).unwrap();
    assert_eq!((rig.read(DISK, 0x1000), rig.read(alias, 0x1000)), (Err(0x02), Err(0x02)));
}

#[test]
fn refusals_are_named_and_change_nothing() {
    let mut rig = Rig::guest_of(SHAPE);
    rig.create(MANAGEMENT);
    let before = (rig.mem.in_use(), rig.iommu.snapshot().unwrap());
    let claimed = Error::DeviceClaimed { device: DISK, owner: DISK, token: GUEST };
    assert_eq!(rig.attach(DISK, MANAGEMENT), Err(claimed));
    assert!(claimed.to_string().contains("0000:03:00.0"));
    assert_eq!(rig.attach(NIC, Token(9)), Err(Error::NoDomain { token: Token(9) }));
    let elsewhere = Bdf::from_requester_id(7, 0);
    assert_eq!(rig.attach(elsewhere, GUEST), Err(Error::NoUnit { device: elsewhere }));
    let ats = rig.iommu.attach(platform!(rig), NIC, &[], GUEST, Some(0)).unwrap_err();
    assert!(ats.to_string().contains("ECAP.DT"));
    assert_eq!(rig.iommu.create_domain(platform!(rig), GUEST), Err(Error::DomainExists { token: GUEST }));
    let used = Error::DomainInUse { token: GUEST, device: DISK };
    assert_eq!(rig.iommu.destroy_domain(platform!(rig), GUEST), Err(used));
    let wide = rig.map(GUEST, 1 << 48, 0, 0x1000).unwrap_err();
    assert!(matches!(wide, Error::AddressTooWide { bits, .. } if bits == SHAPE.address_bits()));
    let paging = rig.map(GUEST, 0x1001, 0, 0x1000).unwrap_err();
    assert!(matches!(paging, Error::Paging { cause: PagingError::Misaligned { .. }, .. }));
    assert_eq!((rig.mem.in_use(), rig.iommu.snapshot().unwrap()), before);
}

#[test]
fn out_of_memory_changes_nothing() {
    let mut rig = Rig::of(SHAPE);
    rig.create(GUEST);
    let frames = rig.mem.in_use();
    rig.mem.limit(frames);
    assert!(matches!(rig.attach(DISK, GUEST), Err(Error::OutOfMemory { what: "a context table" })));
    assert_eq!(rig.iommu.devices().count(), 0);
    assert!(matches!(rig.map(GUEST, 0, 0, 0x1000), Err(Error::Paging { .. })));
    rig.mem.limit(frames + 8);
    rig.attach(DISK, GUEST).unwrap();
    assert_eq!(rig.iommu.domain(GUEST).unwrap().id_on(crate::UnitIndex(0)), Some(1));
}

#[test]
fn domain_ids_run_out() {
    let mut rig = Rig::with(&[(SHAPE.change(|cap| cap.with_domains(0)), SHAPE.ecap)]);
    for number in 1..16u16 {
        rig.create(Token(u64::from(number)));
        rig.attach(Bdf::from_requester_id(0, number), Token(u64::from(number))).unwrap();
    }
    rig.create(GUEST);
    assert_eq!(rig.attach(DISK, GUEST), Err(Error::NoDomainId { unit: HostPhys(BASE) }));
    rig.detach(Bdf::from_requester_id(0, 5)).unwrap();
    rig.attach(DISK, GUEST).unwrap();
}

#[test]
fn law_4_a_frozen_domain_is_busy_and_unchanged() {
    let mut rig = Rig::guest_of(SHAPE);
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    assert_eq!(rig.iommu.freeze(GUEST), Ok(1));
    assert_eq!(rig.iommu.freeze(GUEST), Ok(2));
    assert_eq!(rig.iommu.unfreeze(GUEST), Ok(1));
    let before = (rig.mem.writes(), rig.units[0].writes());
    let busy = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Busy { token: GUEST, .. })));
    busy(rig.map(GUEST, 0x5000, 0x9000, 0x1000));
    busy(rig.unmap(GUEST, 0x1000, 0x1000));
    busy(rig.attach(NIC, GUEST));
    busy(rig.detach(DISK));
    busy(rig.iommu.destroy_domain(platform!(rig), GUEST));
    assert_eq!((rig.mem.writes(), rig.units[0].writes()), before);
    assert_eq!(rig.read(DISK, 0x1000), Ok(0x9000));
    assert_eq!(rig.iommu.unfreeze(GUEST), Ok(0));
    assert_eq!(rig.iommu.unfreeze(GUEST), Err(Error::NotFrozen { token: GUEST }));
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
}

/// With caching mode absence is cached: a mapping shows only after an invalidation.
#[test]
fn caching_mode() {
    let mut rig = Rig::with(&[(SHAPE.change(|cap| cap.with_caching_mode(true)), SHAPE.ecap)]);
    rig.create(GUEST);
    assert_eq!(rig.read(DISK, 0x1000), Err(0x01));
    assert_eq!(rig.read(DISK, 0x1000), Err(0x02));
    rig.attach(DISK, GUEST).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x06));
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Ok(0x9000));
    rig.unmap(GUEST, 0x1000, 0x1000).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x06));
    rig.detach(DISK).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x02));
    rig.assert_clean();
}

#[test]
fn write_buffers_are_flushed() {
    let mut rig = Rig::with(&[(SHAPE.change(|cap| cap.with_write_buffer(true)), SHAPE.ecap)]);
    rig.create(GUEST);
    let mut last = rig.units[0].write_buffer_flushes();
    let mut flushed = |rig: &Rig| {
        let now = rig.units[0].write_buffer_flushes();
        core::mem::replace(&mut last, now) < now
    };
    rig.attach(DISK, GUEST).unwrap();
    assert!(flushed(&rig));
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    assert!(flushed(&rig));
    rig.fail(Failures { stuck: 1 << 27, ..Failures::default() });
    assert!(rig.map(GUEST, 0x5000, 0x9000, 0x1000).unwrap_err().to_string().contains("WBFS"));
}

/// A unit that snoops needs no write-back, and none is done; the driver's own memory says so.
#[test]
fn a_coherent_unit_and_other_geometries() {
    let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.coherent())]);
    rig.create(GUEST);
    rig.attach(DISK, GUEST).unwrap();
    rig.map(GUEST, 0, 0x4000_0000, GIB).unwrap();
    assert_eq!(rig.read(DISK, 0x1234), Ok(0x4000_1234));

    // Two units: one with 3 levels and small pages only.
    let small = SHAPE.change(|cap| cap.with_widths(0b10).with_large_pages(0).with_max_width(38));
    let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap), (small, SHAPE.coherent())]);
    let geometry = rig.iommu.geometry();
    // A first stage has no tables of 3 levels; the unit's own limit is the same.
    let levels = if SHAPE.has_first_stage() { 4 } else { 3 };
    assert_eq!((geometry.levels, geometry.address_bits, geometry.coherent), (levels, 39, false));
    rig.create(GUEST);
    rig.attach(NIC, GUEST).unwrap();
    rig.attach(DISK, GUEST).unwrap();
    rig.map(GUEST, 0x20_0000, 0x4000_0000, 0x20_0000).unwrap();
    assert_eq!(rig.access(0, NIC, 0x3f_f000, true), Ok(0x401f_f000));
    assert_eq!(rig.access(1, DISK, 0x3f_f000, true), Ok(0x401f_f000));
    rig.unmap(GUEST, 0x20_0000, 0x20_0000).unwrap();
    assert_eq!(rig.access(0, NIC, 0x3f_f000, true), Err(0x05));
    assert_eq!(rig.access(1, DISK, 0x3f_f000, true), Err(0x05));
    let alias = rig.iommu.attach(platform!(rig), Bdf::from_requester_id(0, 9), &[0x0309], GUEST, None);
    assert!(matches!(alias, Err(Error::AliasElsewhere { alias: 0x0309, .. })));
    rig.assert_clean();
}

#[test]
fn destroying_a_domain_returns_its_frames() {
    let mut rig = Rig::guest_of(SHAPE);
    let frames = rig.mem.in_use();
    rig.create(MANAGEMENT);
    rig.map(MANAGEMENT, 0x1000, 0x9000, 0x1_0000_0000).unwrap();
    assert!(rig.mem.in_use() > frames + 2);
    rig.iommu.destroy_domain(platform!(rig), MANAGEMENT).unwrap();
    assert_eq!(rig.mem.in_use(), frames);
}

#[test]
fn frames_lists_every_frame_in_use_once() {
    let mut rig = Rig::guest_of(SHAPE);
    rig.map(GUEST, 0x1000, 0x9000, 0x4000_0000).unwrap();
    let mut listed = Vec::new();
    rig.iommu.frames(&rig.mem, |frame| listed.push(frame));
    assert_eq!(listed.len(), rig.mem.in_use());
    listed.sort_unstable();
    listed.dedup();
    assert_eq!(listed.len(), rig.mem.in_use());
    assert!(listed.iter().all(|frame| rig.mem.holds(*frame)));
}
