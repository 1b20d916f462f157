//! Recording faults and telling of them: VT-d 7.2, 7.3.

use super::unit::{ICE, IQE, ITE, PFO, PPF, State};

impl State {
    pub(super) fn clear_faults(&mut self, bits: u32) {
        self.fsts &= !(bits & (PFO | IQE | ICE | ITE));
        if bits & ITE != 0 {
            self.run_queue();
        }
        self.settle_event();
    }

    /// IP goes when all its causes are gone: VT-d 11.4.10.
    pub(super) fn settle_event(&mut self) {
        if self.fsts & (PFO | PPF | IQE | ICE | ITE) == 0 {
            self.fectl &= !(1 << 30);
        }
    }

    /// Whether faults of `source` are recorded: FPD of its context entry, present or not (VT-d 9.3, 9.4).
    pub(super) fn reports(&self, source: u16) -> bool {
        let load = |at| self.memory.walker_read(at, self.snoops());
        let (root, function) = (self.root & !0xfff, u64::from(source & 0xff));
        let scalable = self.root >> 10 & 3 == 1;
        // In scalable mode entries have 32 bytes, and devices 16 to 31 a table of their own.
        let (link, entry) = if scalable { (function >> 7, (function & 0x7f) * 32) } else { (0, function * 16) };
        let link = load(root + u64::from(source >> 8) * 16 + link * 8);
        link & 1 == 0 || load((link & !0xfff) + entry) & 2 == 0
    }

    /// Records a fault: VT-d 7.2.
    pub(super) fn record_fault(&mut self, information: u64, source: u16, reason: u8, read: bool) {
        self.record_request_fault(information, source, reason, read, None);
    }

    /// Likewise, of a request that may have a PASID.
    pub(super) fn record_request_fault(
        &mut self,
        information: u64,
        source: u16,
        reason: u8,
        read: bool,
        pasid: Option<u32>,
    ) {
        if self.fsts & PFO != 0 {
            return;
        }
        let index = self.next_record;
        if self.records[index][1] >> 63 != 0 {
            self.fsts |= PFO;
            return;
        }
        let high = 1 << 63 | u64::from(read) << 62 | u64::from(reason) << 32 | u64::from(source);
        let high = high | pasid.map_or(0, |pasid| 1 << 31 | u64::from(pasid) << 40);
        self.records[index] = [information, high];
        if self.fsts & PPF == 0 {
            self.fsts = self.fsts & !0xff00 | PPF | (index as u32) << 8;
            if self.fectl & 1 << 31 != 0 {
                self.fectl |= 1 << 30;
            } else {
                self.events += 1;
            }
        }
        self.next_record = (index + 1) % self.records.len();
    }
}
