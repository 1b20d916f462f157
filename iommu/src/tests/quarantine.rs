//! Quarantine: cut off, silent, recorded, handed over, and ended by detaching.

use super::SHAPE;
use crate::model::Failures;
use crate::tests::rig::{BASE, DISK, GUEST, NIC, Rig, config, platform, routes};
use crate::tests::std::string::ToString;
use crate::{Bdf, Error, Iommu, Platform};
use alloc::vec;
use machine::addr::HostPhys;

const ALIAS: Bdf = Bdf::from_requester_id(0, 0x0310);

fn attached() -> Rig {
    let mut rig = Rig::with(&[(SHAPE.cap, SHAPE.ecap | 4)]);
    rig.create(GUEST);
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    rig.iommu.attach(platform!(rig), DISK, &[ALIAS.requester_id()], GUEST, Some(4)).unwrap();
    rig.attach(NIC, GUEST).unwrap();
    assert_eq!([DISK, ALIAS, NIC].map(|device| rig.read(device, 0x1000)), [Ok(0x9000); 3]);
    rig
}

#[test]
fn cut_off_and_silent_until_detached() {
    let mut rig = attached();
    rig.iommu.quarantine(platform!(rig), DISK).unwrap();
    assert!(rig.iommu.is_quarantined(DISK) && !rig.iommu.is_quarantined(NIC));
    // Under all its ids, at once, with nothing left in its own TLB; its neighbour in the domain goes on.
    assert_eq!([DISK, ALIAS, NIC].map(|device| rig.read(device, 0x1000)), [Err(0x02), Err(0x02), Ok(0x9000)]);
    assert_eq!(rig.units[0].device_tlb().last(), Some(&(0x0300, 0x7fff_ffff_ffff_f001)));
    // Nobody else's fault is lost among the hammering one's.
    for _ in 0..1_000 {
        assert!(rig.read(DISK, 0x1000).is_err());
    }
    assert!(rig.read(Bdf::from_requester_id(0, 0x0301), 0).is_err());
    assert_eq!((rig.service_faults(), rig.iommu.faults().overflows), (1, 0));

    let again = rig.units[0].submissions();
    rig.iommu.quarantine(platform!(rig), DISK).unwrap();
    assert_eq!(rig.units[0].submissions(), again);
    assert!(matches!(rig.attach(DISK, GUEST), Err(Error::DeviceClaimed { .. })));
    rig.detach(DISK).unwrap();
    assert!(!rig.iommu.is_quarantined(DISK));
    rig.attach(DISK, GUEST).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Ok(0x9000));
    assert_eq!(rig.iommu.quarantine(platform!(rig), ALIAS), Err(Error::NotAttached { device: ALIAS }));
    rig.assert_clean();
}

#[test]
fn a_quarantine_is_handed_over() {
    let mut rig = attached();
    rig.iommu.freeze(GUEST).unwrap();
    assert!(matches!(rig.iommu.quarantine(platform!(rig), DISK), Err(Error::Busy { .. })));
    rig.iommu.unfreeze(GUEST).unwrap();
    rig.iommu.quarantine(platform!(rig), DISK).unwrap();
    rig.iommu.drain(platform!(rig)).unwrap();
    let taken = rig.iommu.snapshot().unwrap();
    let mem = rig.mem.clone();
    let owned = |frame| mem.holds(frame);
    let regs = || vec![(config(0).base, rig.units[0].clone())];
    let adopt = |snapshot: &mut _| Iommu::adopt(snapshot, regs(), routes(1), &rig.mem, &owned);

    // A record that forgets it, and one that makes it up.
    for device in 0..taken.devices.len() {
        let mut lie = taken.clone();
        lie.devices[device].quarantined ^= 1;
        let error = adopt(&mut lie).unwrap_err();
        assert!(matches!(error, Error::Entry { what: "context entry", .. }), "{error}");
    }
    let mut nonsense = taken.clone();
    nonsense.devices[0].quarantined = 2;
    assert!(adopt(&mut nonsense).unwrap_err().to_string().contains("quarantine"));

    let mut snapshot = taken.clone();
    let next = adopt(&mut snapshot).unwrap();
    rig.iommu = next;
    assert!(rig.iommu.is_quarantined(DISK));
    assert_eq!((rig.read(DISK, 0x1000), rig.read(NIC, 0x1000)), (Err(0x02), Ok(0x9000)));
    rig.detach(DISK).unwrap();
    rig.attach(DISK, GUEST).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Ok(0x9000));
}

/// Until a quarantine has succeeded the device is not called quarantined, and its domain is stale.
#[test]
fn a_quarantine_that_fails() {
    let mut rig = attached();
    rig.fail(Failures { dead_queue: true, ..Failures::default() });
    let error = rig.iommu.quarantine(platform!(rig), DISK).unwrap_err();
    assert!(matches!(error, Error::Timeout { unit: HostPhys(BASE), .. }), "{error}");
    assert!(!rig.iommu.is_quarantined(DISK));
    assert_eq!(rig.map(GUEST, 0x5000, 0x9000, 0x1000), Err(Error::Stale { token: GUEST }));
    rig.fail(Failures::default());
    rig.units[0].write_tail_again();
    rig.iommu.quarantine(platform!(rig), DISK).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x02));
    rig.detach(DISK).unwrap();
    rig.detach(NIC).unwrap();
    rig.attach(NIC, GUEST).unwrap();
    rig.map(GUEST, 0x5000, 0x9000, 0x1000).unwrap();
}
