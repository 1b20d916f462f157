//! The invalidation queue: VT-d 6.5.2.

use super::unit::{ICE, IQE, ITE, QIE, State};

/// Descriptors in the queue (QS = 0).
const LENGTH: u64 = 256;

impl State {
    pub(super) fn set_tail(&mut self, value: u64) {
        self.tail = value >> 4 & 0x7fff;
        if self.tail >= LENGTH {
            let tail = self.tail;
            self.violation(format_args!("tail {tail:#x} is outside the queue"));
        }
        if self.gsts & QIE != 0 {
            self.submissions += 1;
            self.run_queue();
        }
    }

    /// Works until the queue is empty or stands still.
    pub(super) fn run_queue(&mut self) {
        if self.failures.dead_queue || self.tail >= LENGTH || self.gsts & QIE == 0 {
            return;
        }
        while self.head != self.tail && self.fsts & (IQE | ITE) == 0 {
            let at = (self.iqa & !0xfff) + self.head * 16;
            let snoops = self.snoops();
            let [low, high] = [at, at + 8].map(|at| self.memory.walker_read(at, snoops));
            if !self.perform(low, high) {
                self.fsts |= IQE;
                return;
            }
            self.last_was_wait = low & 0xf == 5;
            self.head = (self.head + 1) % LENGTH;
        }
        if self.head == self.tail {
            self.abort_waits = false;
        }
    }

    fn perform(&mut self, low: u64, high: u64) -> bool {
        if self.failures.reject > 0 {
            if self.failures.reject_after == 0 {
                self.failures.reject -= 1;
                self.failures.reject_after = self.failures.reject_gap;
                return false;
            }
            self.failures.reject_after -= 1;
        }
        if self.failures.spurious_completions > 0 {
            self.failures.spurious_completions -= 1;
            self.fsts |= ICE;
        }
        let (did, source) = ((low >> 16) as u16, (low >> 32) as u16);
        match (low & 0xe0f, low >> 4 & 3) {
            (1, 1) => self.caches.contexts.clear(),
            (1, 2) => self.caches.forget_contexts_of_domain(did),
            (1, 3) => self.caches.forget_context_of(did, source),
            (2, 1) => {
                self.caches.pages.clear();
                self.caches.links.clear();
            }
            (2, 2) => self.caches.forget_domain(did),
            (2, 3) => {
                let (mask, max) = ((high & 0x3f) as u32, (self.cap >> 48 & 0x3f) as u32);
                if mask > max || self.cap >> 39 & 1 == 0 {
                    return false;
                }
                let address = high & !0xfff;
                if address >> 12 & ((1 << mask) - 1) != 0 {
                    self.violation(format_args!("page-selective invalidation of {address:#x} with mask {mask}"));
                }
                self.caches.forget_pages(did, address, mask, high & 0x40 != 0);
            }
            (3, _) => {
                if self.ecap & 4 == 0 {
                    return false;
                }
                if self.failures.device_timeouts > 0 {
                    self.failures.device_timeouts -= 1;
                    self.fsts |= ITE;
                    self.abort_waits = true;
                    return true;
                }
                self.device_tlb.push((source, high));
            }
            (4, granularity) => {
                if granularity & 1 == 0 {
                    self.caches.interrupts.clear();
                } else {
                    let (first, mask) = ((low >> 32) as u16, low >> 27 & 0x1f);
                    self.caches.interrupts.retain(|index, _| index >> mask != first >> mask);
                }
            }
            (5, flags) => {
                if flags & 1 != 0 {
                    self.violation(format_args!("a wait descriptor with an interrupt"));
                }
                if flags & 2 == 0 || high & 3 != 0 {
                    return false;
                }
                if !self.abort_waits {
                    self.memory.device_write32(high, (low >> 32) as u32);
                }
            }
            _ => return false,
        }
        true
    }
}
