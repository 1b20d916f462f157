//! Atomicity, proved by replaying every store: after each one, each probed address
//! leads where it led before or where it will lead after, and never back.

use super::for_every_format;
use super::memory::{Event, Memory};
use super::walker::{Hardware, walk};
use crate::addr::HostPhys;
use crate::paging::{Caching, Flush, Holes, LeafSizes, PageTable, PagingError, Permissions};
use std::collections::BTreeMap;
use std::vec;
use std::vec::Vec;

const K: u64 = 4 << 10;
const M: u64 = 2 << 20;
const G: u64 = 1 << 30;

/// Runs `change` and replays its stores, once for a walker that snoops and once
/// for one that sees only what was written back.
fn observe<F: Hardware>(
    mem: &mut Memory,
    tree: &mut PageTable,
    probes: &[u64],
    change: impl FnOnce(&mut PageTable, &mut Memory) -> Result<Flush, PagingError>,
) {
    let (root, levels) = (tree.root().0, tree.levels());
    let mut replay = mem.written_back();
    let look = |frames: &BTreeMap<u64, Vec<u64>>, at: u64| walk::<F>(frames, root, levels, at);
    let before: Vec<_> = probes.iter().map(|&at| look(&replay.visible, at)).collect();
    mem.events.clear();
    let flush = change(tree, mem).expect("the change");
    let after: Vec<_> = probes.iter().map(|&at| look(&mem.frames, at)).collect();

    let mut arrived = vec![[false; 2]; probes.len()];
    let mut stores = 0;
    for &event in &mem.events {
        assert!(!matches!(event, Event::Free(_)), "a table was freed before the flush completed");
        replay.step(event);
        stores += usize::from(matches!(event, Event::Write(..)));
        for (index, &at) in probes.iter().enumerate() {
            for (view, frames) in [&replay.coherent, &replay.visible].into_iter().enumerate() {
                let now = look(frames, at);
                assert!(
                    now == after[index] || (now == before[index] && !arrived[index][view]),
                    "{}: {at:#x} leads to {now:?} after store {stores}; before {:?}, after {:?}",
                    F::FORMAT.name,
                    before[index],
                    after[index]
                );
                arrived[index][view] |= now == after[index];
            }
        }
    }
    assert!(stores > 0, "nothing happened");
    // Everything written back at the end, entry for entry.
    assert_eq!(replay.visible, mem.frames);
    // A present entry changed exactly if a probe says so.
    let changed = before.iter().zip(&after).any(|(before, after)| before.is_some() && before != after);
    assert_eq!(flush.must_invalidate(), changed);
    // What was unlinked still stands, with all that a walker inside might fetch.
    let unlinked = flush.unlinked().len();
    let frames = mem.frames.len();
    flush.complete(mem);
    assert_eq!(mem.frames.len(), frames - unlinked);
    for (index, &at) in probes.iter().enumerate() {
        assert_eq!(look(&mem.frames, at), after[index]);
    }
}

fn tree<F: Hardware>(levels: u8, leafs: LeafSizes) -> (Memory, PageTable) {
    let mut mem = Memory::default();
    let tree = PageTable::new(&mut mem, F::FORMAT, levels, leafs).unwrap();
    (mem, tree)
}

fn probes() -> Vec<u64> {
    let mut probes = vec![];
    for base in [0, M, 2 * M, G - M, G, G + M, 2 * G, 2 * G + 3 * M, 3 * G, 4 * G] {
        for offset in [0, 8, K - 8, K, 5 * K, 6 * K, 7 * K, M - K] {
            probes.push(base + offset);
        }
    }
    probes
}

/// Fewer, where many stores are replayed.
const FEW: [u64; 14] =
    [0, K - 8, 5 * K, 6 * K, 7 * K, M - K, M, 3 * M - K, 3 * M, 4 * M, 5 * M - K, 5 * M, G + M, G + M + K];

fn map_builds_before_it_links<F: Hardware>() {
    for &levels in F::TEST_LEVELS {
        for leafs in [LeafSizes::ONLY_4K, LeafSizes::UP_TO_2M, LeafSizes::UP_TO_1G] {
            let (mut mem, mut tree) = tree::<F>(levels, leafs);
            observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| {
                tree.map(mem, G - 2 * M - K, HostPhys(G - K), 3 * M, Permissions::READ_WRITE, Caching::WriteBack)
            });
            // Beside what is there, in tables that are live.
            observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| {
                tree.map(mem, 0, HostPhys(8 * G), 7 * K, Permissions::ALL, Caching::WriteBack)
            });
            observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| {
                tree.map(mem, G + M - K, HostPhys(9 * G), 5 * M, Permissions::READ, Caching::WriteBack)
            });
        }
    }
}

fn a_split_is_one_store<F: Hardware>() {
    for &levels in F::TEST_LEVELS {
        for later in [LeafSizes::UP_TO_1G, LeafSizes::UP_TO_2M] {
            let (mut mem, mut first) = tree::<F>(levels, LeafSizes::UP_TO_1G);
            let flush = first.map(&mut mem, 0, HostPhys(4 * G), 3 * G, Permissions::ALL, Caching::WriteBack).unwrap();
            assert!(!flush.must_invalidate());
            flush.complete(&mut mem);
            // Split with the sizes there were, and with fewer (a tree adopted by a narrower unit).
            let mut tree = PageTable::adopt(F::FORMAT, first.root(), levels, later).unwrap();
            observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| {
                tree.protect(mem, 5 * K, K, Permissions::READ, Holes::Refuse)
            });
            observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| {
                tree.unmap(mem, G + M + 5 * K, 2 * K, Holes::Refuse)
            });
            // From the middle of one leaf to the middle of another.
            observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| {
                tree.unmap(mem, 2 * G - M, 2 * M + 7 * K, Holes::Refuse)
            });
            observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| {
                tree.protect(mem, 0, G + M, Permissions::READ, Holes::Refuse)
            });
        }
    }
}

/// Other memory under the same addresses: each leads to the old or to the new, never to nothing.
fn replace_never_unmaps<F: Hardware>() {
    for &levels in F::TEST_LEVELS {
        for (first, later) in [(LeafSizes::UP_TO_1G, LeafSizes::UP_TO_1G), (LeafSizes::ONLY_4K, LeafSizes::UP_TO_2M)] {
            let (mut mem, mut old) = tree::<F>(levels, first);
            let bytes = if first.one_gib { 3 * G } else { 8 * M };
            let flush = old.map(&mut mem, 0, HostPhys(4 * G), bytes, Permissions::ALL, Caching::WriteBack).unwrap();
            flush.complete(&mut mem);
            let mut tree = PageTable::adopt(F::FORMAT, old.root(), levels, later).unwrap();
            let mut replace = |at, to, bytes, permissions| {
                observe::<F>(&mut mem, &mut tree, &FEW, |tree, mem| {
                    tree.replace(mem, at, HostPhys(to), bytes, permissions, Caching::WriteBack)
                });
            };
            // Within one leaf, over a border of two, with targets that fit large leaves and with some that don't.
            replace(5 * K, 64 * G, 2 * K, Permissions::READ_WRITE);
            replace(M - K, 65 * G, 2 * M + K, Permissions::READ);
            replace(4 * M, 66 * G + 3 * K, M, Permissions::ALL);
            replace(0, 68 * G, bytes, Permissions::READ_WRITE);
            let hole = tree.replace(&mut mem, bytes - K, HostPhys(0), 2 * K, Permissions::ALL, Caching::WriteBack);
            assert_eq!(hole.unwrap_err(), PagingError::NotMapped { at: bytes });
        }
    }
}

/// Splitting changes no address, at no moment.
fn split_changes_nothing<F: Hardware>() {
    for &levels in F::TEST_LEVELS {
        let (mut mem, mut tree) = tree::<F>(levels, LeafSizes::UP_TO_1G);
        tree.map(&mut mem, 0, HostPhys(4 * G), 3 * G, Permissions::READ_WRITE, Caching::WriteBack)
            .unwrap()
            .complete(&mut mem);
        let leaves = |tree: &PageTable, mem: &Memory, at| tree.translate(mem, at).unwrap().leaf_bytes;
        for (at, bytes, sizes, counts) in [
            (G + M, K, LeafSizes::UP_TO_2M, [G, M, M]),
            (G + M, M, LeafSizes::UP_TO_2M, [G, M, M]),
            (G + M, K, LeafSizes::ONLY_4K, [G, M, K]),
            (0, K, LeafSizes::ONLY_4K, [K, M, K]),
        ] {
            steady::<F>(&mut mem, &mut tree, |tree, mem| tree.split(mem, at, bytes, sizes));
            assert_eq!([0, G, G + M].map(|at| leaves(&tree, &mem, at)), counts);
        }
    }
}

/// Runs a change that changes no address, and proves that of every prefix of its stores.
fn steady<F: Hardware>(
    mem: &mut Memory,
    tree: &mut PageTable,
    change: impl FnOnce(&mut PageTable, &mut Memory) -> Result<Flush, PagingError>,
) {
    let (root, levels, mut replay) = (tree.root().0, tree.levels(), mem.written_back());
    let before = FEW.map(|at| walk::<F>(&replay.coherent, root, levels, at));
    mem.events.clear();
    let flush = change(tree, mem).unwrap();
    for &event in &mem.events {
        replay.step(event);
        assert_eq!(FEW.map(|at| walk::<F>(&replay.coherent, root, levels, at)), before);
        assert_eq!(FEW.map(|at| walk::<F>(&replay.visible, root, levels, at)), before);
    }
    assert_eq!(replay.visible, mem.frames);
    assert_eq!(flush.must_invalidate(), mem.events.iter().any(|event| matches!(event, Event::Write(..))));
    flush.complete(mem);
    assert_eq!(tree.tables(mem), mem.frames.len() as u64);
}

/// Merging changes no address, at no moment, and merges exactly what is in a row.
fn merge_changes_nothing<F: Hardware>() {
    for &levels in F::TEST_LEVELS {
        let (mut mem, mut small) = tree::<F>(levels, LeafSizes::ONLY_4K);
        let rw = Permissions::READ_WRITE;
        let mut map = |at, to, bytes| {
            small.map(&mut mem, at, HostPhys(to), bytes, rw, Caching::WriteBack).unwrap().complete(&mut mem);
        };
        map(0, 4 * G, 3 * M);
        map(3 * M, 9 * G + K, M); // not aligned
        map(4 * M, 9 * G, M - K); // one is missing
        map(5 * M, 10 * G, M);
        let flush = small.protect(&mut mem, 5 * M + K, K, Permissions::READ, Holes::Refuse).unwrap();
        flush.complete(&mut mem);
        let mut tree = PageTable::adopt(F::FORMAT, small.root(), levels, LeafSizes::UP_TO_1G).unwrap();
        let leaves = |tree: &PageTable, mem: &Memory| {
            [0, M, 2 * M, 3 * M, 4 * M, 5 * M].map(|at| tree.translate(mem, at).unwrap().leaf_bytes)
        };
        // Tables that lie in the range as a whole.
        steady::<F>(&mut mem, &mut tree, |tree, mem| tree.merge(mem, K, 2 * M));
        assert_eq!(leaves(&tree, &mem), [K, M, K, K, K, K]);
        steady::<F>(&mut mem, &mut tree, |tree, mem| tree.merge(mem, 0, 2 * G));
        assert_eq!(leaves(&tree, &mem), [M, M, M, K, K, K]);
        steady::<F>(&mut mem, &mut tree, |tree, mem| tree.split(mem, M, K, LeafSizes::ONLY_4K));
        assert_eq!(leaves(&tree, &mem), [M, K, M, K, K, K]);
    }
    // Up to 1 GiB.
    let (mut mem, mut small) = tree::<F>(4, LeafSizes::UP_TO_2M);
    let rw = Permissions::READ_WRITE;
    small.map(&mut mem, G, HostPhys(4 * G), G, rw, Caching::WriteBack).unwrap().complete(&mut mem);
    let mut tree = PageTable::adopt(F::FORMAT, small.root(), 4, LeafSizes::UP_TO_1G).unwrap();
    steady::<F>(&mut mem, &mut tree, |tree, mem| tree.merge(mem, 0, 4 * G));
    assert_eq!(tree.translate(&mem, G).unwrap().leaf_bytes, G);
}

fn unmap_leaves_tables_to_walkers<F: Hardware>() {
    for &levels in F::TEST_LEVELS {
        let (mut mem, mut tree) = tree::<F>(levels, LeafSizes::ONLY_4K);
        let map = |tree: &mut PageTable, mem: &mut Memory, at, bytes| {
            tree.map(mem, at, HostPhys(16 * G + at), bytes, Permissions::READ_WRITE, Caching::WriteBack)
        };
        observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| map(tree, mem, 0, 4 * M));
        observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| map(tree, mem, 2 * G, 4 * M));
        // Whole subtrees and edges at once, over a hole.
        observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| {
            tree.unmap(mem, M + 6 * K, 2 * G + M, Holes::Tolerate)
        });
        // The rest of a table, entry by entry: the empty table goes too.
        observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| tree.unmap(mem, M, 6 * K, Holes::Refuse));
        observe::<F>(&mut mem, &mut tree, &probes(), |tree, mem| tree.unmap(mem, 0, 5 * G, Holes::Tolerate));
        assert_eq!(tree.tables(&mem), 1);
        assert_eq!(mem.frames.len(), 1);
    }
}

fn unlinked_tables_keep_their_entries<F: Hardware>() {
    let (mut mem, mut tree) = tree::<F>(4, LeafSizes::ONLY_4K);
    let flush = tree.map(&mut mem, G, HostPhys(G), 2 * M, Permissions::READ, Caching::WriteBack).unwrap();
    assert!(flush.unlinked().is_empty());
    flush.complete(&mut mem);
    let before = mem.frames.clone();
    let flush = tree.unmap(&mut mem, G, 2 * M, Holes::Refuse).unwrap();
    assert!(flush.must_invalidate());
    assert!(!flush.only_leaves());
    // Two level-1 tables, whole; their parents were emptied by it.
    let whole: Vec<_> = flush.unlinked().iter().filter(|frame| before[&frame.0] == mem.frames[&frame.0]).collect();
    assert!(whole.len() >= 2, "a walker in an unlinked table would fetch other entries");
    assert_eq!(flush.unlinked().len(), 4);
    assert_eq!(flush.range(), G..G + 2 * M);
    flush.complete(&mut mem);
    assert_eq!(mem.frames.len(), 1);
}

fn protect_alone_touches_only_leaves<F: Hardware>() {
    let (mut mem, mut tree) = tree::<F>(4, LeafSizes::UP_TO_2M);
    tree.map(&mut mem, 0, HostPhys(0), 4 * M, Permissions::READ_WRITE, Caching::WriteBack).unwrap().complete(&mut mem);
    let flush = tree.protect(&mut mem, M, M, Permissions::READ, Holes::Refuse).unwrap();
    assert!(flush.must_invalidate() && flush.only_leaves());
    flush.complete(&mut mem);
    // The same once more changes nothing, so nothing is owed.
    mem.events.clear();
    let flush = tree.protect(&mut mem, M, M, Permissions::READ, Holes::Refuse).unwrap();
    assert!(!flush.must_invalidate());
    assert!(mem.events.is_empty());
    flush.complete(&mut mem);
}

for_every_format!(
    map_builds_before_it_links,
    a_split_is_one_store,
    replace_never_unmaps,
    split_changes_nothing,
    merge_changes_nothing,
    unmap_leaves_tables_to_walkers,
    unlinked_tables_keep_their_entries,
    protect_alone_touches_only_leaves,
);
