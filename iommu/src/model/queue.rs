//! The invalidation queue: VT-d 6.5.2.

use super::caches::Tag;
use super::unit::{ICE, IQE, ITE, QIE, State, TE};

/// Bytes of the queue (QS = 0).
const BYTES: u64 = 4096;

/// Why a descriptor is bad: IQEI.
const BAD_TAIL: u64 = 1;
const BAD_TYPE: u64 = 3;
const RESERVED: u64 = 4;
const BAD_WIDTH: u64 = 5;

impl State {
    pub(super) fn set_tail(&mut self, value: u64) {
        self.tail = (value & 0x7_fff0) >> self.queue_shift();
        if self.gsts & QIE == 0 {
            return;
        }
        self.submissions += 1;
        if self.tail >= BYTES >> self.queue_shift() || value & ((1 << self.queue_shift()) - 1) != 0 {
            self.violation(format_args!("tail {value:#x} is no place in the queue"));
            self.queue_error(BAD_TAIL);
            return;
        }
        self.kick();
    }

    fn queue_error(&mut self, info: u64) {
        self.fsts |= IQE;
        self.queue_error = self.queue_error & !0xf | info;
    }

    /// Works until the queue is empty or stands still.
    pub(super) fn run_queue(&mut self) {
        let length = BYTES >> self.queue_shift();
        if self.failures.dead_queue || self.tail >= length || self.gsts & QIE == 0 {
            return;
        }
        while self.head != self.tail && self.fsts & (IQE | ITE) == 0 {
            if self.iqa & 1 << 11 == 0 && self.root >> 10 & 3 == 1 {
                return self.queue_error(BAD_WIDTH);
            }
            let at = (self.iqa & !0xfff) + (self.head << self.queue_shift());
            let snoops = self.snoops();
            let [low, high] = [at, at + 8].map(|at| self.memory.walker_read(at, snoops));
            if self.queue_shift() == 5 && [at + 16, at + 24].iter().any(|at| self.memory.walker_read(*at, snoops) != 0)
            {
                return self.queue_error(RESERVED);
            }
            if let Err(info) = self.perform(low, high) {
                return self.queue_error(info);
            }
            self.last_was_wait = low & 0xf == 5;
            self.head = (self.head + 1) % length;
        }
        if self.head == self.tail {
            self.abort_waits = false;
        }
    }

    fn perform(&mut self, low: u64, high: u64) -> Result<(), u64> {
        if self.failures.reject > 0 {
            if self.failures.reject_after == 0 {
                self.failures.reject -= 1;
                self.failures.reject_after = self.failures.reject_gap;
                return Err(RESERVED);
            }
            self.failures.reject_after -= 1;
        }
        if self.failures.spurious_completions > 0 {
            self.failures.spurious_completions -= 1;
            self.fsts |= ICE;
            self.queue_error = self.queue_error & !(0xffff << 48) | 0x0666 << 48;
        }
        let (did, source) = ((low >> 16) as u16, (low >> 32) as u16);
        if matches!(low & 0xe0f, 3 | 8) && self.gsts & TE == 0 {
            self.violation(format_args!("a device TLB invalidation while translation is off"));
        }
        match (low & 0xe0f, low >> 4 & 3) {
            (1, 1) => self.caches.forget_contexts(),
            (1, 2) => self.caches.forget_contexts_of_domain(did),
            (1, 3) => self.caches.forget_context_of(did, source),
            (2, 1) => self.caches.forget_pages_of(|_| true),
            (2, 2) => self.caches.forget_domain(did),
            (2, 3) => {
                let (address, mask) = self.block(high)?;
                self.caches.forget_second_stage(did, address, mask, high & 0x40 != 0);
            }
            (3, _) => {
                if self.ecap & 4 == 0 {
                    return Err(BAD_TYPE);
                }
                if self.failures.device_timeouts > 0 {
                    self.failures.device_timeouts -= 1;
                    self.fsts |= ITE;
                    self.abort_waits = true;
                    self.queue_error = self.queue_error & !(0xffff << 32) | u64::from(source) << 32;
                    return Ok(());
                }
                self.physical_of(source, low)?;
                self.device_tlb.push((source, high));
                self.forgotten_by_device(source, None, high, 0);
            }
            (6, kind @ 2..=3) if self.scalable() => {
                let tag = Tag { did, pasid: Some((low >> 32) as u32 & 0xf_ffff) };
                if kind == 2 {
                    self.caches.forget_pages_of(|other| other == tag);
                } else {
                    let (address, mask) = self.block(high)?;
                    self.caches.forget_pages(tag, address, mask, high & 0x40 != 0);
                }
            }
            (7, 0) if self.scalable() => self.caches.forget_pasids(did, None),
            (7, 1) if self.scalable() => self.caches.forget_pasids(did, Some((low >> 32) as u32 & 0xf_ffff)),
            (7, 3) if self.scalable() => self.caches.pasids.clear(),
            (8, _) if self.scalable() && self.ecap & 4 != 0 => {
                let pasid = (low >> 32) as u32 & 0xf_ffff;
                self.physical_of(did, low)?;
                self.pasid_device_tlb.push((did, pasid, high));
                self.forgotten_by_device(did, Some(pasid), high, 11);
            }
            (4, granularity) => {
                if granularity & 1 == 0 {
                    self.caches.interrupts.clear();
                } else {
                    let (first, mask) = ((low >> 32) as u16, low >> 27 & 0x1f);
                    if mask > self.ecap >> 20 & 0xf {
                        return Err(RESERVED);
                    }
                    self.caches.interrupts.retain(|index, _| index >> mask != first >> mask);
                }
            }
            (5, flags) => {
                if flags & 1 != 0 {
                    self.violation(format_args!("a wait descriptor with an interrupt"));
                }
                if flags & 2 == 0 || high & 3 != 0 {
                    return Err(RESERVED);
                }
                if !self.abort_waits {
                    self.memory.device_write32(high, (low >> 32) as u32);
                }
            }
            _ => return Err(BAD_TYPE),
        }
        Ok(())
    }

    /// The physical function that a device-TLB descriptor names: bits 3:0 at 12, 15:4 at 52, reserved without ECAP.DIT
    /// (bit 41).
    fn physical_of(&mut self, source: u16, low: u64) -> Result<(), u64> {
        let physical = (low >> 12 & 0xf | low >> 48 & 0xfff0) as u16;
        if self.ecap >> 41 & 1 != 0 {
            self.physical.push((source, physical));
        } else if physical != 0 {
            return Err(RESERVED);
        }
        Ok(())
    }

    /// The aligned block that a page-selective descriptor names: its address, log2 of its pages.
    fn block(&mut self, high: u64) -> Result<(u64, u32), u64> {
        let (address, mask, max) = (high & !0xfff, (high & 0x3f) as u32, (self.cap >> 48 & 0x3f) as u32);
        if mask > max || self.cap >> 39 & 1 == 0 {
            return Err(RESERVED);
        }
        if address >> 12 & ((1 << mask) - 1) != 0 {
            self.violation(format_args!("page-selective invalidation of {address:#x} with mask {mask}"));
        }
        Ok((address, mask))
    }
}
