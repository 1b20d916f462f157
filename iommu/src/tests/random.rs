//! Random histories against the simplest possible account of what DMA may reach.

use super::SHAPE;
use crate::tests::rig::{GUEST, MANAGEMENT, Rig, config, platform, routes};
use crate::{Bdf, Iommu, Platform, Token};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use proptest::prelude::*;

const TOKENS: [Token; 2] = [GUEST, MANAGEMENT];
const DEVICES: [Bdf; 3] =
    [Bdf::from_requester_id(0, 0x0010), Bdf::from_requester_id(0, 0x0100), Bdf::from_requester_id(0, 0x0101)];
/// In the first table of a directory, and in another.
const PASIDS: [u32; 2] = [1, 0x7fff];
/// Where ranges start, in pages: around boundaries of large leaves.
const STARTS: [u64; 6] = [0, 1, 510, 512, 0x3_fffe, 0x4_0000];
/// How long they are, in pages.
const LENGTHS: [u64; 6] = [1, 2, 3, 512, 1024, 0x4_0000];

#[derive(Clone, Debug)]
enum Step {
    Map { domain: usize, start: usize, length: usize, to: u64 },
    Unmap { domain: usize, start: usize, length: usize },
    Attach { device: usize, domain: usize },
    Detach { device: usize },
    AttachPasid { device: usize, pasid: usize, domain: usize },
    DetachPasid { device: usize, pasid: usize },
    Upgrade,
}

fn step() -> impl Strategy<Value = Step> {
    let (domain, start, length) = (0..2usize, 0..6usize, 0..6usize);
    prop_oneof![
        3 => (domain.clone(), start.clone(), length.clone(), 0u64..1 << 20)
            .prop_map(|(domain, start, length, to)| Step::Map { domain, start, length, to: to << 9 }),
        2 => (domain.clone(), start, length)
            .prop_map(|(domain, start, length)| Step::Unmap { domain, start, length }),
        2 => (0..3usize, domain.clone()).prop_map(|(device, domain)| Step::Attach { device, domain }),
        1 => (0..3usize).prop_map(|device| Step::Detach { device }),
        2 => (0..3usize, 0..2usize, domain)
            .prop_map(|(device, pasid, domain)| Step::AttachPasid { device, pasid, domain }),
        1 => (0..3usize, 0..2usize).prop_map(|(device, pasid)| Step::DetachPasid { device, pasid }),
        1 => Just(Step::Upgrade),
    ]
}

/// Ranges mapped, by first page: length and target page. Never overlapping.
type Mapped = BTreeMap<u64, (u64, u64)>;

fn target(mapped: &Mapped, page: u64) -> Option<u64> {
    let (first, (length, to)) = mapped.range(..=page).next_back()?;
    (page - first < *length).then(|| to + (page - first))
}

/// Takes `pages` from `first` away; `false`, and nothing, unless all of it is mapped.
fn take(mapped: &mut Mapped, first: u64, pages: u64) -> bool {
    let end = first + pages;
    let touched: Vec<(u64, (u64, u64))> = mapped
        .range(..end)
        .filter(|(start, (length, _))| *start + length > first)
        .map(|(start, range)| (*start, *range))
        .collect();
    let covered: u64 = touched.iter().map(|(start, (length, _))| (start + length).min(end) - (*start).max(first)).sum();
    if covered != pages {
        return false;
    }
    for (start, (length, to)) in touched {
        mapped.remove(&start);
        if start < first {
            mapped.insert(start, (first - start, to));
        }
        if start + length > end {
            mapped.insert(end, (start + length - end, to + (end - start)));
        }
    }
    true
}

/// What was done, as simply as it can be said.
#[derive(Default)]
struct Account {
    domains: [Mapped; 2],
    /// The domain of each attached device.
    attached: BTreeMap<usize, usize>,
    /// The domain of each attached PASID, by device and place in the list.
    pasids: BTreeMap<(usize, usize), usize>,
}

impl Account {
    fn expected(&self, domain: Option<&usize>, page: u64) -> Option<u64> {
        target(&self.domains[*domain?], page).map(|page| page << 12)
    }

    fn has_pasids(&self, device: usize) -> bool {
        self.pasids.keys().any(|(owner, _)| *owner == device)
    }
}

fn check(rig: &Rig, account: &Account) -> Result<(), TestCaseError> {
    let pages = || STARTS.into_iter().flat_map(|start| [start, start + 1, start + 511, start + 0x3_ffff]);
    for (index, device) in DEVICES.iter().enumerate() {
        for page in pages() {
            let expected = account.expected(account.attached.get(&index), page);
            prop_assert_eq!(rig.read(*device, page << 12).ok(), expected, "{} page {:#x}", device, page);
            for (place, pasid) in PASIDS.iter().enumerate() {
                let expected = account.expected(account.pasids.get(&(index, place)), page);
                let got = rig.read_with_pasid(*device, *pasid, page << 12).ok();
                prop_assert_eq!(got, expected, "{} PASID {:#x} page {:#x}", device, pasid, page);
            }
        }
    }
    Ok(())
}

/// The next image takes over, and writes nothing while it does.
fn upgrade(rig: &mut Rig) -> Result<(), TestCaseError> {
    rig.iommu.drain(platform!(rig)).unwrap();
    let mut snapshot = rig.iommu.snapshot().unwrap();
    let before = (rig.mem.writes(), rig.units[0].writes());
    let mem = rig.mem.clone();
    let regs = [(config(0).base, rig.units[0].clone())].to_vec();
    rig.iommu = Iommu::adopt(&mut snapshot, regs, routes(1), &rig.mem, &|frame| mem.holds(frame)).unwrap();
    prop_assert_eq!((rig.mem.writes(), rig.units[0].writes()), before);
    Ok(())
}

fn run(steps: &[Step], cap: u64, ecap: u64) -> Result<(), TestCaseError> {
    let knows_pasids = SHAPE.is_scalable();
    // ECAP.PASID with 16 bits.
    let mut rig = Rig::with(&[(cap, if knows_pasids { ecap | 1 << 40 | 15 << 35 } else { ecap })]);
    TOKENS.iter().for_each(|token| rig.create(*token));
    let mut account = Account::default();
    for step in steps {
        match *step {
            Step::Map { domain, start, length, to } => {
                let (first, pages) = (STARTS[start], LENGTHS[length]);
                let free = !account.domains[domain].iter().any(|(at, (n, _))| *at < first + pages && first < at + n);
                let result = rig.map(TOKENS[domain], first << 12, to << 12, pages << 12);
                prop_assert_eq!(result.is_ok(), free, "{:?}", result);
                if free {
                    account.domains[domain].insert(first, (pages, to));
                }
            }
            Step::Unmap { domain, start, length } => {
                let (first, pages) = (STARTS[start], LENGTHS[length]);
                let mapped = take(&mut account.domains[domain], first, pages);
                let result = rig.unmap(TOKENS[domain], first << 12, pages << 12);
                prop_assert_eq!(result.is_ok(), mapped, "{:?}", result);
            }
            Step::Attach { device, domain } => {
                let free = !account.attached.contains_key(&device);
                prop_assert_eq!(rig.attach(DEVICES[device], TOKENS[domain]).is_ok(), free);
                account.attached.entry(device).or_insert(domain);
            }
            Step::Detach { device } => {
                let may = account.attached.contains_key(&device) && !account.has_pasids(device);
                prop_assert_eq!(rig.detach(DEVICES[device]).is_ok(), may);
                if may {
                    account.attached.remove(&device);
                }
            }
            Step::AttachPasid { device, pasid, domain } => {
                let free = !account.pasids.contains_key(&(device, pasid));
                let may = knows_pasids && free && account.attached.contains_key(&device);
                let result = rig.attach_pasid(DEVICES[device], PASIDS[pasid], TOKENS[domain]);
                prop_assert_eq!(result.is_ok(), may, "{:?}", result);
                if may {
                    account.pasids.insert((device, pasid), domain);
                }
            }
            Step::DetachPasid { device, pasid } => {
                let was = account.pasids.remove(&(device, pasid)).is_some();
                prop_assert_eq!(rig.detach_pasid(DEVICES[device], PASIDS[pasid]).is_ok(), was);
            }
            Step::Upgrade => upgrade(&mut rig)?,
        }
        check(&rig, &account)?;
    }
    rig.assert_clean();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn as_qemu(steps in prop::collection::vec(step(), 1..28)) {
        run(&steps, SHAPE.cap, SHAPE.ecap)?;
    }

    #[test]
    fn with_caching_mode(steps in prop::collection::vec(step(), 1..24)) {
        run(&steps, SHAPE.change(|cap| cap.with_caching_mode(true)), SHAPE.coherent())?;
    }

    /// Nothing reaches the unit that was not flushed from the write buffer.
    #[test]
    fn behind_a_write_buffer(steps in prop::collection::vec(step(), 1..24)) {
        run(&steps, SHAPE.change(|cap| cap.with_write_buffer(true)), SHAPE.ecap)?;
        run(&steps, SHAPE.change(|cap| cap.with_write_buffer(true).with_caching_mode(true)), SHAPE.coherent())?;
    }

    #[test]
    fn without_page_selection_or_large_pages(steps in prop::collection::vec(step(), 1..12)) {
        run(&steps, SHAPE.change(|cap| cap.with_page_selective(false).with_large_pages(1)), SHAPE.ecap)?;
    }
}
