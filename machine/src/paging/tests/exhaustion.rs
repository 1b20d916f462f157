//! Memory runs out at each allocation in turn: the tree stays, nothing leaks.

use super::for_every_format;
use super::memory::Memory;
use super::walker::Hardware;
use crate::addr::HostPhys;
use crate::paging::{Caching, Flush, Holes, LeafSizes, PageTable, PagingError, Permissions};

const K: u64 = 4 << 10;
const M: u64 = 2 << 20;
const G: u64 = 1 << 30;

fn starve(
    mem: &mut Memory,
    tree: &mut PageTable,
    expected_tables: usize,
    change: impl Fn(&mut PageTable, &mut Memory) -> Result<Flush, PagingError>,
) {
    let before = mem.frames.clone();
    for spare in 0..expected_tables {
        mem.limit = Some(before.len() + spare);
        assert_eq!(change(tree, mem).unwrap_err(), PagingError::OutOfMemory { tables: expected_tables });
        assert_eq!(mem.frames, before, "out of memory with {spare} frames to spare changed something");
    }
    mem.limit = Some(before.len() + expected_tables);
    let flush = change(tree, mem).expect("just enough memory");
    flush.complete(mem);
    mem.limit = None;
}

fn refused_whole<F: Hardware>() {
    let mut mem = Memory { limit: Some(0), ..Memory::default() };
    assert!(PageTable::new(&mut mem, F::FORMAT, 4, LeafSizes::ONLY_4K).is_err());
    mem.limit = None;
    let mut tree = PageTable::new(&mut mem, F::FORMAT, 4, LeafSizes::UP_TO_1G).unwrap();
    // Levels 3, 2 and 1 on both sides of the 1 GiB boundary.
    starve(&mut mem, &mut tree, 5, |tree, mem| {
        tree.map(mem, G - K, HostPhys(G - K), 2 * K, Permissions::READ_WRITE, Caching::WriteBack)
    });
    starve(&mut mem, &mut tree, 0, |tree, mem| {
        tree.map(mem, 4 * G, HostPhys(4 * G), 2 * G, Permissions::READ_WRITE, Caching::WriteBack)
    });
    // Two 1 GiB leaves, each split twice.
    starve(&mut mem, &mut tree, 4, |tree, mem| tree.unmap(mem, 5 * G - K, 2 * K, Holes::Refuse));
    // One 2 MiB leaf.
    starve(&mut mem, &mut tree, 1, |tree, mem| tree.protect(mem, 4 * G, K, Permissions::READ, Holes::Refuse));
    // A whole 2 MiB leaf needs nothing.
    starve(&mut mem, &mut tree, 0, |tree, mem| tree.protect(mem, 4 * G + M, M, Permissions::READ, Holes::Refuse));
    assert_eq!(tree.tables(&mem), mem.frames.len() as u64);
    tree.destroy(&mut mem);
    assert!(mem.frames.is_empty());
}

for_every_format!(refused_whole);
