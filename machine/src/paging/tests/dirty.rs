//! Dirty bits against hardware that sets them at any time, and a set of pages that knows nothing of tables.

use super::memory::Memory;
use super::walker::{Ept, FirstStage, Hardware, Host, Npt, SecondStage};
use crate::access::TableMemory;
use crate::addr::HostPhys;
use crate::paging::{Caching, Holes, LeafSizes, PageTable, Permissions};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

const K: u64 = 4 << 10;
const M: u64 = 2 << 20;
const G: u64 = 1 << 30;
/// The memory under test.
const END: u64 = 4 * M;

fn tree<F: Hardware>(leafs: LeafSizes) -> (Memory, PageTable) {
    let mut mem = Memory::default();
    let mut tree = PageTable::new(&mut mem, F::FORMAT, 4, leafs).unwrap();
    let rw = Permissions::READ_WRITE;
    tree.map(&mut mem, 0, HostPhys(G), END, rw, Caching::WriteBack).unwrap().complete(&mut mem);
    (mem, tree)
}

/// Where the leaf for `at` is, found as hardware does: shape of the address, bit 7, bits 51:12.
fn leaf(mem: &Memory, tree: &PageTable, at: u64) -> HostPhys {
    let mut table = tree.root().0;
    for level in (1..=4u32).rev() {
        let entry = table + (at >> (12 + 9 * (level - 1)) & 511) * 8;
        let value = mem.read(HostPhys(entry));
        if level == 1 || (level <= 3 && value & 0x80 != 0) {
            return HostPhys(entry);
        }
        table = value & 0x000f_ffff_ffff_f000;
    }
    unreachable!()
}

/// A write by hardware, if the leaf allows it.
fn write<F: Hardware>(mem: &mut Memory, tree: &PageTable, at: u64) -> bool {
    let allowed = tree.translate(mem, at).is_some_and(|found| found.permissions.write);
    if allowed {
        let entry = leaf(mem, tree, at);
        let value = mem.read(entry) | F::MARKS.0 | F::MARKS.1;
        mem.write(entry, value);
    }
    allowed
}

fn take(mem: &mut Memory, tree: &mut PageTable, at: u64, bytes: u64) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let flush = tree.take_dirty(mem, at, bytes, &mut |range| found.push((range.start, range.end))).unwrap();
    assert_eq!(flush.must_invalidate(), !found.is_empty());
    assert!(flush.only_leaves() && flush.unlinked().is_empty());
    flush.complete(mem);
    found
}

fn by_hand<F: Hardware>() {
    let (mut mem, mut tree) = tree::<F>(LeafSizes::UP_TO_2M);
    tree.split(&mut mem, M, M, LeafSizes::ONLY_4K).unwrap().complete(&mut mem);
    take(&mut mem, &mut tree, 0, END);
    for at in [8, M + K, M + 2 * K, M + 5 * K, 2 * M - K, 2 * M] {
        assert!(write::<F>(&mut mem, &tree, at));
    }
    // Within the range, though a leaf that sticks out comes whole.
    assert_eq!(take(&mut mem, &mut tree, M + 2 * K, K), [(M + 2 * K, M + 3 * K)]);
    assert_eq!(take(&mut mem, &mut tree, K, M + K), [(0, M), (M + K, M + 2 * K)]);
    assert_eq!(take(&mut mem, &mut tree, 0, END), [(M + 5 * K, M + 6 * K), (2 * M - K, 3 * M)]);
    assert_eq!(take(&mut mem, &mut tree, 0, END), []);
}

/// Hardware marks a leaf between the moment a change looks at it and the moment it writes.
fn nothing_is_lost<F: Hardware>() {
    let (mut mem, mut tree) = tree::<F>(LeafSizes::UP_TO_2M);
    take(&mut mem, &mut tree, 0, END);
    mem.late = Some((leaf(&mem, &tree, 0).0, F::MARKS.0 | F::MARKS.1));
    tree.split(&mut mem, K, K, LeafSizes::ONLY_4K).unwrap().complete(&mut mem);
    assert_eq!(take(&mut mem, &mut tree, 0, END), [(0, M)]);
    mem.late = Some((leaf(&mem, &tree, K).0, F::MARKS.0 | F::MARKS.1));
    tree.protect(&mut mem, K, K, Permissions::READ, Holes::Refuse).unwrap().complete(&mut mem);
    assert_eq!(take(&mut mem, &mut tree, 0, END), [(K, 2 * K)]);
    // A merged leaf is as dirty as any of those it is made of.
    tree.protect(&mut mem, K, K, Permissions::READ_WRITE, Holes::Refuse).unwrap().complete(&mut mem);
    take(&mut mem, &mut tree, 0, END);
    assert!(write::<F>(&mut mem, &tree, 7 * K));
    tree.merge(&mut mem, 0, END).unwrap().complete(&mut mem);
    assert_eq!(take(&mut mem, &mut tree, 0, END), [(0, M)]);
    // Replaced memory is new memory: nothing of the old mark is left where none is set from the start.
    let rw = Permissions::READ_WRITE;
    assert!(write::<F>(&mut mem, &tree, 0));
    tree.replace(&mut mem, 0, HostPhys(2 * G), M, rw, Caching::WriteBack).unwrap().complete(&mut mem);
    let preset = F::FORMAT.leaf(1, HostPhys(0), rw, Caching::WriteBack) & F::MARKS.1 != 0;
    assert_eq!(!take(&mut mem, &mut tree, 0, END).is_empty(), preset);
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64),
    Take(u64, u64),
    Split(u64, u64),
    Merge(u64, u64),
    Protect(u64, u64, bool),
}

fn op() -> impl Strategy<Value = Op> {
    let pages = END / K;
    let range = (0..pages, prop_oneof![1..8u64, Just(512), Just(pages)])
        .prop_map(move |(first, count)| (first * K, count.min(pages - first) * K));
    prop_oneof![
        8 => (0..END).prop_map(|at| Op::Write(at & !7)),
        2 => range.clone().prop_map(|(at, bytes)| Op::Take(at, bytes)),
        1 => range.clone().prop_map(|(at, bytes)| Op::Split(at, bytes)),
        1 => range.clone().prop_map(|(at, bytes)| Op::Merge(at, bytes)),
        1 => (range, prop::bool::ANY).prop_map(|((at, bytes), write)| Op::Protect(at, bytes, write)),
    ]
}

/// Whatever was written to since it was last reported is reported; and without changes of permissions
/// nothing is that was not, leaf by leaf.
fn check<F: Hardware>(ops: &[Op], permissions: bool) -> Result<(), TestCaseError> {
    let (mut mem, mut tree) = tree::<F>(LeafSizes::UP_TO_2M);
    take(&mut mem, &mut tree, 0, END);
    let mut dirty = BTreeSet::new();
    for op in ops {
        match *op {
            Op::Write(at) => {
                if write::<F>(&mut mem, &tree, at) {
                    dirty.insert(at / K);
                }
            }
            Op::Take(at, bytes) => {
                for (start, end) in take(&mut mem, &mut tree, at, bytes) {
                    let mut page = start;
                    while page < end {
                        let size = tree.translate(&mem, page).unwrap().leaf_bytes;
                        let pages = page / K..(page + size) / K;
                        let known = dirty.range(pages.clone()).next().is_some();
                        prop_assert!(permissions || known, "{:#x} was not written to", page);
                        dirty.retain(|page| !pages.contains(page));
                        page += size;
                    }
                }
                let lost = dirty.range(at / K..(at + bytes) / K).next();
                prop_assert_eq!(lost, None, "written to and not reported");
            }
            // Splitting and merging carry marks along: the oracle's pages become all those of the leaf.
            Op::Split(at, bytes) => {
                let first = at & !(M - 1);
                for base in (first..at + bytes).step_by(M as usize) {
                    let whole = tree.translate(&mem, base).unwrap().leaf_bytes == M;
                    if whole && dirty.range(base / K..(base + M) / K).next().is_some() {
                        dirty.extend(base / K..(base + M) / K);
                    }
                }
                tree.split(&mut mem, at, bytes, LeafSizes::ONLY_4K).unwrap().complete(&mut mem);
            }
            Op::Merge(at, bytes) => tree.merge(&mut mem, at, bytes).unwrap().complete(&mut mem),
            Op::Protect(at, bytes, write) if permissions => {
                let to = if write { Permissions::READ_WRITE } else { Permissions::READ };
                tree.protect(&mut mem, at, bytes, to, Holes::Refuse).unwrap().complete(&mut mem);
            }
            Op::Protect(..) => {}
        }
    }
    Ok(())
}

mod hand {
    use super::*;
    #[test]
    fn host() {
        by_hand::<Host>();
    }
    #[test]
    fn npt() {
        by_hand::<Npt>();
    }
    #[test]
    fn ept() {
        by_hand::<Ept>();
        nothing_is_lost::<Ept>();
    }
    #[test]
    fn second_stage() {
        by_hand::<SecondStage>();
        nothing_is_lost::<SecondStage>();
    }
    #[test]
    fn first_stage() {
        by_hand::<FirstStage>();
        nothing_is_lost::<FirstStage>();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn second_stage(ops in prop::collection::vec(op(), 1..40), permissions in prop::bool::ANY) {
        check::<SecondStage>(&ops, permissions)?;
    }

    #[test]
    fn first_stage(ops in prop::collection::vec(op(), 1..40), permissions in prop::bool::ANY) {
        check::<FirstStage>(&ops, permissions)?;
    }
}
