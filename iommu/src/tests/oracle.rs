//! Random sequences of everything that changes what devices reach, on units that fail now and then: after each
//! step every address and every interrupt of interest goes where a simple map says, stale caches included.
//!
//! After an invalidation that failed, hardware may hold what was; then the map says what it may hold at most.

use super::SHAPE;
use crate::model::{Blocked, Delivered, Failures};
use crate::tests::rig::{GUEST, MANAGEMENT, Rig, config, platform, routes};
use crate::{Bdf, Error, InterruptRange, InterruptTarget, Iommu, Platform, Token, msi_message};
use alloc::collections::btree_map::Entry;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use machine::addr::HostPhys;
use proptest::prelude::*;

const TOKENS: [Token; 2] = [GUEST, MANAGEMENT];
/// Two behind either unit.
const DEVICES: [u16; 4] = [0x0010, 0x0100, 0x0300, 0x0408];
/// Those of them that have a TLB of their own.
const WITH_TLB: [u16; 2] = [0x0100, 0x0300];
/// Where ranges start, in pages: around boundaries of large leaves.
const STARTS: [u64; 5] = [0, 1, 511, 512, 0x3_fffe];
/// How long they are, in pages.
const LENGTHS: [u64; 5] = [1, 2, 512, 1024, 0x4_0000];

#[derive(Clone, Copy, Debug)]
enum Action {
    Map { domain: usize, start: usize, length: usize, to: u64 },
    Unmap { domain: usize, start: usize, length: usize },
    Attach { device: usize, domain: usize },
    Detach { device: usize },
    Point { device: usize, vector: u8 },
    Block { device: usize },
    Free { device: usize },
    Upgrade,
}

/// How a unit fails during a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Rejected {
        after: u32,
        twice: bool,
    },
    /// A device does not confirm.
    Silent {
        twice: bool,
    },
    Dead,
    Unasked,
    Slow,
}

impl Trouble {
    /// Whether an operation may fail by it.
    fn is_fatal(self) -> bool {
        matches!(self, Self::Dead | Self::Rejected { twice: true, .. } | Self::Silent { twice: true })
    }

    fn failures(self) -> Failures {
        match self {
            Self::None => Failures::default(),
            // The spare, the wait, and as many good ones as before: the repeated batch fails as well.
            Self::Rejected { after, twice } => {
                let reject = 1 + u32::from(twice);
                Failures { reject, reject_after: after, reject_gap: 2, ..Failures::default() }
            }
            Self::Silent { twice } => Failures { device_timeouts: 1 + u32::from(twice), ..Failures::default() },
            Self::Dead => Failures { dead_queue: true, ..Failures::default() },
            Self::Unasked => Failures { spurious_completions: 2, ..Failures::default() },
            Self::Slow => Failures { slow_queue: 40, ..Failures::default() },
        }
    }
}

fn action() -> impl Strategy<Value = Action> {
    let (domain, start, length, device) = (0..2usize, 0..5usize, 0..5usize, 0..4usize);
    prop_oneof![
        4 => (domain.clone(), start.clone(), length.clone(), 0u64..1 << 20)
            .prop_map(|(domain, start, length, to)| Action::Map { domain, start, length, to: to << 9 }),
        3 => (domain.clone(), start, length)
            .prop_map(|(domain, start, length)| Action::Unmap { domain, start, length }),
        4 => (device.clone(), domain).prop_map(|(device, domain)| Action::Attach { device, domain }),
        2 => device.clone().prop_map(|device| Action::Detach { device }),
        3 => (device.clone(), 0x20u8..).prop_map(|(device, vector)| Action::Point { device, vector }),
        1 => device.clone().prop_map(|device| Action::Block { device }),
        1 => device.prop_map(|device| Action::Free { device }),
        2 => Just(Action::Upgrade),
    ]
}

fn trouble() -> impl Strategy<Value = (usize, Trouble)> {
    let kind = prop_oneof![
        8 => Just(Trouble::None),
        3 => (0..3u32, any::<bool>()).prop_map(|(after, twice)| Trouble::Rejected { after, twice }),
        2 => any::<bool>().prop_map(|twice| Trouble::Silent { twice }),
        1 => Just(Trouble::Dead),
        1 => Just(Trouble::Unasked),
        1 => Just(Trouble::Slow),
    ];
    (0..2usize, kind)
}

/// A range of pages.
#[derive(Clone, Copy, Debug)]
struct Range {
    first: u64,
    pages: u64,
    to: u64,
}

impl Range {
    fn end(&self) -> u64 {
        self.first + self.pages
    }

    fn target(&self, page: u64) -> Option<u64> {
        (self.first..self.end()).contains(&page).then(|| self.to + (page - self.first))
    }

    /// What is left of it without the pages from `first` to `end`.
    fn without(self, first: u64, end: u64) -> impl Iterator<Item = Self> {
        let before = Self { pages: self.pages.min(first.saturating_sub(self.first)), ..self };
        let cut = end.clamp(self.first, self.end()) - self.first;
        let after = Self { first: self.first + cut, pages: self.pages - cut, to: self.to + cut };
        let apart = end <= self.first || first >= self.end();
        let pieces = if apart { [self, Self { pages: 0, ..self }] } else { [before, after] };
        pieces.into_iter().filter(|piece| piece.pages > 0)
    }
}

#[derive(Debug, Default)]
struct Space {
    mapped: Vec<Range>,
    /// An invalidation failed.
    stale: bool,
    /// What was mapped when one failed: hardware may hold it.
    leftover: Vec<Range>,
    /// Mapped, but hardware may hold that they are not.
    doubtful: Vec<Range>,
}

impl Space {
    fn may_lead_to(&self, page: u64, sure: bool) -> BTreeSet<Option<u64>> {
        let target = |ranges: &[Range]| ranges.iter().find_map(|range| range.target(page));
        let now = target(&self.mapped);
        let mut all = BTreeSet::from([now]);
        if self.stale || !sure || target(&self.doubtful).is_some() {
            all.insert(None);
        }
        if self.stale {
            all.extend(self.leftover.iter().filter_map(|range| range.target(page)).map(Some));
        }
        all
    }
}

#[derive(Debug)]
struct Attached {
    domain: usize,
    /// Hardware knows.
    sure: bool,
}

#[derive(Debug)]
struct Interrupt {
    range: InterruptRange,
    /// What may be in the unit's cache or the table.
    possible: BTreeSet<Option<u8>>,
}

#[derive(Default)]
struct Oracle {
    spaces: [Space; 2],
    attached: BTreeMap<usize, Attached>,
    interrupts: BTreeMap<usize, Interrupt>,
}

fn device(index: usize) -> Bdf {
    Bdf::from_requester_id(0, DEVICES[index])
}

/// Whether hardware was at fault.
fn is_hardware(error: &Error) -> bool {
    matches!(error, Error::Timeout { .. } | Error::DescriptorRejected { .. } | Error::DeviceTlbTimeout { .. })
}

impl Oracle {
    /// Performs a step on the driver, and in mind.
    fn step(&mut self, rig: &mut Rig, action: Action, fatal: bool) -> Result<(), TestCaseError> {
        match action {
            Action::Map { domain, start, length, to } => {
                let range = Range { first: STARTS[start], pages: LENGTHS[length], to };
                let space = &mut self.spaces[domain];
                let free = !space.mapped.iter().any(|old| old.first < range.end() && range.first < old.end());
                let result = rig.map(TOKENS[domain], range.first << 12, to << 12, range.pages << 12);
                if outcome(&result, free && !space.stale, fatal)? {
                    space.mapped.push(range);
                    if result.is_err() {
                        space.doubtful.push(range);
                    }
                }
            }
            Action::Unmap { domain, start, length } => {
                let (first, end) = (STARTS[start], STARTS[start] + LENGTHS[length]);
                let space = &mut self.spaces[domain];
                let covered = (first..end).all(|page| space.mapped.iter().any(|range| range.target(page).is_some()));
                let result = rig.unmap(TOKENS[domain], first << 12, (end - first) << 12);
                if outcome(&result, covered, fatal)? {
                    space.leftover.extend(space.mapped.iter().copied());
                    space.stale |= result.is_err();
                    for ranges in [&mut space.mapped, &mut space.doubtful] {
                        *ranges = ranges.iter().flat_map(|range| range.without(first, end)).collect();
                    }
                }
            }
            Action::Attach { device: index, domain } => {
                let free = !self.attached.contains_key(&index) && !self.spaces[domain].stale;
                let ats = WITH_TLB.contains(&DEVICES[index]).then_some(4);
                let result = rig.iommu.attach(platform!(rig), device(index), &[], TOKENS[domain], ats);
                if outcome(&result, free, fatal)? {
                    self.attached.insert(index, Attached { domain, sure: result.is_ok() });
                }
            }
            Action::Detach { device: index } => {
                let result = rig.detach(device(index));
                if outcome(&result, self.attached.contains_key(&index), fatal)? {
                    let domain = self.attached[&index].domain;
                    let space = &mut self.spaces[domain];
                    match result {
                        Err(_) => {
                            space.leftover.extend(space.mapped.iter().copied());
                            space.stale = true;
                        }
                        Ok(()) => {
                            self.attached.remove(&index);
                            if self.attached.values().all(|other| other.domain != domain) {
                                (space.stale, space.leftover, space.doubtful) = (false, Vec::new(), Vec::new());
                            }
                        }
                    }
                }
            }
            Action::Point { device: index, vector } => {
                if let Entry::Vacant(vacant) = self.interrupts.entry(index) {
                    let range = rig.iommu.allocate_interrupts(platform!(rig), device(index), 1);
                    let range = range.map_err(|error| TestCaseError::fail(alloc::format!("{error}")))?;
                    vacant.insert(Interrupt { range, possible: BTreeSet::from([None]) });
                }
                let InterruptRange { unit, first, .. } = self.interrupts[&index].range;
                let target = InterruptTarget::fixed(vector, 1);
                let result = rig.iommu.set_interrupt(platform!(rig), unit, first, &target);
                outcome(&result, true, fatal)?;
                self.point(index, Some(vector), result.is_ok());
            }
            Action::Block { device: index } => {
                let Some(Interrupt { range, .. }) = self.interrupts.get(&index) else { return Ok(()) };
                let result = rig.iommu.clear_interrupt(platform!(rig), range.unit, range.first);
                outcome(&result, true, fatal)?;
                self.point(index, None, result.is_ok());
            }
            Action::Free { device: index } => {
                let Some(Interrupt { range, .. }) = self.interrupts.get(&index) else { return Ok(()) };
                let result = rig.iommu.free_interrupts(platform!(rig), *range);
                outcome(&result, true, fatal)?;
                match result {
                    Ok(()) => drop(self.interrupts.remove(&index)),
                    Err(_) => self.point(index, None, false),
                }
            }
            Action::Upgrade => return self.upgrade(rig, fatal),
        }
        Ok(())
    }

    fn point(&mut self, index: usize, to: Option<u8>, sure: bool) {
        if let Some(interrupt) = self.interrupts.get_mut(&index) {
            if sure {
                interrupt.possible.clear();
            }
            interrupt.possible.insert(to);
        }
    }

    /// The next image takes over, unless something is stale: then this one goes on.
    fn upgrade(&mut self, rig: &mut Rig, fatal: bool) -> Result<(), TestCaseError> {
        let stale = self.spaces.iter().any(|space| space.stale);
        let drained = rig.iommu.drain(platform!(rig));
        if !outcome(&drained, true, fatal)? || drained.is_err() {
            return Ok(());
        }
        let frozen: Vec<Token> = TOKENS.into_iter().filter(|token| rig.iommu.freeze(*token).is_ok()).collect();
        prop_assert_eq!(frozen.len(), self.spaces.iter().filter(|space| !space.stale).count());
        for token in &frozen {
            let busy = rig.unmap(*token, 0, 0x1000);
            prop_assert!(matches!(busy, Err(Error::Busy { .. })), "{:?}", busy);
        }
        let snapshot = rig.iommu.snapshot();
        prop_assert_eq!(snapshot.is_err(), stale);
        if let Ok(mut snapshot) = snapshot {
            let regs = rig.units.iter().enumerate().map(|(index, unit)| (config(index).base, unit.clone())).collect();
            let (mem, before) = (rig.mem.clone(), rig.mem.writes());
            let owned = |frame: HostPhys| mem.holds(frame);
            let next = Iommu::adopt(&mut snapshot, regs, routes(2), &rig.mem, &owned);
            rig.iommu = next.map_err(|error| TestCaseError::fail(alloc::format!("{error}")))?;
            prop_assert_eq!(rig.mem.writes(), before);
        } else {
            for token in frozen {
                prop_assert_eq!(rig.iommu.unfreeze(token), Ok(0));
            }
        }
        Ok(())
    }

    fn check(&self, rig: &Rig) -> Result<(), TestCaseError> {
        let pages = STARTS.iter().flat_map(|start| [0, 1, 511, 0x3_ffff].map(|offset| start + offset));
        for (index, id) in DEVICES.iter().enumerate() {
            let unit = usize::from(id >> 8 >= 2);
            for page in pages.clone() {
                let got = rig.access(unit, device(index), page << 12, false).ok().map(|to| to >> 12);
                let may = match self.attached.get(&index) {
                    Some(attached) => self.spaces[attached.domain].may_lead_to(page, attached.sure),
                    None => BTreeSet::from([None]),
                };
                prop_assert!(may.contains(&got), "{} page {:#x}: {:x?}, not of {:x?}", device(index), page, got, may);
            }
            let Some(Interrupt { range, possible }) = self.interrupts.get(&index) else { continue };
            let (address, data) = msi_message(range.first, 0);
            let got = match rig.units[range.unit.0].msi(*id, address, data) {
                Ok(Delivered { vector, .. }) => Some(vector),
                Err(Blocked(reason)) => {
                    prop_assert_eq!(reason, 0x22);
                    None
                }
            };
            prop_assert!(possible.contains(&got), "{}: vector {:?}, not of {:?}", device(index), got, possible);
            let stranger = rig.units[range.unit.0].msi(id ^ 1, address, data);
            prop_assert!(stranger.is_err(), "another device's interrupt: {:?}", stranger);
        }
        Ok(())
    }
}

/// Whether the step took place, wholly or as far as hardware let it: a `logical` one must, unless
/// hardware failed for good.
fn outcome(result: &Result<(), Error>, logical: bool, fatal: bool) -> Result<bool, TestCaseError> {
    match result {
        Err(error) if is_hardware(error) => {
            prop_assert!(fatal && logical, "{}", error);
            Ok(true)
        }
        other => {
            prop_assert_eq!(other.is_ok(), logical, "{:?}", other);
            Ok(logical)
        }
    }
}

fn run(steps: &[(Action, (usize, Trouble))], units: [(u64, u64); 2]) -> Result<(), TestCaseError> {
    let mut rig = Rig::with(&units.map(|(cap, ecap)| (cap, ecap | 4)));
    for (unit, source) in rig.units.iter().zip(WITH_TLB) {
        unit.give_tlb(source);
    }
    TOKENS.iter().for_each(|token| rig.create(*token));
    let mut oracle = Oracle::default();
    for (action, (unit, trouble)) in steps {
        rig.units[*unit].fail(trouble.failures());
        oracle.step(&mut rig, *action, trouble.is_fatal())?;
        rig.units[*unit].fail(Failures::default());
        rig.units[*unit].write_tail_again();
        oracle.check(&rig)?;
    }
    // Whatever happened, everything can be taken down, and nothing is left.
    for index in 0..DEVICES.len() {
        let attached = oracle.attached.contains_key(&index);
        prop_assert_eq!(rig.detach(device(index)).is_ok(), attached);
    }
    oracle.attached.clear();
    for space in &mut oracle.spaces {
        (space.stale, space.leftover) = (false, Vec::new());
    }
    oracle.check(&rig)?;
    TOKENS.iter().try_for_each(|token| {
        rig.iommu.destroy_domain(platform!(rig), *token).map_err(|error| TestCaseError::fail(alloc::format!("{error}")))
    })?;
    rig.assert_clean();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn as_qemu(steps in prop::collection::vec((action(), trouble()), 1..32)) {
        run(&steps, [(SHAPE.cap, SHAPE.ecap); 2])?;
    }

    #[test]
    fn caching_mode_beside_a_coherent_unit(steps in prop::collection::vec((action(), trouble()), 1..32)) {
        let caching = SHAPE.change(|cap| cap.with_caching_mode(true));
        run(&steps, [(caching, SHAPE.ecap), (SHAPE.cap, SHAPE.coherent())])?;
    }

    #[test]
    fn write_buffer_and_no_page_selection(steps in prop::collection::vec((action(), trouble()), 1..32)) {
        let buffered = SHAPE.change(|cap| cap.with_write_buffer(true));
        let narrow = SHAPE.change(|cap| cap.with_page_selective(false).with_large_pages(1));
        run(&steps, [(buffered, SHAPE.ecap), (narrow, SHAPE.ecap)])?;
    }
}
