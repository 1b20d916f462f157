//! Power-on, and everything that can go wrong there.

use super::SHAPE;
use crate::model::{Failures, ModelClock, ModelMemory, ModelUnit};
use crate::tests::rig::{BASE, DISK, GUEST, Rig, config, platform, routes};
use crate::tests::std::string::ToString;
use crate::{
    Error, FaultEvent, InterruptRegion, InterruptTarget, Iommu, Platform, Route, UnitConfig, UnitIndex, msi_message,
};
use alloc::vec;
use machine::access::{Registers, TableMemory};
use machine::addr::HostPhys;

struct Bare {
    mem: ModelMemory,
    clock: ModelClock,
    unit: ModelUnit,
}

impl Bare {
    fn new(cap: u64, ecap: u64) -> Self {
        let mem = ModelMemory::default();
        let unit = ModelUnit::new(&mem, cap, ecap);
        Self { mem, clock: ModelClock::default(), unit }
    }

    fn start(&mut self) -> Result<Iommu<ModelUnit>, Error> {
        self.start_with(config(0))
    }

    fn start_with(&mut self, config: UnitConfig) -> Result<Iommu<ModelUnit>, Error> {
        let platform = &mut Platform { mem: &mut self.mem, clock: &self.clock };
        Iommu::init_cold(vec![(config, self.unit.clone())], routes(1), platform)
    }
}

#[test]
fn everything_is_on_and_everything_is_blocked() {
    let mut rig = Rig::of(SHAPE);
    // TES, RTPS, QIES, IRES, IRTPS.
    assert_eq!(rig.units[0].status(), 0xc700_0000);
    assert_eq!(rig.read(DISK, 0x1000), Err(0x01));
    assert_eq!(rig.units[0].msi(0x0300, 0xfee0_0000, 0x41).map_err(|b| b.0), Err(0x25));
    assert_eq!(rig.units[0].msi(0x0300, 0xfee0_0018, 0).map_err(|b| b.0), Err(0x22));
    assert_eq!(rig.units[0].read32(0x3c), 0x30);
    assert_eq!((rig.units[0].read32(0x40), rig.units[0].read32(0x44)), (0xfee0_1000, 0));
    assert_eq!(rig.service_faults(), 1);
    rig.assert_clean();
}

#[test]
fn firmware_left_it_on() {
    let mut bare = Bare::new(SHAPE.change(|cap| cap.with_protected_low(true)), SHAPE.ecap);
    bare.unit.firmware_left(0xc700_0000 | 1 << 23, true);
    bare.start().unwrap();
    assert_eq!(bare.unit.status(), 0xc700_0000);
    assert_eq!(bare.unit.read32(0x64), 0);
    assert!(bare.unit.violations().is_empty(), "{:?}", bare.unit.violations());
}

/// Whatever the unit still held from before is forgotten: contexts, translations, interrupts.
#[test]
fn a_start_forgets_what_was_cached() {
    let mut rig = Rig::guest_of(SHAPE);
    rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
    let range = rig.iommu.allocate_interrupts(platform!(rig), DISK, 1).unwrap();
    let target = InterruptTarget::fixed(0x51, 0);
    rig.iommu.set_interrupt(platform!(rig), range.unit, range.first, &target).unwrap();
    let (address, data) = msi_message(range.first, 0);
    assert_eq!(rig.read(DISK, 0x1000), Ok(0x9000));
    assert!(rig.units[0].msi(0x0300, address, data).is_ok());
    let again = vec![(config(0), rig.units[0].clone())];
    rig.iommu = Iommu::init_cold(again, routes(1), platform!(rig)).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x01));
    assert!(rig.units[0].msi(0x0300, address, data).is_err());
    // The same domain id as before, in other hands.
    rig.create(GUEST);
    rig.attach(DISK, GUEST).unwrap();
    assert_eq!(rig.read(DISK, 0x1000), Err(0x06));
}

/// Units that invalidate by themselves when they take a table (ESRTPS, ESIRTPS) are not asked to do it again;
/// what they held is forgotten either way.
#[test]
fn no_invalidation_that_the_unit_does_by_itself() {
    let start = |enhanced: bool| {
        let cap = SHAPE.change(|cap| cap.with_enhanced_srtp(enhanced).with_enhanced_sirtp(enhanced));
        let mut rig = Rig::with(&[(cap, SHAPE.ecap)]);
        let submissions = rig.units[0].submissions();
        rig.create(GUEST);
        rig.attach(DISK, GUEST).unwrap();
        rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
        assert_eq!(rig.read(DISK, 0x1000), Ok(0x9000));
        let again = vec![(config(0), rig.units[0].clone())];
        rig.iommu = Iommu::init_cold(again, routes(1), platform!(rig)).unwrap();
        assert_eq!(rig.read(DISK, 0x1000), Err(0x01));
        rig.assert_clean();
        submissions
    };
    // Contexts, translations, interrupts; in scalable mode PASIDs.
    let caches = if SHAPE.is_scalable() { 4 } else { 3 };
    assert_eq!((start(true), start(false)), (0, caches));
}

/// Units that take their time get it.
#[test]
fn slow_units() {
    let mut bare = Bare::new(SHAPE.change(|cap| cap.with_protected_low(true).with_write_buffer(true)), SHAPE.ecap);
    bare.unit.firmware_left(0xc700_0000 | 1 << 23, true);
    bare.unit.fail(Failures { slow: 50, slow_queue: 50, ..Failures::default() });
    bare.start().unwrap();
    assert_eq!(bare.unit.status(), 0xc700_0000);
    assert!(bare.unit.violations().is_empty(), "{:?}", bare.unit.violations());
}

/// Each wait of the start is bounded, names what did not happen, and leaves no frame behind.
#[test]
fn every_wait_ends() {
    let stuck = |bit: u32| Failures { stuck: 1 << bit, ..Failures::default() };
    let on = [(26, "QIES"), (30, "RTPS"), (24, "IRTPS"), (25, "IRES"), (31, "TES")];
    for (bit, name) in on {
        let mut bare = Bare::new(SHAPE.cap, SHAPE.ecap);
        bare.unit.fail(stuck(bit));
        let error = bare.start().unwrap_err();
        assert!(matches!(error, Error::Timeout { unit: HostPhys(BASE), wait } if wait.contains(name)), "{error}");
        assert_eq!((bare.mem.in_use(), bare.unit.status() >> 31), (0, 0), "{name}");
    }
    let off = [(31, "TES clear"), (25, "IRES clear"), (26, "QIES clear"), (23, "CFIS clear")];
    for (bit, name) in off {
        let mut bare = Bare::new(SHAPE.cap, SHAPE.ecap);
        bare.unit.firmware_left(1 << bit, false);
        bare.unit.fail(stuck(bit));
        let error = bare.start().unwrap_err();
        assert!(matches!(error, Error::Timeout { wait, .. } if wait.contains(name)), "{error}");
    }
    let mut bare = Bare::new(SHAPE.change(|cap| cap.with_protected_high(true)), SHAPE.ecap);
    bare.unit.firmware_left(0, true);
    bare.unit.fail(Failures { stuck_protection: true, ..Failures::default() });
    assert!(bare.start().unwrap_err().to_string().contains("PMEN.PRS"));
    let mut bare = Bare::new(SHAPE.change(|cap| cap.with_write_buffer(true)), SHAPE.ecap);
    bare.unit.fail(stuck(27));
    assert!(bare.start().unwrap_err().to_string().contains("WBFS"));
    let mut bare = Bare::new(SHAPE.cap, SHAPE.ecap);
    bare.unit.fail(Failures { dead_queue: true, ..Failures::default() });
    assert!(bare.start().unwrap_err().to_string().contains("invalidation"));
}

#[test]
fn what_a_unit_lacks_is_named() {
    let lacks = |cap, ecap| Bare::new(cap, ecap).start().unwrap_err().to_string();
    assert!(lacks(SHAPE.cap, SHAPE.ecap & !2).contains("ECAP.QI"));
    assert!(lacks(SHAPE.cap & !0x1f00, SHAPE.ecap & !(1 << 47)).contains("CAP.SAGAW"));
    assert!(lacks(SHAPE.cap, SHAPE.ecap & !0x10).contains("ECAP.EIM"));
    // Fault records at 0x3ff0: outside what is mapped.
    assert!(lacks(SHAPE.cap | 0x3ff << 24, SHAPE.ecap).contains("register_bytes()"));
}

#[test]
fn a_fault_event_that_cannot_be_sent_is_refused() {
    let mut bare = Bare::new(SHAPE.cap, SHAPE.ecap & !0x10);
    let event = Some(FaultEvent { address: 0x100_fee0_1000, data: 0x30 });
    let config = UnitConfig { x2apic: false, fault_event: event, ..config(0) };
    let error = bare.start_with(config).unwrap_err();
    assert!(error.to_string().contains("APIC id below 256"));
    assert_eq!(bare.mem.in_use(), 0);
}

#[test]
fn without_interrupt_remapping() {
    let mut bare = Bare::new(SHAPE.cap, SHAPE.ecap & !8);
    let iommu = bare.start().unwrap();
    assert_eq!(bare.unit.status(), 0xc400_0000);
    assert!(!iommu.remaps_interrupts(DISK));
}

#[test]
fn nobody_answers() {
    #[derive(Debug)]
    struct Nothing;
    impl Registers for Nothing {
        fn read32(&self, _: usize) -> u32 {
            u32::MAX
        }
        fn write32(&self, _: usize, _: u32) {}
        fn read64(&self, _: usize) -> u64 {
            u64::MAX
        }
        fn write64(&self, _: usize, _: u64) {}
    }
    let (mut mem, clock) = (ModelMemory::default(), ModelClock::default());
    let platform = &mut Platform { mem: &mut mem, clock: &clock };
    let error = Iommu::init_cold(vec![(config(0), Nothing)], vec![], platform).unwrap_err();
    assert_eq!(error, Error::NoHardware { unit: HostPhys(BASE), version: u32::MAX });
}

#[test]
fn out_of_memory_at_each_frame_leaks_nothing() {
    for frames in 0..4 {
        let mut bare = Bare::new(SHAPE.cap, SHAPE.ecap);
        bare.mem.limit(frames);
        assert!(matches!(bare.start(), Err(Error::OutOfMemory { .. })));
        assert_eq!(bare.mem.in_use(), 0);
    }
}

#[test]
fn a_larger_table_of_the_callers() {
    let mut bare = Bare::new(SHAPE.cap, SHAPE.ecap);
    let frames: [HostPhys; 4] = core::array::from_fn(|_| bare.mem.allocate().unwrap());
    bare.mem.write(HostPhys(frames[3].0 + 8), u64::MAX);
    let region = |base, order| UnitConfig { interrupts: Some(InterruptRegion { base, order }), ..config(0) };
    for wrong in [region(frames[0], 7), region(frames[0], 17), region(HostPhys(frames[0].0 + 8), 10)] {
        assert!(bare.start_with(wrong).unwrap_err().to_string().contains("2^8 to 2^16"));
    }
    let iommu = bare.start_with(region(frames[0], 10)).unwrap();
    // EIME and S = 9: 1,024 entries.
    assert_eq!(bare.unit.read64(0xb8), frames[0].0 | 0x809);
    assert_eq!(bare.mem.read(HostPhys(frames[3].0 + 8)), 0);
    let mut listed = 0;
    iommu.frames(&bare.mem, |frame| listed += usize::from(frames.contains(&frame)));
    assert_eq!(listed, 4);
}

#[test]
fn units_and_routes_must_make_sense() {
    let (mut mem, clock) = (ModelMemory::default(), ModelClock::default());
    let unit = ModelUnit::new(&mem, SHAPE.cap, SHAPE.ecap);
    let platform = &mut Platform { mem: &mut mem, clock: &clock };
    let twice = vec![(config(0), unit.clone()), (config(0), unit.clone())];
    let error = Iommu::init_cold(twice, vec![], platform).unwrap_err();
    assert_eq!(error, Error::DuplicateUnit { unit: HostPhys(BASE) });
    let route = vec![Route::segment(0, UnitIndex(1))];
    let error = Iommu::init_cold(vec![(config(0), unit)], route, platform).unwrap_err();
    assert_eq!(error, Error::BadUnit { index: 1 });
}
