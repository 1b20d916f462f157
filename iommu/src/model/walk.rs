//! DMA: VT-d 3.4, 3.7.

use super::Blocked;
use super::caches::{Context, Page, shift};
use super::unit::{ModelUnit, State, TE};
use machine::addr::{HostPhys, Iova};

impl ModelUnit {
    /// `source` accesses `iova`. A fault is recorded as well as returned.
    pub fn dma(&self, source: u16, iova: Iova, write: bool) -> Result<HostPhys, Blocked> {
        let mut state = self.state.borrow_mut();
        if state.gsts & TE == 0 {
            return Ok(HostPhys(iova.0));
        }
        let result = state.translate(source, iova.0, write);
        if let Err(Blocked(reason)) = result {
            state.record_fault(iova.0 & !0xfff, source, reason, !write);
        }
        result
    }
}

impl State {
    fn caching_mode(&self) -> bool {
        self.cap & 1 << 7 != 0
    }

    fn load(&self, at: u64) -> u64 {
        self.memory.walker_read(at, self.snoops())
    }

    fn translate(&mut self, source: u16, iova: u64, write: bool) -> Result<HostPhys, Blocked> {
        let context = self.context(source)?;
        let width = (12 + 9 * context.levels).min((self.cap >> 16 & 0x3f) as u32 + 1);
        if iova >> width != 0 {
            return Err(Blocked(0x04));
        }
        let key = (context.did, iova >> 12);
        let page = match self.caches.pages.get(&key) {
            Some(page) => *page,
            None => {
                let page = self.walk(&context, iova);
                if page.is_some() || self.caching_mode() {
                    self.caches.pages.insert(key, page);
                }
                page
            }
        };
        match page {
            Some(page) if (write && page.write) || (!write && page.read) => Ok(HostPhys(page.to | iova & 0xfff)),
            _ => Err(Blocked(if write { 0x05 } else { 0x06 })),
        }
    }

    fn context(&mut self, source: u16) -> Result<Context, Blocked> {
        if let Some(cached) = self.caches.contexts.get(&source) {
            return cached.ok_or(Blocked(0x02));
        }
        let found = self.load_context(source);
        match found {
            Ok(context) => {
                self.caches.contexts.insert(source, Some(context));
            }
            Err(_) if self.caching_mode() => {
                self.caches.contexts.insert(source, None);
            }
            Err(_) => {}
        }
        found
    }

    fn load_context(&self, source: u16) -> Result<Context, Blocked> {
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
        let known = width > 0 && self.cap >> 8 & 1 << width != 0;
        if !known || kind > 1 || (kind == 1 && self.ecap & 4 == 0) {
            return Err(Blocked(0x03));
        }
        Ok(Context { did: (high >> 8) as u16, root: low & !0xfff, levels: width + 2 })
    }

    fn walk(&mut self, context: &Context, iova: u64) -> Option<Page> {
        let (mut level, mut table) = (context.levels, context.root);
        // The lowest link that is cached, however old, is where hardware starts.
        for lower in 2..=context.levels {
            if let Some(link) = self.caches.links.get(&(context.did, lower, iova >> shift(lower))) {
                (level, table) = (lower - 1, *link);
                break;
            }
        }
        loop {
            let entry = self.load(table + (iova >> shift(level) & 0x1ff) * 8);
            if entry & 3 == 0 {
                return None;
            }
            let (read, write) = (entry & 1 != 0, entry & 2 != 0);
            let large = level > 1 && entry & 1 << 7 != 0;
            if large && (level > 3 || self.cap >> (34 + level - 2) & 1 == 0) {
                return None; // Reserved bit; near enough to the fault it gives.
            }
            if level == 1 || large {
                let span = 1u64 << shift(level);
                let to = (entry & 0x000f_ffff_ffff_f000 & !(span - 1)) + (iova & (span - 1) & !0xfff);
                return Some(Page { to, read, write });
            }
            table = entry & 0x000f_ffff_ffff_f000;
            self.caches.links.insert((context.did, level, iova >> shift(level)), table);
            level -= 1;
        }
    }
}
