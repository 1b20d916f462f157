//! Which mode and which kind of table units get; domains without a table of ours; units that differ.

use super::rig::{BASE, DISK, GUEST, MANAGEMENT, NIC, Rig, Shape, config, platform, routes};
use super::std::string::ToString;
use crate::model::{ModelClock, ModelMemory, ModelUnit};
use crate::state::Snapshot;
use crate::{Error, Iommu, Mode, Platform, Preference, Stage, Token, UnitConfig, UnitIndex};
use alloc::vec::Vec;
use machine::access::{Registers, TableMemory};
use machine::addr::{HostPhys, Iova};

const GIB: u64 = 1 << 30;
/// ECAP.NEST, with both stages.
const NESTING: u64 = ModelUnit::ECAP_SECOND_STAGE | ModelUnit::ECAP_FIRST_STAGE | 1 << 26;
const NESTED: Token = Token(0x4e57);

fn start(shape: Shape, mode: Preference) -> (ModelUnit, Result<Iommu<ModelUnit>, Error>) {
    let (mut mem, clock) = (ModelMemory::default(), ModelClock::default());
    let unit = ModelUnit::new(&mem, shape.cap, shape.ecap);
    let platform = &mut Platform { mem: &mut mem, clock: &clock };
    let started = Iommu::init_cold([(UnitConfig { mode, ..config(0) }, unit.clone())].to_vec(), routes(1), platform);
    (unit, started)
}

#[test]
fn the_mode_is_the_units_and_the_callers_choice() {
    let shapes = [Shape::LEGACY, Shape::SECOND_STAGE, Shape::FIRST_STAGE];
    let stages = [Stage::Second, Stage::Second, Stage::First];
    for (shape, stage) in shapes.into_iter().zip(stages) {
        let (unit, started) = start(shape, Preference::Auto);
        let scalable = shape != Shape::LEGACY;
        assert_eq!(
            started.as_ref().unwrap().mode(UnitIndex(0)),
            Some(if scalable { Mode::Scalable } else { Mode::Legacy })
        );
        assert_eq!(started.unwrap().geometry().stage, stage);
        // TTM of RTADDR, DW of IQA.
        assert_eq!((unit.read64(0x20) >> 10 & 3, unit.read64(0x90) >> 11 & 1), (scalable.into(), scalable.into()));

        let (unit, started) = start(shape, Preference::Legacy);
        assert_eq!(started.unwrap().geometry().stage, Stage::Second);
        assert_eq!((unit.read64(0x20) & 0xfff, unit.read64(0x90) & 0xfff), (0, 0));

        let (_, started) = start(shape, Preference::Scalable);
        match started {
            Ok(_) => assert!(scalable),
            Err(error) => assert!(!scalable && error.to_string().contains("ECAP.SMTS"), "{error}"),
        }
    }
    // Scalable mode with neither stage is of no use.
    let neither = Shape { ecap: Shape::SECOND_STAGE.ecap & !(1 << 46), ..Shape::SECOND_STAGE };
    assert_eq!(start(neither, Preference::Auto).1.unwrap().mode(UnitIndex(0)), Some(Mode::Legacy));
    // With both, the second stage is preferred.
    let both = Shape { ecap: NESTING, ..Shape::FIRST_STAGE };
    assert_eq!(start(both, Preference::Auto).1.unwrap().geometry().stage, Stage::Second);
}

#[test]
fn five_levels() {
    // CAP.FS5LP on a unit with first stages only; four levels are preferred where they will do.
    let cap = Shape::FIRST_STAGE.change(|cap| cap.with_first_stage_5(true).with_max_width(56));
    let mut rig = Rig::with(&[(cap, Shape::FIRST_STAGE.ecap)]);
    assert_eq!((rig.iommu.geometry().levels, rig.iommu.geometry().address_bits), (4, 47));
    // Second stages of five levels only.
    let cap = Shape::SECOND_STAGE.change(|cap| cap.with_widths(0b1000).with_max_width(56));
    for ecap in [Shape::LEGACY.ecap, Shape::SECOND_STAGE.ecap] {
        rig = Rig::with(&[(cap, ecap)]);
        rig.create(GUEST);
        rig.attach(DISK, GUEST).unwrap();
        rig.map(GUEST, 1 << 55, GIB, GIB).unwrap();
        assert_eq!(rig.read(DISK, (1 << 55) + 0x1234), Ok(GIB + 0x1234));
        assert_eq!(rig.read(DISK, 1 << 57), Err(0x04));
        rig.assert_clean();
    }
}

/// Snooping: PWSNP and PGSNP are set exactly where ECAP.SMPWC and ECAP.SC allow.
#[test]
fn snooping_as_the_unit_allows() {
    for (bits, expected) in [(0, 0), (1 << 48, 1 << 23), (1 << 7, 1 << 24), (1 << 48 | 1 << 7, 3 << 23)] {
        for shape in [Shape::SECOND_STAGE, Shape::FIRST_STAGE] {
            let mut rig = Rig::with(&[(shape.cap, shape.ecap | bits)]);
            rig.create(GUEST);
            rig.attach(DISK, GUEST).unwrap();
            rig.map(GUEST, 0x1000, 0x9000, 0x1000).unwrap();
            assert_eq!(rig.read(DISK, 0x1000), Ok(0x9000));
            let directory = rig.iommu.snapshot().unwrap().devices[0].directory;
            let table = rig.mem.read(HostPhys(directory)) & !0xfff;
            assert_eq!(rig.mem.read(HostPhys(table + 8)) & 0xf_ffff << 23, expected);
        }
    }
}

#[test]
fn pass_through_is_for_batons_own_devices() {
    for shape in [Shape::LEGACY, Shape::SECOND_STAGE, Shape::FIRST_STAGE] {
        let mut rig = Rig::of(shape);
        rig.create(GUEST);
        rig.iommu.create_pass_through(MANAGEMENT).unwrap();
        let refused = rig.attach(NIC, MANAGEMENT).unwrap_err();
        assert!(matches!(refused, Error::WrongStage { token: MANAGEMENT, .. }), "{refused}");
        let refused = rig.iommu.attach_pass_through(platform!(rig), NIC, &[], GUEST).unwrap_err();
        assert!(matches!(refused, Error::WrongStage { token: GUEST, .. }), "{refused}");
        rig.iommu.attach_pass_through(platform!(rig), NIC, &[], MANAGEMENT).unwrap();
        assert_eq!(rig.access(0, NIC, 0x1234_5678, true), Ok(0x1234_5678));
        assert_eq!(rig.access(0, NIC, 1 << 48, true), Err(0x04));
        assert!(rig.read(DISK, 0x1234_5678).is_err());
        assert!(matches!(rig.map(MANAGEMENT, 0x1000, 0, 0x1000), Err(Error::WrongStage { .. })));
        assert!(matches!(rig.unmap(MANAGEMENT, 0x1000, 0x1000), Err(Error::WrongStage { .. })));

        rig.iommu.drain(platform!(rig)).unwrap();
        let mut snapshot = rig.iommu.snapshot().unwrap();
        rig.iommu = adopt(&rig, &mut snapshot).unwrap();
        assert_eq!(rig.access(0, NIC, 0x1234_5678, true), Ok(0x1234_5678));
        rig.detach(NIC).unwrap();
        assert_eq!(rig.read(NIC, 0x1234_5678), Err(0x02));
        rig.iommu.destroy_domain(platform!(rig), MANAGEMENT).unwrap();
        rig.assert_clean();
    }
    // Not where the unit cannot.
    let mut rig = Rig::with(&[(ModelUnit::CAP, ModelUnit::ECAP & !(1 << 6))]);
    rig.iommu.create_pass_through(MANAGEMENT).unwrap();
    let refused = rig.iommu.attach_pass_through(platform!(rig), NIC, &[], MANAGEMENT).unwrap_err();
    assert!(matches!(refused, Error::Format { unit: HostPhys(BASE), .. }), "{refused}");
}

fn adopt(rig: &Rig, snapshot: &mut Snapshot) -> Result<Iommu<ModelUnit>, Error> {
    let mem = rig.mem.clone();
    let regs: Vec<_> = rig.units.iter().enumerate().map(|(index, unit)| (config(index).base, unit.clone())).collect();
    let count = regs.len();
    Iommu::adopt(snapshot, regs, routes(count), &rig.mem, &|frame| mem.holds(frame))
}

/// A guest with a first stage of its own in a frame of "its memory": guest address 1 GiB is `at`.
/// Four levels, one leaf: 0x7000 leads to guest address `target`.
fn guest_table(rig: &mut Rig, at: HostPhys, target: u64) {
    const LINK: u64 = 0x27;
    const LEAF: u64 = 0x67;
    for level in 0..3 {
        rig.mem.write(HostPhys(at.0 + level * 0x1000), (GIB + (level + 1) * 0x1000) | LINK);
    }
    rig.mem.write(HostPhys(at.0 + 3 * 0x1000 + 7 * 8), target | LEAF);
    rig.mem.flush(at, 4 * 0x1000);
}

/// Four frames in a row.
fn four_frames(rig: &mut Rig) -> HostPhys {
    let frames: Vec<HostPhys> = (0..4).map(|_| rig.mem.allocate().unwrap()).collect();
    assert_eq!(frames[3].0, frames[0].0 + 0x3000);
    frames[0]
}

#[test]
fn a_nested_domain_reaches_what_both_stages_map() {
    let mut rig = Rig::with(&[(Shape::FIRST_STAGE.cap, NESTING | 1 << 40 | 15 << 35)]);
    rig.create(GUEST);
    let at = four_frames(&mut rig);
    guest_table(&mut rig, at, 0x5000);
    rig.map(GUEST, GIB, at.0, 0x4000).unwrap();
    rig.map(GUEST, 0x5000, 0x9000, 0x2000).unwrap();
    rig.iommu.create_nested_domain(NESTED, GUEST, Iova(GIB), 4).unwrap();
    rig.attach(DISK, NESTED).unwrap();
    rig.attach(NIC, GUEST).unwrap();
    rig.attach_pasid(NIC, 5, NESTED).unwrap();
    assert_eq!((rig.read(DISK, 0x7000), rig.read_with_pasid(NIC, 5, 0x7000)), (Ok(0x9000), Ok(0x9000)));
    assert_eq!(rig.read(DISK, 0x6000), Err(0x06));
    assert_eq!(rig.read(NIC, 0x5000), Ok(0x9000));

    // The guest points its entry elsewhere: stale until it has that forgotten.
    rig.mem.write(HostPhys(at.0 + 3 * 0x1000 + 7 * 8), 0x6067);
    rig.mem.flush(at, 4 * 0x1000);
    assert_eq!(rig.read(DISK, 0x7000), Ok(0x9000));
    rig.iommu.forget_nested(platform!(rig), NESTED).unwrap();
    assert_eq!((rig.read(DISK, 0x7000), rig.read_with_pasid(NIC, 5, 0x7000)), (Ok(0xa000), Ok(0xa000)));

    // What the domain around it loses, the nested one loses at once.
    rig.unmap(GUEST, 0x6000, 0x1000).unwrap();
    assert_eq!((rig.read(DISK, 0x7000), rig.read_with_pasid(NIC, 5, 0x7000)), (Err(0x06), Err(0x06)));
    rig.map(GUEST, 0x6000, 0xb000, 0x1000).unwrap();
    assert_eq!(rig.read(DISK, 0x7000), Ok(0xb000));
    // And a guest whose table leads out of its memory reaches nothing.
    rig.mem.write(HostPhys(at.0 + 3 * 0x1000 + 7 * 8), 0xdead_b067);
    rig.mem.flush(at, 4 * 0x1000);
    rig.iommu.forget_nested(platform!(rig), NESTED).unwrap();
    assert_eq!(rig.read(DISK, 0x7000), Err(0x06));

    let refused = rig.iommu.destroy_domain(platform!(rig), GUEST).unwrap_err();
    assert_eq!(refused, Error::DomainInUse { token: GUEST, device: NIC });
    assert!(matches!(rig.map(NESTED, 0x1000, 0, 0x1000), Err(Error::WrongStage { .. })));
    rig.assert_clean();
}

#[test]
fn an_upgrade_keeps_a_nested_domain() {
    let mut rig = Rig::with(&[(Shape::FIRST_STAGE.cap, NESTING)]);
    rig.create(GUEST);
    let at = four_frames(&mut rig);
    guest_table(&mut rig, at, 0x5000);
    rig.map(GUEST, GIB, at.0, 0x4000).unwrap();
    rig.map(GUEST, 0x5000, 0x9000, 0x2000).unwrap();
    rig.iommu.create_nested_domain(NESTED, GUEST, Iova(GIB), 4).unwrap();
    rig.attach(DISK, NESTED).unwrap();
    assert_eq!(rig.read(DISK, 0x7000), Ok(0x9000));
    rig.iommu.drain(platform!(rig)).unwrap();

    type Change = fn(&mut Snapshot);
    let nested = |s: &mut Snapshot| s.domains.iter().position(|domain| domain.token == NESTED.0).unwrap();
    assert_eq!(nested(&mut rig.iommu.snapshot().unwrap()), 0);
    let changes: [(&str, Change); 6] = [
        ("another root", |s| s.domains[0].root += 0x1000),
        ("no parent", |s| s.domains[0].parent = 0),
        ("itself as parent", |s| s.domains[0].parent = s.domains[0].token),
        ("five levels", |s| s.domains[0].levels = 5),
        ("a table of ours", |s| s.domains[0].stage = 1),
        ("a kind that nobody knows", |s| s.domains[0].stage = 4),
    ];
    for (lie, change) in changes {
        let mut snapshot = rig.iommu.snapshot().unwrap();
        change(&mut snapshot);
        assert!(adopt(&rig, &mut snapshot).is_err(), "{lie} was believed");
    }
    let mut snapshot = rig.iommu.snapshot().unwrap();
    rig.iommu = adopt(&rig, &mut snapshot).unwrap();
    assert_eq!(rig.read(DISK, 0x7000), Ok(0x9000));
    rig.unmap(GUEST, 0x5000, 0x1000).unwrap();
    assert_eq!(rig.read(DISK, 0x7000), Err(0x06));
    rig.detach(DISK).unwrap();
    let refused = rig.iommu.destroy_domain(platform!(rig), GUEST).unwrap_err();
    assert_eq!(refused, Error::ParentInUse { token: GUEST, child: NESTED });
    rig.iommu.destroy_domain(platform!(rig), NESTED).unwrap();
    rig.iommu.destroy_domain(platform!(rig), GUEST).unwrap();
    rig.assert_clean();
}

#[test]
fn nesting_needs_a_unit_and_a_second_stage() {
    let mut rig = Rig::of(Shape::SECOND_STAGE);
    rig.create(GUEST);
    rig.iommu.create_nested_domain(NESTED, GUEST, Iova(0x1000), 4).unwrap();
    let refused = rig.attach(DISK, NESTED).unwrap_err();
    assert!(matches!(refused, Error::Format { token: NESTED, .. }), "{refused}");
    for (root, levels) in [(0x1008, 4), (1 << 50, 4), (0x1000, 3), (0x1000, 6)] {
        assert!(rig.iommu.create_nested_domain(Token(3), GUEST, Iova(root), levels).is_err());
    }
    let mut rig = Rig::of(Shape::FIRST_STAGE);
    rig.create(GUEST);
    let refused = rig.iommu.create_nested_domain(NESTED, GUEST, Iova(0x1000), 4).unwrap_err();
    assert!(matches!(refused, Error::WrongStage { token: GUEST, .. }), "{refused}");
}

/// A machine whose units have no kind of table in common still works: domains are made for the units
/// that they are for, and nothing is attached where it cannot be walked.
#[test]
fn units_that_differ() {
    let units = [Shape::LEGACY, Shape::FIRST_STAGE].map(|shape| (shape.cap, shape.ecap));
    let mut rig = Rig::with(&units);
    assert_eq!(rig.iommu.geometry().levels, 0);
    let none = rig.iommu.create_domain(platform!(rig), GUEST).unwrap_err();
    assert_eq!(none, Error::NoCommonFormat { token: GUEST });
    let (near, far) = (UnitIndex(0), UnitIndex(1));
    assert_eq!((rig.iommu.unit_of(NIC), rig.iommu.unit_of(DISK)), (Some(near), Some(far)));
    rig.iommu.create_domain_for(platform!(rig), GUEST, &[far]).unwrap();
    rig.iommu.create_domain_for(platform!(rig), MANAGEMENT, &[near]).unwrap();
    let unknown = rig.iommu.create_domain_for(platform!(rig), Token(9), &[UnitIndex(2)]);
    assert_eq!(unknown, Err(Error::BadUnit { index: 2 }));
    assert_eq!(rig.iommu.domain(GUEST).unwrap().stage(), Stage::First);
    assert_eq!(rig.iommu.domain(MANAGEMENT).unwrap().stage(), Stage::Second);
    let refused = rig.attach(DISK, MANAGEMENT).unwrap_err();
    assert!(matches!(refused, Error::Format { token: MANAGEMENT, .. }), "{refused}");
    assert!(matches!(rig.attach(NIC, GUEST), Err(Error::Format { .. })));
    rig.attach(DISK, GUEST).unwrap();
    rig.attach(NIC, MANAGEMENT).unwrap();
    rig.map(GUEST, 0, GIB, GIB).unwrap();
    rig.map(MANAGEMENT, 0x1000, 0x9000, 0x1000).unwrap();
    assert_eq!((rig.access(1, DISK, 0x1234, true), rig.read(NIC, 0x1000)), (Ok(GIB + 0x1234), Ok(0x9000)));
    rig.iommu.drain(platform!(rig)).unwrap();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    rig.iommu = adopt(&rig, &mut snapshot).unwrap();
    rig.unmap(GUEST, 0, 0x1000).unwrap();
    assert_eq!((rig.access(1, DISK, 0, true), rig.access(1, DISK, 0x1000, true)), (Err(0x05), Ok(GIB + 0x1000)));
    rig.assert_clean();
}

/// A domain relies on no more than what each of its units has, and says what is missing.
#[test]
fn what_a_domain_relies_on() {
    let (cap, ecap) = (Shape::SECOND_STAGE.cap, Shape::SECOND_STAGE.ecap);
    let rich = (cap, ecap | 1 | 1 << 48 | 1 << 7);
    let poor = [
        ((cap, ecap | 1 << 7), "does not snoop"),
        ((cap, ecap | 1 | 1 << 48), "ECAP.SC"),
        ((Shape::SECOND_STAGE.change(|cap| cap.with_large_pages(1)), ecap | 1 | 1 << 48 | 1 << 7), "leaf sizes"),
        ((Shape::SECOND_STAGE.change(|cap| cap.with_max_width(38)), ecap | 1 | 1 << 48 | 1 << 7), "address bits"),
        ((Shape::SECOND_STAGE.change(|cap| cap.with_widths(0b10)), ecap | 1 | 1 << 48 | 1 << 7), "cannot walk"),
    ];
    for (second, words) in poor {
        let mut rig = Rig::with(&[rich, second]);
        rig.iommu.create_domain_for(platform!(rig), GUEST, &[UnitIndex(0)]).unwrap();
        rig.attach(NIC, GUEST).unwrap();
        let refused = rig.attach(DISK, GUEST).unwrap_err();
        assert!(refused.to_string().contains(words), "{refused}");
        // One for both is possible all the same.
        rig.create(MANAGEMENT);
        rig.attach(DISK, MANAGEMENT).unwrap();
        rig.map(MANAGEMENT, 0, GIB, GIB).unwrap();
        assert_eq!(rig.access(1, DISK, 0x1234, true), Ok(GIB + 0x1234));
        rig.assert_clean();
    }
}

/// The record cannot talk a unit into another mode, nor out of what it can do.
#[test]
fn modes_are_compared_and_never_changed() {
    let rig = Rig::guest_of(Shape::SECOND_STAGE);
    type Change = fn(&mut Snapshot);
    let changes: [(&str, Change); 6] = [
        ("legacy mode", |s| s.units[0].rtaddr &= !0xc00),
        ("abort mode", |s| s.units[0].rtaddr |= 0xc00),
        ("an extended root", |s| s.units[0].rtaddr ^= 0xc00),
        ("a first stage", |s| s.domains[0].stage = 1),
        ("a parent", |s| s.domains[0].parent = 1),
        ("coherence", |s| s.domains[0].coherent = 1),
    ];
    for (lie, change) in changes {
        let mut snapshot = rig.iommu.snapshot().unwrap();
        change(&mut snapshot);
        let before = (rig.mem.writes(), rig.units[0].writes());
        assert!(adopt(&rig, &mut snapshot).is_err(), "{lie} was believed");
        assert_eq!((rig.mem.writes(), rig.units[0].writes()), before);
    }
    // A device behind a unit in legacy mode has no PASIDs; by its name.
    let rig = Rig::guest_of(Shape::LEGACY);
    let mut snapshot = rig.iommu.snapshot().unwrap();
    snapshot.devices[0].directory = 0x1000;
    let error = adopt(&rig, &mut snapshot).unwrap_err();
    assert!(matches!(error, Error::UnsupportedDevice { device: DISK, .. }), "{error}");
    assert!(error.to_string().contains("0000:03:00.0"));
    let mut snapshot = rig.iommu.snapshot().unwrap();
    snapshot.pasids.push(crate::state::PasidState {
        unit: BASE,
        token: GUEST.0,
        pasid: 1,
        source: 0x0300,
        ..Default::default()
    });
    let error = adopt(&rig, &mut snapshot).unwrap_err();
    assert!(matches!(error, Error::UnsupportedDevice { device: DISK, .. }), "{error}");
}

/// What a unit sees of a PASID entry at any moment: nothing, or all of it. P comes with the last store
/// and goes with the first; the frames of the directory are given back when nothing leads there.
#[test]
fn pasid_entries_are_whole_whenever_they_are_present() {
    use crate::intel::pasids::PasidDirectory;
    use crate::intel::spec::scalable::{PasidEntry, Snooping};
    for coherent in [false, true] {
        let (mut mem, clock) = (Watched::default(), ModelClock::default());
        let platform = &mut Platform { mem: &mut mem, clock: &clock };
        let directory = PasidDirectory::new(platform, coherent).unwrap();
        directory.prepare(platform, 5).unwrap();
        let first = PasidEntry::first_stage(HostPhys(0x9000), 4, 7, Snooping::default());
        let second = PasidEntry::second_stage(HostPhys(0x7000), 4, 8, Snooping::default());
        let at = HostPhys(platform.mem.read(directory.frame) - 1 + 5 * 64);
        mem.watch(at);
        for entry in [first, second] {
            let platform = &mut Platform { mem: &mut mem, clock: &clock };
            directory.set(platform, 5, entry);
            directory.clear(platform, 5);
            directory.wipe(platform, 5);
            let whole = mem.written(entry.low.into_bits(), entry.first.into_bits());
            let seen = mem.take();
            assert!(seen.iter().filter(|words| words[0] & 1 != 0).all(|words| *words == whole), "{seen:x?}");
            assert!(seen.contains(&whole) && seen.last() == Some(&[0; 8]));
        }
        let platform = &mut Platform { mem: &mut mem, clock: &clock };
        directory.free(platform.mem);
        assert_eq!(mem.inner.in_use(), 0);
    }
}

/// Memory that takes note of what the 64 bytes at one place hold after each store.
#[derive(Default)]
struct Watched {
    inner: ModelMemory,
    place: HostPhys,
    seen: Vec<[u64; 8]>,
}

impl Watched {
    fn watch(&mut self, place: HostPhys) {
        self.place = place;
        self.seen.clear();
    }

    fn note(&mut self) {
        if self.place != HostPhys(0) {
            self.seen.push(core::array::from_fn(|word| self.inner.read(HostPhys(self.place.0 + word as u64 * 8))));
        }
    }

    fn written(&self, low: u128, first: u128) -> [u64; 8] {
        [low as u64, (low >> 64) as u64, first as u64, (first >> 64) as u64, 0, 0, 0, 0]
    }

    fn take(&mut self) -> Vec<[u64; 8]> {
        core::mem::take(&mut self.seen)
    }
}

impl TableMemory for Watched {
    fn allocate(&mut self) -> Option<HostPhys> {
        self.inner.allocate()
    }
    fn free(&mut self, frame: HostPhys) {
        self.inner.free(frame);
    }
    fn read(&self, entry: HostPhys) -> u64 {
        self.inner.read(entry)
    }
    fn write(&mut self, entry: HostPhys, value: u64) {
        self.inner.write(entry, value);
        self.note();
    }
    fn write_pair(&mut self, entry: HostPhys, value: [u64; 2]) {
        self.inner.write_pair(entry, value);
        self.note();
    }
    fn update(&mut self, entry: HostPhys, clear: u64, set: u64) -> u64 {
        let old = self.inner.update(entry, clear, set);
        self.note();
        old
    }
    fn flush(&mut self, address: HostPhys, bytes: u64) {
        self.inner.flush(address, bytes);
    }
}
