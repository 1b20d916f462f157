//! The handover arena: the frames that the next image must find. Its first frames are
//! the frame table: one tag per frame, so that ownership itself survives an upgrade.
//!
//! After an upgrade every tagged frame is pending until its owner claims it by tag;
//! what nobody claims is kept and reported, never freed (HANDOVER.md, behaviour 18).

use alloc::vec;
use alloc::vec::Vec;

use handover::state::machine::FrameTag;
use machine::addr::{HostPhys, PAGE_SIZE};

/// The frame table, wherever it lies: the arena itself on the machine, a vector in tests.
pub trait FrameTable {
    /// Frames in the arena.
    fn frames(&self) -> usize;
    /// The tag word of frame `index` (`index < frames()`).
    fn get(&self, index: usize) -> u32;
    /// Sets the tag word.
    fn set(&mut self, index: usize, word: u32);
    /// Fills the frame with zeroes.
    fn zero(&mut self, index: usize);
}

/// The allocator over a frame table.
pub struct Arena<T> {
    base: HostPhys,
    table: T,
    next: usize,
    /// Run-time only: frames found tagged at adoption and not yet claimed.
    pending: Vec<bool>,
}

impl<T: FrameTable> Arena<T> {
    /// A new arena: all frames free but those of the table itself.
    pub fn create(base: HostPhys, table: T) -> Self {
        let frames = table.frames();
        let mut arena = Self { base, table, next: 0, pending: vec![false; frames] };
        let own = (frames * 4).div_ceil(PAGE_SIZE as usize);
        for index in 0..frames {
            let kind = if index < own { FrameTag::FRAME_TABLE } else { FrameTag::FREE };
            arena.table.set(index, FrameTag::new(kind, 0).0);
        }
        arena
    }

    /// The arena of the image before this one; every tagged frame is pending.
    pub fn adopt(base: HostPhys, table: T) -> Self {
        let pending = vec![false; table.frames()];
        let mut arena = Self { base, table, next: 0, pending };
        arena.mark_pending();
        arena
    }

    /// Every frame that is tagged now is pending: what the image before took or freed since [`adopt`](Self::adopt) counts.
    pub fn mark_pending(&mut self) {
        for (index, pending) in self.pending.iter_mut().enumerate() {
            let kind = FrameTag(self.table.get(index)).kind();
            *pending = kind != FrameTag::FREE && kind != FrameTag::FRAME_TABLE;
        }
    }

    /// The first byte of the arena.
    pub fn base(&self) -> HostPhys {
        self.base
    }

    /// Frames in all.
    pub fn frames(&self) -> usize {
        self.table.frames()
    }

    /// Frames in use.
    pub fn used(&self) -> usize {
        (0..self.table.frames()).filter(|index| FrameTag(self.table.get(*index)).kind() != FrameTag::FREE).count()
    }

    /// Hands out `count` contiguous zeroed frames.
    pub fn allocate(&mut self, count: usize, tag: FrameTag) -> Option<HostPhys> {
        let frames = self.table.frames();
        if count == 0 || count > frames {
            return None;
        }
        let first = self.find(self.next, frames, count).or_else(|| self.find(0, frames, count))?;
        for index in first..first + count {
            self.table.zero(index);
            self.table.set(index, tag.0);
        }
        self.next = first + count;
        self.base.checked_add(first as u64 * PAGE_SIZE)
    }

    fn find(&self, from: usize, to: usize, count: usize) -> Option<usize> {
        let mut run = 0;
        for index in from..to {
            if FrameTag(self.table.get(index)).kind() == FrameTag::FREE {
                run += 1;
                if run == count {
                    return Some(index + 1 - count);
                }
            } else {
                run = 0;
            }
        }
        None
    }

    /// Takes back one frame; `false` when it is not a frame handed out here.
    pub fn free(&mut self, frame: HostPhys) -> bool {
        match self.index(frame) {
            Some(index)
                if !matches!(FrameTag(self.table.get(index)).kind(), FrameTag::FREE | FrameTag::FRAME_TABLE) =>
            {
                self.table.set(index, 0);
                self.pending[index] = false;
                true
            }
            _ => false,
        }
    }

    /// The owner of the frame at `address`, `None` outside the arena.
    pub fn owner(&self, address: HostPhys) -> Option<FrameTag> {
        self.index(address.align_down(PAGE_SIZE)).map(|index| FrameTag(self.table.get(index)))
    }

    /// The owner `tag` says that its frames are wanted; returns how many there were.
    pub fn claim(&mut self, tag: FrameTag) -> usize {
        let mut claimed = 0;
        for index in 0..self.pending.len() {
            if self.pending[index] && self.table.get(index) == tag.0 {
                self.pending[index] = false;
                claimed += 1;
            }
        }
        claimed
    }

    /// Frames that nobody has claimed, with their tags.
    pub fn unclaimed(&self) -> impl Iterator<Item = (HostPhys, FrameTag)> {
        self.pending
            .iter()
            .enumerate()
            .filter(|(_, pending)| **pending)
            .map(|(index, _)| (HostPhys(self.base.get() + index as u64 * PAGE_SIZE), FrameTag(self.table.get(index))))
    }

    fn index(&self, frame: HostPhys) -> Option<usize> {
        let offset = frame.get().checked_sub(self.base.get())?;
        let index = usize::try_from(offset / PAGE_SIZE).ok()?;
        (offset.is_multiple_of(PAGE_SIZE) && index < self.table.frames()).then_some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words(Vec<u32>);

    impl FrameTable for Words {
        fn frames(&self) -> usize {
            self.0.len()
        }
        fn get(&self, index: usize) -> u32 {
            self.0[index]
        }
        fn set(&mut self, index: usize, word: u32) {
            self.0[index] = word;
        }
        fn zero(&mut self, _: usize) {}
    }

    const BASE: HostPhys = HostPhys(0x1000_0000);
    const UNIT: FrameTag = FrameTag::new(FrameTag::UNIT_TABLE, 0);
    const DOMAIN: FrameTag = FrameTag::new(FrameTag::DOMAIN_TABLE, 7);

    #[test]
    fn allocates_contiguously_until_exhausted_and_takes_back() {
        let mut arena = Arena::create(BASE, Words(vec![0xffff_ffff; 16]));
        assert_eq!(arena.used(), 1);
        let pair = arena.allocate(2, UNIT).unwrap();
        assert_eq!(pair, HostPhys(0x1000_1000));
        let mut single = Vec::new();
        while let Some(frame) = arena.allocate(1, DOMAIN) {
            single.push(frame);
        }
        assert_eq!(single.len(), 13);
        assert!(arena.free(single[3]) && !arena.free(single[3]));
        assert_eq!(arena.allocate(2, UNIT), None);
        assert_eq!(arena.allocate(1, UNIT), Some(single[3]));
        assert!(!arena.free(BASE) && !arena.free(HostPhys(0x1000_1001)) && !arena.free(HostPhys(0)));
    }

    /// What PLAN takes for the records comes back, and the next plan finds as much room.
    #[test]
    fn law_8_a_thousand_regions_come_back() {
        let mut arena = Arena::create(BASE, Words(vec![0; 16]));
        arena.allocate(3, UNIT).unwrap();
        let stream = FrameTag::new(FrameTag::STREAM, 0);
        let used = arena.used();
        for _ in 0..1_000 {
            let base = arena.allocate(8, stream).unwrap();
            assert_eq!(arena.allocate(8, stream), None, "a second plan at the same time has no room");
            assert!((0..8).all(|frame| arena.free(HostPhys(base.get() + frame * PAGE_SIZE))));
            assert_eq!(arena.used(), used);
        }
        assert_eq!(arena.claim(stream), 0);
    }

    #[test]
    fn law_18_adopted_frames_are_pending_until_claimed() {
        let mut arena = Arena::create(BASE, Words(vec![0; 16]));
        arena.allocate(2, UNIT).unwrap();
        arena.allocate(3, DOMAIN).unwrap();
        let mut next = Arena::adopt(BASE, arena.table);
        assert_eq!(next.unclaimed().count(), 5);
        assert_eq!(next.claim(UNIT), 2);
        assert_eq!(next.claim(UNIT), 0);
        let left: Vec<_> = next.unclaimed().collect();
        assert_eq!(left[0], (HostPhys(0x1000_3000), DOMAIN));
        assert_eq!(left.len(), 3);
        // What is not claimed is kept.
        for _ in 0..10 {
            next.allocate(1, UNIT).unwrap();
        }
        assert_eq!(next.allocate(1, UNIT), None);
    }
}
