//! Refusals: each names the cause and changes nothing.

use super::for_every_format;
use super::memory::Memory;
use super::walker::{Ept, Hardware, Host, SecondStage};
use crate::access::TableMemory;
use crate::addr::HostPhys;
use crate::paging::{Caching, Holes, LeafSizes, PageTable, PagingError, Permissions};
use std::string::ToString;

const K: u64 = 4 << 10;
const M: u64 = 2 << 20;

fn refusals<F: Hardware>() {
    let mut mem = Memory::default();
    let mut tree = PageTable::new(&mut mem, F::FORMAT, 4, LeafSizes::UP_TO_2M).unwrap();
    let rw = Permissions::READ_WRITE;
    let limit = tree.limit();
    tree.map(&mut mem, 4 * K, HostPhys(0), 2 * K, rw, Caching::WriteBack).unwrap().complete(&mut mem);
    tree.map(&mut mem, 2 * M, HostPhys(0), M, rw, Caching::WriteBack).unwrap().complete(&mut mem);
    let before = mem.frames.clone();
    let mut map = |at, to, bytes| tree.map(&mut mem, at, HostPhys(to), bytes, rw, Caching::WriteBack).unwrap_err();
    assert!(matches!(map(1, 0, K), PagingError::Misaligned { .. }));
    assert!(matches!(map(0, 1, K), PagingError::Misaligned { .. }));
    assert!(matches!(map(0, 0, K + 1), PagingError::Misaligned { .. }));
    assert!(matches!(map(0, 0, 0), PagingError::Misaligned { .. }));
    assert!(matches!(map(limit, 0, K), PagingError::OutOfRange { .. }));
    assert!(matches!(map(limit - K, 0, 2 * K), PagingError::OutOfRange { .. }));
    assert!(matches!(map(u64::MAX - (K - 1), 0, K), PagingError::OutOfRange { .. }));
    assert!(matches!(map(0, (1 << 52) - K, 2 * K), PagingError::TargetOutOfRange { .. }));
    assert_eq!(map(0, 0, 5 * K), PagingError::AlreadyMapped { at: 4 * K });
    assert_eq!(map(5 * K, 0, 5 * K), PagingError::AlreadyMapped { at: 5 * K });
    assert_eq!(map(0x10 * K, 0, 8 * M), PagingError::AlreadyMapped { at: 2 * M });
    assert_eq!(map(2 * M + K, K, K), PagingError::AlreadyMapped { at: 2 * M + K });
    let unmap = tree.unmap(&mut mem, 4 * K, 3 * K, Holes::Refuse);
    assert_eq!(unmap.unwrap_err(), PagingError::NotMapped { at: 6 * K });
    let protect = tree.protect(&mut mem, 0, 6 * K, Permissions::READ, Holes::Refuse);
    assert_eq!(protect.unwrap_err(), PagingError::NotMapped { at: 0 });
    let nothing = Permissions { read: false, write: false, execute: false };
    let protect = tree.protect(&mut mem, 4 * K, K, nothing, Holes::Refuse);
    assert!(matches!(protect, Err(PagingError::Unsupported { caching: None, .. })));
    assert_eq!(mem.frames, before);
    assert_eq!(tree.translate(&mem, limit), None);
    assert_eq!(tree.translate(&mem, u64::MAX), None);
    // Holes only, tolerated: nothing happens and nothing is owed.
    let flush = tree.unmap(&mut mem, 32 * M, 7 * M, Holes::Tolerate).unwrap();
    assert!(!flush.must_invalidate() && flush.only_leaves());
    flush.complete(&mut mem);
    assert_eq!(mem.frames, before);
    // The very last page of the tree.
    tree.map(&mut mem, limit - K, HostPhys(0), K, rw, Caching::WriteBack).unwrap().complete(&mut mem);
    assert_eq!(tree.translate(&mem, limit - 1).unwrap().to, HostPhys(K - 1));
}

#[test]
fn levels_and_roots() {
    let mut mem = Memory::default();
    for levels in [0, 1, 2, 3, 6, 77, 255] {
        assert!(matches!(
            PageTable::new(&mut mem, Host::FORMAT, levels, LeafSizes::ONLY_4K),
            Err(PagingError::Levels { .. })
        ));
    }
    assert!(PageTable::adopt(SecondStage::FORMAT, HostPhys(0x1000), 3, LeafSizes::ONLY_4K).is_ok());
    assert!(PageTable::adopt(SecondStage::FORMAT, HostPhys(0x1000), 2, LeafSizes::ONLY_4K).is_err());
    for root in [0x1008, 1 << 52, u64::MAX] {
        let adopted = PageTable::adopt(Ept::FORMAT, HostPhys(root), 4, LeafSizes::ONLY_4K);
        assert!(adopted.unwrap_err().to_string().contains("not the address of a frame"));
    }
    assert!(mem.frames.is_empty());
}

/// An entry with bits this version does not know is not rewritten without them.
#[test]
fn foreign_bits_survive() {
    let mut mem = Memory::default();
    let mut tree = PageTable::new(&mut mem, Ept::FORMAT, 4, LeafSizes::UP_TO_2M).unwrap();
    tree.map(&mut mem, 0, HostPhys(0), M, Permissions::ALL, Caching::WriteBack).unwrap().complete(&mut mem);
    let entry = *mem.frames.iter().find(|(_, frame)| frame[0] == 0xb7).unwrap().0;
    // Suppress-VE, bit 63 of an EPT leaf (SDM 3C table 29-5).
    mem.write(HostPhys(entry), 0x8000_0000_0000_00b7);
    let split = tree.unmap(&mut mem, K, K, Holes::Refuse);
    assert_eq!(split.unwrap_err(), PagingError::Foreign { at: K, entry: 0x8000_0000_0000_00b7 });
    assert!(tree.protect(&mut mem, 0, M, Permissions::READ, Holes::Refuse).is_err());
    assert_eq!(mem.read(HostPhys(entry)), 0x8000_0000_0000_00b7);
    // Bit 12 of a large leaf: PAT in other formats, reserved in this one.
    mem.write(HostPhys(entry), 0x10b7);
    assert_eq!(
        tree.protect(&mut mem, 0, M, Permissions::READ, Holes::Refuse).unwrap_err(),
        PagingError::Foreign { at: 0, entry: 0x10b7 }
    );
    // Accessed and dirty are hardware's own and no obstacle.
    mem.write(HostPhys(entry), 0x3b7);
    tree.unmap(&mut mem, K, K, Holes::Refuse).unwrap().complete(&mut mem);
    assert_eq!(tree.translate(&mem, K), None);
    assert_eq!(tree.translate(&mem, 2 * K).unwrap().to, HostPhys(2 * K));
}

#[test]
fn largest_leaves_that_fit() {
    let mut mem = Memory::default();
    let mut tree = PageTable::new(&mut mem, SecondStage::FORMAT, 4, LeafSizes::UP_TO_1G).unwrap();
    let g = 1 << 30;
    // 4 KiB below a boundary, 1 GiB, 2 MiB, 4 KiB.
    tree.map(&mut mem, g - K, HostPhys(5 * g - K), K + g + M + K, Permissions::READ_WRITE, Caching::WriteBack)
        .unwrap()
        .complete(&mut mem);
    let mut leaves = std::vec![];
    tree.for_each_leaf(&mem, |leaf| leaves.push((leaf.at, leaf.to.0, leaf.bytes)));
    assert_eq!(leaves, [(g - K, 5 * g - K, K), (g, 5 * g, g), (2 * g, 6 * g, M), (2 * g + M, 6 * g + M, K),]);
    let inside = tree.translate(&mem, g + 0x1234).unwrap();
    assert_eq!((inside.to, inside.bytes_left, inside.leaf_bytes), (HostPhys(5 * g + 0x1234), g - 0x1234, g));
}

for_every_format!(refusals);
