//! Random changes against a map of intervals that knows nothing of tables.

use super::memory::Memory;
use super::walker::{Ept, FirstStage, Hardware, Host, Npt, SecondStage, walk};
use crate::addr::HostPhys;
use crate::paging::{Caching, Holes, LeafSizes, PageTable, PagingError, Permissions};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

const UNITS: [u64; 3] = [4 << 10, 2 << 20, 1 << 30];

/// Start to (end, target, permissions).
#[derive(Default)]
struct Oracle(BTreeMap<u64, (u64, u64, Permissions)>);

impl Oracle {
    /// Makes `at` a boundary.
    fn cut(&mut self, at: u64) {
        if let Some((&start, &(end, to, permissions))) = self.0.range(..at).next_back()
            && at < end
        {
            self.0.insert(start, (at, to, permissions));
            self.0.insert(at, (end, to + (at - start), permissions));
        }
    }

    fn get(&self, at: u64) -> Option<(u64, Permissions)> {
        let (&start, &(end, to, permissions)) = self.0.range(..=at).next_back()?;
        (at < end).then(|| (to + (at - start), permissions))
    }

    fn first_mapped(&self, start: u64, end: u64) -> Option<u64> {
        if self.get(start).is_some() {
            return Some(start);
        }
        self.0.range(start..end).next().map(|(&at, _)| at)
    }

    fn first_hole(&self, start: u64, end: u64) -> Option<u64> {
        let mut at = start;
        while at < end {
            let Some((_, &(stop, ..))) = self.0.range(..=at).next_back().filter(|(_, value)| at < value.0) else {
                return Some(at);
            };
            at = stop;
        }
        None
    }

    fn edit(&mut self, start: u64, end: u64, to: Option<Permissions>) {
        self.cut(start);
        self.cut(end);
        let keys: Vec<u64> = self.0.range(start..end).map(|(&at, _)| at).collect();
        for key in keys {
            match to {
                None => drop(self.0.remove(&key)),
                Some(permissions) => self.0.get_mut(&key).unwrap().2 = permissions,
            }
        }
    }

    /// Neighbours that continue each other, joined.
    fn joined(&self) -> Vec<(u64, u64, u64, Permissions)> {
        let mut all: Vec<(u64, u64, u64, Permissions)> = Vec::new();
        for (&at, &(end, to, permissions)) in &self.0 {
            push_joined(&mut all, (at, end, to, permissions));
        }
        all
    }
}

fn push_joined(all: &mut Vec<(u64, u64, u64, Permissions)>, next: (u64, u64, u64, Permissions)) {
    match all.last_mut() {
        Some(last) if last.1 == next.0 && last.2 + (last.1 - last.0) == next.2 && last.3 == next.3 => last.1 = next.1,
        _ => all.push(next),
    }
}

#[derive(Clone, Debug)]
struct Op {
    kind: u8,
    at: u64,
    to: u64,
    bytes: u64,
    permissions: Permissions,
    holes: Holes,
}

fn op() -> impl Strategy<Value = Op> {
    let permissions = prop_oneof![
        Just(Permissions::READ),
        Just(Permissions::READ_WRITE),
        Just(Permissions::READ_EXECUTE),
        Just(Permissions::ALL)
    ];
    let place = (0..3usize, 0..6u64, 0..3u64, prop::bool::ANY);
    (0..5u8, place, 0..3usize, 0..512u64, 1..6u64, permissions, prop::bool::ANY).prop_map(
        |(kind, (unit, major, minor, odd), to_unit, to, count, permissions, tolerate)| {
            // Around the boundaries of the unit, now and then one page beside it.
            let at = UNITS[unit] * major + UNITS[unit.saturating_sub(1)] * minor + if odd { UNITS[0] } else { 0 };
            let bytes = match unit {
                2 => UNITS[2] * count.min(2) - if odd { UNITS[0] * 3 } else { 0 },
                _ => UNITS[unit] * count,
            };
            // A huge range to an odd target is half a million leaves: once in a while is enough.
            let to_unit = if unit == 2 && to % 32 != 0 { 2 } else { to_unit };
            let holes = if tolerate { Holes::Tolerate } else { Holes::Refuse };
            Op { kind, at, to: UNITS[to_unit] * to + if odd { UNITS[0] } else { 0 }, bytes, permissions, holes }
        },
    )
}

fn check<F: Hardware>(levels: u8, leafs: LeafSizes, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut mem = Memory::default();
    let mut tree = PageTable::new(&mut mem, F::FORMAT, levels, leafs).unwrap();
    let mut oracle = Oracle::default();
    for op in ops {
        let (start, end) = (op.at, op.at + op.bytes);
        let kept = F::kept(op.permissions);
        let result = match op.kind {
            0..=2 => {
                let result = tree.map(&mut mem, op.at, HostPhys(op.to), op.bytes, op.permissions, Caching::WriteBack);
                match oracle.first_mapped(start, end) {
                    Some(at) => prop_assert_eq!(result.as_ref().unwrap_err(), &PagingError::AlreadyMapped { at }),
                    None => {
                        prop_assert!(!result.as_ref().unwrap().must_invalidate());
                        oracle.0.insert(start, (end, op.to, kept));
                    }
                }
                result
            }
            kind => {
                let (to, kept) = if kind == 3 { (None, None) } else { (Some(op.permissions), Some(kept)) };
                let result = match to {
                    None => tree.unmap(&mut mem, op.at, op.bytes, op.holes),
                    Some(to) => tree.protect(&mut mem, op.at, op.bytes, to, op.holes),
                };
                match oracle.first_hole(start, end).filter(|_| op.holes == Holes::Refuse) {
                    Some(at) => prop_assert_eq!(result.as_ref().unwrap_err(), &PagingError::NotMapped { at }),
                    None => {
                        let any = oracle.first_mapped(start, end).is_some();
                        prop_assert!(!result.as_ref().unwrap().must_invalidate() || any);
                        oracle.edit(start, end, kept);
                    }
                }
                result
            }
        };
        if let Ok(flush) = result {
            flush.complete(&mut mem);
        }
        mem.events.clear();
        let page = UNITS[0];
        for at in
            [start, start + 8, start.wrapping_sub(page), end - page, end, end + page, ((start + end) / 2) & !0xfff]
        {
            if at < tree.limit() {
                let expected = oracle.get(at);
                prop_assert_eq!(walk::<F>(&mem.frames, tree.root().0, levels, at), expected, "hardware at {:#x}", at);
                let found = tree.translate(&mem, at).map(|found| (found.to.0, found.permissions));
                prop_assert_eq!(found, expected, "translate at {:#x}", at);
            }
        }
    }
    let mut leaves = Vec::new();
    tree.for_each_leaf(&mem, |leaf| {
        push_joined(&mut leaves, (leaf.at, leaf.at + leaf.bytes, leaf.to.0, leaf.permissions));
    });
    prop_assert_eq!(leaves, oracle.joined());
    prop_assert_eq!(tree.tables(&mem), mem.frames.len() as u64, "a table leaked");
    tree.unmap(&mut mem, 0, tree.limit(), Holes::Tolerate).unwrap().complete(&mut mem);
    prop_assert_eq!(mem.frames.len(), 1);
    tree.destroy(&mut mem);
    prop_assert!(mem.frames.is_empty());
    Ok(())
}

fn leafs() -> impl Strategy<Value = LeafSizes> {
    prop_oneof![
        4 => Just(LeafSizes::UP_TO_2M),
        8 => Just(LeafSizes::UP_TO_1G),
        1 => Just(LeafSizes { two_mib: false, one_gib: true })
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn host(leafs in leafs(), levels in 4..=5u8, ops in prop::collection::vec(op(), 1..20)) {
        check::<Host>(levels, leafs, &ops)?;
    }

    #[test]
    fn npt(leafs in leafs(), levels in 4..=5u8, ops in prop::collection::vec(op(), 1..20)) {
        check::<Npt>(levels, leafs, &ops)?;
    }

    #[test]
    fn ept(leafs in leafs(), levels in 4..=5u8, ops in prop::collection::vec(op(), 1..20)) {
        check::<Ept>(levels, leafs, &ops)?;
    }

    #[test]
    fn second_stage(leafs in leafs(), levels in 3..=5u8, ops in prop::collection::vec(op(), 1..20)) {
        check::<SecondStage>(levels, leafs, &ops)?;
    }

    #[test]
    fn first_stage(leafs in leafs(), levels in 4..=5u8, ops in prop::collection::vec(op(), 1..20)) {
        check::<FirstStage>(levels, leafs, &ops)?;
    }

    #[test]
    fn small_leaves_only(ops in prop::collection::vec(op().prop_filter("4 KiB leaves by the million", |op| op.bytes <= 16 << 20), 1..16)) {
        check::<Npt>(4, LeafSizes::ONLY_4K, &ops)?;
    }
}
