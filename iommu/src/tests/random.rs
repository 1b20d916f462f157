//! Random histories against the simplest possible account of what DMA may reach.

use super::SHAPE;
use crate::tests::rig::{GUEST, MANAGEMENT, Rig};
use crate::{Bdf, Token};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use proptest::prelude::*;

const TOKENS: [Token; 2] = [GUEST, MANAGEMENT];
const DEVICES: [Bdf; 3] =
    [Bdf::from_requester_id(0, 0x0010), Bdf::from_requester_id(0, 0x0100), Bdf::from_requester_id(0, 0x0101)];
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
}

fn step() -> impl Strategy<Value = Step> {
    let (domain, start, length) = (0..2usize, 0..6usize, 0..6usize);
    prop_oneof![
        3 => (domain.clone(), start.clone(), length.clone(), 0u64..1 << 20)
            .prop_map(|(domain, start, length, to)| Step::Map { domain, start, length, to: to << 9 }),
        2 => (domain.clone(), start, length)
            .prop_map(|(domain, start, length)| Step::Unmap { domain, start, length }),
        2 => (0..3usize, domain).prop_map(|(device, domain)| Step::Attach { device, domain }),
        1 => (0..3usize).prop_map(|device| Step::Detach { device }),
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

fn check(rig: &Rig, domains: &[Mapped; 2], attached: &BTreeMap<usize, usize>) -> Result<(), TestCaseError> {
    for (index, device) in DEVICES.iter().enumerate() {
        for start in STARTS {
            for page in [start, start + 1, start + 511, start + 0x3_ffff] {
                let expected = attached.get(&index).and_then(|domain| target(&domains[*domain], page));
                let got = rig.read(*device, page << 12).ok();
                prop_assert_eq!(got, expected.map(|page| page << 12), "{} page {:#x}", device, page);
            }
        }
    }
    Ok(())
}

fn run(steps: &[Step], cap: u64, ecap: u64) -> Result<(), TestCaseError> {
    let mut rig = Rig::with(&[(cap, ecap)]);
    TOKENS.iter().for_each(|token| rig.create(*token));
    let mut domains = [Mapped::new(), Mapped::new()];
    let mut attached = BTreeMap::new();
    for step in steps {
        match *step {
            Step::Map { domain, start, length, to } => {
                let (first, pages) = (STARTS[start], LENGTHS[length]);
                let free = !domains[domain].iter().any(|(at, (n, _))| *at < first + pages && first < at + n);
                let result = rig.map(TOKENS[domain], first << 12, to << 12, pages << 12);
                prop_assert_eq!(result.is_ok(), free, "{:?}", result);
                if free {
                    domains[domain].insert(first, (pages, to));
                }
            }
            Step::Unmap { domain, start, length } => {
                let (first, pages) = (STARTS[start], LENGTHS[length]);
                let mapped = take(&mut domains[domain], first, pages);
                let result = rig.unmap(TOKENS[domain], first << 12, pages << 12);
                prop_assert_eq!(result.is_ok(), mapped, "{:?}", result);
            }
            Step::Attach { device, domain } => {
                let free = !attached.contains_key(&device);
                prop_assert_eq!(rig.attach(DEVICES[device], TOKENS[domain]).is_ok(), free);
                if free {
                    attached.insert(device, domain);
                }
            }
            Step::Detach { device } => {
                let was = attached.remove(&device).is_some();
                prop_assert_eq!(rig.detach(DEVICES[device]).is_ok(), was);
            }
        }
        check(&rig, &domains, &attached)?;
    }
    rig.assert_clean();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn as_qemu(steps in prop::collection::vec(step(), 1..24)) {
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
