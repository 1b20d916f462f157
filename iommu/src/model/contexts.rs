//! From a request's source and PASID to the tables it goes through: VT-d 3.4, 9.1 to 9.6.

use super::Blocked;
use super::caches::{Directory, Leg, Root, Tag};
use super::unit::State;

impl State {
    /// TTM of the root table address that was taken.
    pub(super) fn scalable(&self) -> bool {
        self.root >> 10 & 3 == 1
    }

    pub(super) fn caching_mode(&self) -> bool {
        self.cap & 1 << 7 != 0
    }

    /// A word of root, context and PASID tables.
    fn load(&self, at: u64) -> u64 {
        self.memory.walker_read(at, self.snoops())
    }

    pub(super) fn leg(&mut self, source: u16, pasid: Option<u32>) -> Result<Leg, Blocked> {
        if !self.scalable() {
            return if pasid.is_some() { Err(Blocked(0x31)) } else { self.context(source) };
        }
        let directory = self.directory(source)?;
        if pasid.is_some() && !directory.enabled {
            return Err(Blocked(0x45));
        }
        let pasid = pasid.unwrap_or(0);
        if pasid >= directory.pasids {
            return Err(Blocked(0x46));
        }
        if let Some(cached) = self.caches.pasids.get(&(source, pasid)) {
            return cached.ok_or(Blocked(0x59));
        }
        let found = self.load_pasid(directory.table, pasid);
        if found.is_ok() || self.caching_mode() {
            self.caches.pasids.insert((source, pasid), found.ok());
        }
        found
    }

    fn context(&mut self, source: u16) -> Result<Leg, Blocked> {
        if let Some(cached) = self.caches.contexts.get(&source) {
            return cached.ok_or(Blocked(0x02));
        }
        let found = self.load_context(source);
        if found.is_ok() || self.caching_mode() {
            self.caches.contexts.insert(source, found.ok());
        }
        found
    }

    fn directory(&mut self, source: u16) -> Result<Directory, Blocked> {
        if let Some(cached) = self.caches.directories.get(&source) {
            return cached.ok_or(Blocked(0x41));
        }
        let found = self.load_directory(source);
        if found.is_ok() || self.caching_mode() {
            self.caches.directories.insert(source, found.ok());
        }
        found
    }

    fn load_context(&self, source: u16) -> Result<Leg, Blocked> {
        let root = (self.root & !0xfff) + u64::from(source >> 8) * 16;
        let [low, high] = [self.load(root), self.load(root + 8)];
        if low & 1 == 0 {
            return Err(Blocked(0x01));
        }
        if low & 0xffe != 0 || high != 0 {
            return Err(Blocked(0x0a));
        }
        let entry = (low & !0xfff) + u64::from(source & 0xff) * 16;
        let [low, high] = [self.load(entry), self.load(entry + 8)];
        if low & 1 == 0 {
            return Err(Blocked(0x02));
        }
        if low & 0xff0 != 0 || high & 0xffff_ffff_ff00_0080 != 0 {
            return Err(Blocked(0x0b));
        }
        let (kind, width) = (low >> 2 & 3, (high & 7) as u32);
        let known = match kind {
            0 => true,
            1 => self.ecap & 1 << 2 != 0,
            2 => self.ecap & 1 << 6 != 0,
            _ => false,
        };
        if !known || !self.has_width(width) {
            return Err(Blocked(0x03));
        }
        let second = (kind != 2).then_some(Root { table: low & !0xfff, levels: width + 2 });
        let tag = Tag { did: (high >> 8) as u16, pasid: None };
        Ok(Leg { tag, first: None, second, snoops: self.snoops() })
    }

    fn has_width(&self, width: u32) -> bool {
        width > 0 && self.cap >> 8 & 0x1f & 1 << width != 0
    }

    fn load_directory(&self, source: u16) -> Result<Directory, Blocked> {
        let (bus, upper) = (u64::from(source >> 8), u64::from(source >> 7 & 1));
        let half = self.load((self.root & !0xfff) + bus * 16 + upper * 8);
        if half & 1 == 0 {
            return Err(Blocked(0x39));
        }
        if half & 0xffe != 0 {
            return Err(Blocked(0x3a));
        }
        let entry = (half & !0xfff) + u64::from(source & 0x7f) * 32;
        let [low, high, third, fourth] = [0, 8, 16, 24].map(|offset| self.load(entry + offset));
        if low & 1 == 0 {
            return Err(Blocked(0x41));
        }
        let unable = |bit: u32, ability: u32| low >> bit & 1 != 0 && self.ecap >> ability & 1 == 0;
        if low & 0x1e0 != 0 || high >> 21 != 0 || third | fourth != 0 || unable(2, 2) || unable(3, 40) || unable(4, 29)
        {
            return Err(Blocked(0x42));
        }
        Ok(Directory { table: low & !0xfff, pasids: 0x2000 << (low >> 9 & 7), enabled: low & 8 != 0 })
    }

    fn load_pasid(&self, directory: u64, pasid: u32) -> Result<Leg, Blocked> {
        let link = self.load(directory + u64::from(pasid >> 6) * 8);
        if link & 1 == 0 {
            return Err(Blocked(0x51));
        }
        if link & 0xffc != 0 {
            return Err(Blocked(0x52));
        }
        let entry = (link & !0xfff) + u64::from(pasid & 0x3f) * 64;
        let words: [u64; 8] = core::array::from_fn(|index| self.load(entry + index as u64 * 8));
        let [low, high, first, ..] = words;
        if low & 1 == 0 {
            return Err(Blocked(0x59));
        }
        let unable = |bit: u32, ability: u32| high >> bit & 1 != 0 && self.ecap >> ability & 1 == 0;
        if low & 0xc00 != 0 || words[3..].iter().any(|word| *word != 0) || unable(23, 48) || unable(24, 7) {
            return Err(Blocked(0x5a));
        }
        let able = |bit: u32| self.ecap >> bit & 1 != 0;
        let (width, mode) = ((low >> 2 & 7) as u32, (first >> 2 & 3) as u32);
        let second = Root { table: low & !0xfff, levels: width + 2 };
        let outer = able(46) && self.has_width(width);
        let inner = able(47) && (mode == 0 || (mode == 1 && self.cap >> 60 & 1 != 0));
        let first = Root { table: first & !0xfff, levels: mode + 4 };
        let (first, second) = match low >> 6 & 7 {
            1 if inner => (Some(first), None),
            2 if outer => (None, Some(second)),
            3 if inner && outer && able(26) => (Some(first), Some(second)),
            4 if able(6) && self.has_width(width) => (None, None),
            _ => return Err(Blocked(0x5b)),
        };
        let tag = Tag { did: high as u16, pasid: first.map(|_| pasid) };
        Ok(Leg { tag, first, second, snoops: high >> 23 & 1 != 0 })
    }
}
