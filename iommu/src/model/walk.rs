//! DMA: VT-d 3.5 to 3.8.

use super::Blocked;
use super::caches::{Leg, Page, Root, shift};
use super::unit::{ModelUnit, State, TE};
use machine::addr::{HostPhys, Iova};

/// Bits 51:12 of an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Why a walk ended without a page: the reason code of scalable mode.
type Walked = Result<Page, u8>;

impl ModelUnit {
    /// `source` accesses `iova`. A fault is recorded as well as returned.
    pub fn dma(&self, source: u16, iova: Iova, write: bool) -> Result<HostPhys, Blocked> {
        self.request(source, None, iova, write)
    }

    /// Likewise with a PASID.
    pub fn dma_with_pasid(&self, source: u16, pasid: u32, iova: Iova, write: bool) -> Result<HostPhys, Blocked> {
        self.request(source, Some(pasid), iova, write)
    }

    fn request(&self, source: u16, pasid: Option<u32>, iova: Iova, write: bool) -> Result<HostPhys, Blocked> {
        let mut state = self.state.borrow_mut();
        if state.gsts & TE == 0 {
            return Ok(HostPhys(iova.0));
        }
        if let Some(to) = state.known_to_device(source, pasid, iova.0, write) {
            return Ok(to);
        }
        let result = state.translate(source, pasid, iova.0, write);
        match result {
            Ok(to) => state.told_to_device(source, pasid, iova.0, write, to),
            Err(Blocked(reason)) if state.reports(source) => {
                state.record_request_fault(iova.0 & !0xfff, source, reason, !write, pasid);
            }
            Err(_) => {}
        }
        result
    }
}

impl State {
    fn translate(&mut self, source: u16, pasid: Option<u32>, iova: u64, write: bool) -> Result<HostPhys, Blocked> {
        let leg = self.leg(source, pasid)?;
        let in_scalable_mode = self.scalable();
        let reason = |legacy, scalable| Blocked(if in_scalable_mode { scalable } else { legacy });
        let accepted = (self.cap >> 16 & 0x3f) as u32 + 1;
        match (leg.first, leg.second) {
            // VT-d 3.6: the bits above are copies of the highest that is translated.
            (Some(first), _) => {
                let above = (iova as i64) >> (11 + 9 * first.levels);
                if above != 0 && above != -1 {
                    return Err(Blocked(0x80));
                }
            }
            (None, Some(second)) if iova >> accepted.min(12 + 9 * second.levels) != 0 => {
                return Err(reason(0x04, 0x83));
            }
            (None, None) if iova >> accepted != 0 => return Err(reason(0x04, 0x83)),
            _ => {}
        }
        let key = (leg.tag, iova >> 12);
        let page = match self.caches.pages.get(&key) {
            Some(page) => page.ok_or(if leg.first.is_some() { 0x71 } else { 0x79 }),
            None => {
                let page = self.walk(&leg, iova, write);
                if page.is_ok() || self.caching_mode() {
                    self.caches.pages.insert(key, page.ok());
                }
                page
            }
        };
        let refused = if write { reason(0x05, 0x85) } else { reason(0x06, 0x86) };
        match page {
            Ok(page) if (write && page.write) || (!write && page.read) => Ok(HostPhys(page.to | iova & 0xfff)),
            Err(why) if in_scalable_mode => Err(Blocked(why)),
            _ => Err(refused),
        }
    }

    fn walk(&mut self, leg: &Leg, iova: u64, write: bool) -> Walked {
        match (leg.first, leg.second) {
            (Some(first), _) => self.walk_first(leg, first, iova, write),
            (None, Some(second)) => self.walk_second(leg, second, iova),
            (None, None) => Ok(Page { to: iova & !0xfff, read: true, write: true }),
        }
    }

    /// The lowest link that is cached, however old, is where hardware starts.
    fn start(&self, leg: &Leg, second: bool, root: Root, address: u64) -> (u32, u64) {
        let cached = |level: u32| {
            let link = self.caches.links.get(&(leg.tag, second, level, address >> shift(level)));
            link.map(|link| (level - 1, *link))
        };
        (2..=root.levels).find_map(cached).unwrap_or((root.levels, root.table))
    }

    fn walk_second(&mut self, leg: &Leg, root: Root, address: u64) -> Walked {
        let (mut level, mut table) = self.start(leg, true, root, address);
        loop {
            let entry = self.memory.walker_read(table + (address >> shift(level) & 0x1ff) * 8, leg.snoops);
            if entry & 3 == 0 {
                return Err(0x79);
            }
            if entry & 1 << 11 != 0 && self.ecap & 1 << 7 == 0 {
                return Err(0x7a); // SNP without ECAP.SC.
            }
            let large = level > 1 && entry & 1 << 7 != 0;
            if large && (level > 3 || self.cap >> (34 + level - 2) & 1 == 0) {
                return Err(0x7a);
            }
            if level == 1 || large {
                let to = inside(entry, level, address);
                return Ok(Page { to, read: entry & 1 != 0, write: entry & 2 != 0 });
            }
            table = entry & ADDRESS;
            self.caches.links.insert((leg.tag, true, level, address >> shift(level)), table);
            level -= 1;
        }
    }

    /// Where the second stage, if there is one, puts an address that the first stage names.
    fn outer(&mut self, leg: &Leg, address: u64, write: bool) -> Walked {
        let Some(second) = leg.second else { return Ok(Page { to: address, read: true, write: true }) };
        if address >> (12 + 9 * second.levels) != 0 {
            return Err(0x84);
        }
        let page = self.walk_second(leg, second, address)?;
        if !page.read || (write && !page.write) {
            return Err(if write { 0x77 } else { 0x76 });
        }
        Ok(Page { to: page.to | address & 0xfff, ..page })
    }

    fn walk_first(&mut self, leg: &Leg, root: Root, iova: u64, write: bool) -> Walked {
        let (mut level, mut table) = self.start(leg, false, root, iova);
        let mut may_write = true;
        loop {
            let at = self.outer(leg, table, false)?.to + (iova >> shift(level) & 0x1ff) * 8;
            let entry = self.memory.walker_read(at, leg.snoops);
            if entry & 1 == 0 {
                return Err(0x71);
            }
            if entry & 4 == 0 {
                return Err(0x81); // Privileged only; requests are not.
            }
            may_write &= entry & 2 != 0;
            let large = level > 1 && entry & 1 << 7 != 0;
            if large && (level > 3 || (level == 3 && self.cap >> 56 & 1 == 0)) {
                return Err(0x72);
            }
            let leaf = level == 1 || large;
            // Accessed, and dirty: a unit that does not snoop cannot set them (VT-d 3.6.2).
            let marks = if leaf && write && may_write { 0x60 } else { 0x20 };
            if entry & marks != marks {
                return Err(0x90);
            }
            if leaf {
                let to = inside(entry, level, iova);
                let page = self.outer(leg, to, write && may_write)?;
                return Ok(Page { to: page.to & !0xfff, read: true, write: may_write && page.write });
            }
            table = entry & ADDRESS;
            self.caches.links.insert((leg.tag, false, level, iova >> shift(level)), table);
            level -= 1;
        }
    }
}

/// The page of `address` in the leaf `entry`.
fn inside(entry: u64, level: u32, address: u64) -> u64 {
    let span = 1u64 << shift(level);
    (entry & ADDRESS & !(span - 1)) + (address & (span - 1) & !0xfff)
}
