//! Interrupts: VT-d 5.1.

use super::unit::{CFI, IRE, ModelUnit, State};
use super::{Blocked, Delivered};

impl ModelUnit {
    /// `source` writes `data` to `address`, which is in the interrupt range.
    pub fn msi(&self, source: u16, address: u64, data: u32) -> Result<Delivered, Blocked> {
        let mut state = self.state.borrow_mut();
        if state.gsts & IRE == 0 {
            return Ok(compatibility(address, data));
        }
        let (index, result) = state.remap(source, address, data);
        if let Err(Blocked(reason)) = result {
            state.record_fault(u64::from(index) << 48, source, reason, false);
        }
        result
    }
}

fn compatibility(address: u64, data: u32) -> Delivered {
    Delivered { vector: data as u8, destination: (address >> 12 & 0xff) as u32 }
}

impl State {
    fn remap(&mut self, source: u16, address: u64, data: u32) -> (u32, Result<Delivered, Blocked>) {
        if address & 0x10 == 0 {
            let pass = self.gsts & CFI != 0;
            return (0, if pass { Ok(compatibility(address, data)) } else { Err(Blocked(0x25)) });
        }
        let handle = (address >> 5 & 0x7fff | (address >> 2 & 1) << 15) as u32;
        let with_subhandle = address & 8 != 0;
        let index = if with_subhandle { handle + (data & 0xffff) } else { handle };
        if data >> 16 != 0 || (!with_subhandle && data != 0) {
            return (index, Err(Blocked(0x20)));
        }
        if index >= 2 << (self.interrupt_table & 0xf) {
            return (index, Err(Blocked(0x21)));
        }
        (index, self.entry(index as u16).and_then(|entry| self.deliver(source, entry)))
    }

    fn entry(&mut self, index: u16) -> Result<[u64; 2], Blocked> {
        if let Some(entry) = self.caches.interrupts.get(&index) {
            return Ok(*entry);
        }
        let at = (self.interrupt_table & !0xfff) + u64::from(index) * 16;
        let snoops = self.snoops();
        let [low, high] = [at, at + 8].map(|at| self.memory.walker_read(at, snoops));
        if low & 1 == 0 {
            return Err(Blocked(0x22));
        }
        if low & 0xff00_f000 != 0 || high >> 20 != 0 {
            return Err(Blocked(0x24));
        }
        self.caches.interrupts.insert(index, [low, high]);
        Ok([low, high])
    }

    fn deliver(&self, source: u16, [low, high]: [u64; 2]) -> Result<Delivered, Blocked> {
        let (sid, qualifier, validation) = (high as u16, high >> 16 & 3, high >> 18 & 3);
        let ignored = [0u16, 4, 6, 7][qualifier as usize];
        let bus = source >> 8;
        let verified = match validation {
            0 => true,
            1 => (sid ^ source) & !ignored == 0,
            2 => (sid >> 8..=sid & 0xff).contains(&bus),
            _ => false,
        };
        if !verified {
            return Err(Blocked(0x26));
        }
        let destination = (low >> 32) as u32;
        let x2apic = self.interrupt_table & 1 << 11 != 0;
        Ok(Delivered {
            vector: (low >> 16) as u8,
            destination: if x2apic { destination } else { destination >> 8 & 0xff },
        })
    }
}
