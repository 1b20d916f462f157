//! Interrupts: VT-d 5.1 (remapped), 5.2 (posted).

use super::unit::{CFI, IRE, ModelUnit, State};
use super::{Blocked, Delivered, Signal};

/// CAP.PI.
const PI: u64 = 1 << 59;
/// IM of an entry.
const POSTED: u64 = 1 << 15;

impl ModelUnit {
    /// `source` writes `data` to `address`, which is in the interrupt range, and the interrupt
    /// goes to a processor at once.
    pub fn msi(&self, source: u16, address: u64, data: u32) -> Result<Delivered, Blocked> {
        match self.signal(source, address, data)? {
            Signal::Sent(delivered) => Ok(delivered),
            Signal::Posted(_) => panic!("the interrupt was posted"),
        }
    }

    /// Likewise; it may be posted too.
    pub fn signal(&self, source: u16, address: u64, data: u32) -> Result<Signal, Blocked> {
        let mut state = self.state.borrow_mut();
        if state.gsts & IRE == 0 {
            return Ok(Signal::Sent(compatibility(address, data)));
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
    fn remap(&mut self, source: u16, address: u64, data: u32) -> (u32, Result<Signal, Blocked>) {
        if address & 0x10 == 0 {
            let pass = self.gsts & CFI != 0;
            return (0, if pass { Ok(Signal::Sent(compatibility(address, data))) } else { Err(Blocked(0x25)) });
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
            // With caching mode absence is cached as well.
            return if entry[0] & 1 == 0 { Err(Blocked(0x22)) } else { Ok(*entry) };
        }
        let at = (self.interrupt_table & !0xfff) + u64::from(index) * 16;
        let snoops = self.snoops();
        let [low, high] = [at, at + 8].map(|at| self.memory.walker_read(at, snoops));
        if low & 1 == 0 {
            if self.caching_mode() {
                self.caches.interrupts.insert(index, [low, high]);
            }
            return Err(Blocked(0x22));
        }
        let posted = self.cap & PI != 0 && low & POSTED != 0;
        let reserved = if posted { [0x3f_ff00_30fc, 0xfff0_0000] } else { [0xff00_f000, !0xf_ffff] };
        if low & reserved[0] != 0 || high & reserved[1] != 0 {
            return Err(Blocked(0x24));
        }
        self.caches.interrupts.insert(index, [low, high]);
        Ok([low, high])
    }

    fn deliver(&mut self, source: u16, [low, high]: [u64; 2]) -> Result<Signal, Blocked> {
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
        if low & POSTED != 0 {
            return self.post([low, high]);
        }
        let (vector, destination) = ((low >> 16) as u8, self.processor((low >> 32) as u32));
        Ok(Signal::Sent(Delivered { vector, destination }))
    }

    /// The APIC id in a destination field.
    fn processor(&self, field: u32) -> u32 {
        if self.interrupt_table & 1 << 11 != 0 { field } else { field >> 8 & 0xff }
    }

    fn post(&self, [low, high]: [u64; 2]) -> Result<Signal, Blocked> {
        let descriptor = high & 0xffff_ffff_0000_0000 | low >> 32 & 0xffff_ffc0;
        let (vector, urgent) = (low >> 16 & 0xff, low & 1 << 14 != 0);
        // These accesses snoop, whatever ECAP.C says (VT-d 5.2.3).
        let words: [u64; 8] = core::array::from_fn(|word| self.memory.device_read(descriptor + word as u64 * 8));
        if words == [u64::MAX; 8] {
            return Err(Blocked(0x27));
        }
        let control = words[4];
        if control & 0xff00_fffc != 0 || words[5..] != [0; 3] {
            return Err(Blocked(0x28));
        }
        self.memory.device_or(descriptor + vector / 64 * 8, 1 << (vector % 64));
        if control & 1 != 0 || (control & 2 != 0 && !urgent) {
            return Ok(Signal::Posted(None));
        }
        self.memory.device_or(descriptor + 32, 1);
        let notification =
            Delivered { vector: (control >> 16) as u8, destination: self.processor((control >> 32) as u32) };
        Ok(Signal::Posted(Some(notification)))
    }
}
