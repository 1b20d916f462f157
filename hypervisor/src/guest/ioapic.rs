//! The IOAPIC: 24 pins, edge and level (82093AA data sheet; EOI register of version 0x20).

use super::message::{DeliveryMode, InterruptMessage, destination8};

/// Pins of the IOAPIC.
pub const PINS: usize = 24;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const REGISTER_ID: u8 = 0x00;
const REGISTER_VERSION: u8 = 0x01;
const REGISTER_ARBITRATION: u8 = 0x02;
const REGISTER_TABLE: u8 = 0x10;

/// Version 0x20 (with EOI register), highest entry 23.
const VERSION: u32 = 0x0017_0020;

const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const LOGICAL: u64 = 1 << 11;
const READ_ONLY: u64 = 1 << 12 | REMOTE_IRR;
const WRITABLE: u64 = 0xFF00_0000_0001_AFFF;

/// Everything the IOAPIC remembers. Numbers only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoapicState {
    /// Redirection table, remote IRR included.
    pub entries: [u64; PINS],
    /// One bit per pin: asserted.
    pub lines: u32,
    /// ID register.
    pub id: u32,
    /// IOREGSEL.
    pub select: u32,
}

/// An [`IoapicState`] has bits set that this IOAPIC never sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoapicStateError;

impl core::fmt::Display for IoapicStateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("IOAPIC record has reserved bits set; the record is damaged")
    }
}

/// Where the IOAPIC sends its messages.
pub type Deliver<'a> = &'a mut dyn FnMut(InterruptMessage);

/// One IOAPIC.
#[derive(Clone, Debug)]
pub struct Ioapic {
    state: IoapicState,
}

impl Ioapic {
    /// After reset: all pins masked. `id` as the MADT says.
    #[must_use]
    pub const fn new(id: u8) -> Self {
        Self { state: IoapicState { entries: [MASKED; PINS], lines: 0, id: (id as u32 & 0xF) << 24, select: 0 } }
    }

    /// The line of `pin` is now asserted or not (after polarity: true is active).
    pub fn set_line(&mut self, pin: usize, asserted: bool, deliver: Deliver<'_>) {
        let Some(entry) = self.state.entries.get(pin).copied() else {
            return;
        };
        let bit = 1u32 << pin;
        let was = self.state.lines & bit != 0;
        self.state.lines = if asserted { self.state.lines | bit } else { self.state.lines & !bit };
        if entry & LEVEL != 0 {
            self.serve_level(pin, deliver);
        } else if asserted && !was && entry & MASKED == 0 {
            // Edges on a masked pin are ignored (82093AA 3.2.4, bit 16).
            deliver_entry(entry, deliver);
        }
    }

    /// A LAPIC ended a level-triggered interrupt of `vector`.
    pub fn end_of_interrupt(&mut self, vector: u8, deliver: Deliver<'_>) {
        for pin in 0..PINS {
            if let Some(entry) = self.state.entries.get_mut(pin)
                && *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR
                && *entry as u8 == vector
            {
                *entry &= !REMOTE_IRR;
                self.serve_level(pin, deliver);
            }
        }
    }

    fn serve_level(&mut self, pin: usize, deliver: Deliver<'_>) {
        if let Some(entry) = self.state.entries.get_mut(pin)
            && *entry & (LEVEL | MASKED | REMOTE_IRR) == LEVEL
            && self.state.lines & 1 << pin != 0
        {
            let sent = *entry;
            if deliver_entry(sent, deliver) {
                *entry |= REMOTE_IRR;
            }
        }
    }

    /// A load at byte `offset` of the page.
    #[must_use]
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            SELECT => self.state.select,
            WINDOW => self.register(self.state.select as u8),
            _ => 0,
        }
    }

    /// A store of `value` at byte `offset` of the page.
    pub fn write(&mut self, offset: u64, value: u32, deliver: Deliver<'_>) {
        match offset {
            SELECT => self.state.select = value & 0xFF,
            WINDOW => self.set_register(self.state.select as u8, value, deliver),
            EOI => self.end_of_interrupt(value as u8, deliver),
            _ => {}
        }
    }

    fn register(&self, index: u8) -> u32 {
        match index {
            REGISTER_ID => self.state.id,
            REGISTER_VERSION => VERSION,
            REGISTER_ARBITRATION => self.state.id,
            _ => match index.checked_sub(REGISTER_TABLE).and_then(|n| self.state.entries.get(usize::from(n / 2))) {
                Some(entry) if index & 1 == 0 => *entry as u32,
                Some(entry) => (*entry >> 32) as u32,
                None => 0,
            },
        }
    }

    fn set_register(&mut self, index: u8, value: u32, deliver: Deliver<'_>) {
        if index == REGISTER_ID {
            self.state.id = value & 0x0F00_0000;
            return;
        }
        let Some(pin) = index.checked_sub(REGISTER_TABLE).map(|n| usize::from(n / 2)) else {
            return;
        };
        let Some(entry) = self.state.entries.get_mut(pin) else {
            return;
        };
        let new = if index & 1 == 0 {
            *entry & !0xFFFF_FFFF | u64::from(value)
        } else {
            *entry & 0xFFFF_FFFF | u64::from(value) << 32
        };
        *entry = new & WRITABLE | *entry & READ_ONLY;
        if *entry & LEVEL == 0 {
            // Linux clears a stuck remote IRR by a detour over edge mode (its __eoi_ioapic_pin).
            *entry &= !REMOTE_IRR;
        }
        self.serve_level(pin, deliver);
    }

    /// Everything, as numbers.
    #[must_use]
    pub const fn save(&self) -> IoapicState {
        self.state
    }

    /// Continues from `state`, without sending anything.
    ///
    /// # Errors
    /// Reserved bits are set; nothing was changed.
    pub fn restore(&mut self, state: &IoapicState) -> Result<(), IoapicStateError> {
        let legal = state.lines >> PINS == 0
            && state.id & !0x0F00_0000 == 0
            && state.select <= 0xFF
            && state
                .entries
                .iter()
                .all(|entry| entry & !(WRITABLE | REMOTE_IRR) == 0 && entry & (LEVEL | REMOTE_IRR) != REMOTE_IRR);
        if !legal {
            return Err(IoapicStateError);
        }
        self.state = *state;
        Ok(())
    }
}

/// Sends what `entry` says; false if it says nothing a CPU could take.
fn deliver_entry(entry: u64, deliver: Deliver<'_>) -> bool {
    let mode = match DeliveryMode::from_bits((entry >> 8) as u32) {
        Some(mode @ (DeliveryMode::Fixed | DeliveryMode::LowestPriority | DeliveryMode::Nmi)) => mode,
        _ => return false,
    };
    deliver(InterruptMessage {
        vector: entry as u8,
        mode,
        destination: destination8((entry >> 56) as u32, entry & LOGICAL != 0),
        level: entry & LEVEL != 0 && mode != DeliveryMode::Nmi,
    });
    mode != DeliveryMode::Nmi
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::message::Destination;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn program(ioapic: &mut Ioapic, pin: u32, entry: u64) -> Vec<InterruptMessage> {
        let mut sent = Vec::new();
        // Linux writes the high half first, then the low half that unmasks.
        for (register, value) in [(0x11 + 2 * pin, (entry >> 32) as u32), (0x10 + 2 * pin, entry as u32)] {
            ioapic.write(0x00, register, &mut |message| sent.push(message));
            ioapic.write(0x10, value, &mut |message| sent.push(message));
        }
        sent
    }

    fn line(ioapic: &mut Ioapic, pin: usize, asserted: bool) -> Vec<InterruptMessage> {
        let mut sent = Vec::new();
        ioapic.set_line(pin, asserted, &mut |message| sent.push(message));
        sent
    }

    #[test]
    fn identification() {
        let mut ioapic = Ioapic::new(2);
        ioapic.write(0, 1, &mut |_| {});
        assert_eq!(ioapic.read(0x10), 0x0017_0020);
        ioapic.write(0, 0, &mut |_| {});
        assert_eq!(ioapic.read(0x10), 0x0200_0000);
        ioapic.write(0, 0x10, &mut |_| {});
        assert_eq!(ioapic.read(0x10), 0x0001_0000);
    }

    #[test]
    fn edge_pins() {
        let mut ioapic = Ioapic::new(0);
        assert!(line(&mut ioapic, 4, true).is_empty());
        assert!(program(&mut ioapic, 4, 0x0100_0000_0000_0024).is_empty());
        // The edge came while the pin was masked: it is gone. The next one counts, once.
        assert!(line(&mut ioapic, 4, true).is_empty());
        assert!(line(&mut ioapic, 4, false).is_empty());
        let sent = line(&mut ioapic, 4, true);
        assert_eq!(
            sent,
            [InterruptMessage {
                vector: 0x24,
                mode: DeliveryMode::Fixed,
                destination: Destination::Physical(1),
                level: false
            }]
        );
    }

    #[test]
    fn level_pins_wait_for_the_end() {
        let mut ioapic = Ioapic::new(0);
        program(&mut ioapic, 9, 0x0000_0000_0000_8031);
        assert_eq!(line(&mut ioapic, 9, true).len(), 1);
        ioapic.write(0, 0x22, &mut |_| {});
        assert_eq!(ioapic.read(0x10), 0xC031);
        assert!(line(&mut ioapic, 9, false).is_empty());
        assert!(line(&mut ioapic, 9, true).is_empty());
        let mut again = 0;
        ioapic.end_of_interrupt(0x30, &mut |_| again += 1);
        assert_eq!(again, 0);
        ioapic.end_of_interrupt(0x31, &mut |_| again += 1);
        assert_eq!(again, 1);
        assert!(line(&mut ioapic, 9, false).is_empty());
        ioapic.write(0x40, 0x31, &mut |_| again += 1);
        assert_eq!((again, ioapic.read(0x10)), (1, 0x8031));
    }

    #[test]
    fn unmasking_delivers_an_asserted_level() {
        let mut ioapic = Ioapic::new(0);
        program(&mut ioapic, 10, 0x0001_8041);
        assert!(line(&mut ioapic, 10, true).is_empty());
        let sent = program(&mut ioapic, 10, 0xFF00_0000_0000_8041);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].destination, Destination::All);
        assert!(sent[0].level);
    }

    #[test]
    fn edge_mode_clears_remote_irr() {
        let mut ioapic = Ioapic::new(0);
        program(&mut ioapic, 9, 0x8031);
        assert_eq!(line(&mut ioapic, 9, true).len(), 1);
        program(&mut ioapic, 9, 0x0001_0031);
        ioapic.write(0, 0x22, &mut |_| {});
        assert_eq!(ioapic.read(0x10), 0x0001_0031);
    }

    #[test]
    fn state_survives_and_is_checked() {
        let mut old = Ioapic::new(1);
        program(&mut old, 9, 0x8031);
        assert_eq!(line(&mut old, 9, true).len(), 1);
        let state = old.save();
        let mut new = Ioapic::new(1);
        assert_eq!(new.restore(&state), Ok(()));
        let mut again = 0;
        new.end_of_interrupt(0x31, &mut |_| again += 1);
        assert_eq!(again, 1);
        assert_eq!(new.restore(&IoapicState { lines: 1 << 24, ..state }), Err(IoapicStateError));
        assert_eq!(new.restore(&IoapicState { entries: [1 << 20; PINS], ..state }), Err(IoapicStateError));
    }

    proptest! {
        #[test]
        fn no_access_panics(accesses in proptest::collection::vec((any::<u8>(), any::<u64>(), any::<u32>()), 1..100)) {
            let mut ioapic = Ioapic::new(0);
            let mut sent = 0u32;
            for (kind, offset, value) in accesses {
                match kind & 3 {
                    0 => ioapic.write(0, value, &mut |_| sent += 1),
                    1 => ioapic.write(if kind & 4 == 0 { 0x10 } else { offset }, value, &mut |_| sent += 1),
                    2 => { let _ = ioapic.read(offset); let _ = ioapic.read(0x10); }
                    _ => ioapic.set_line(offset as usize & 31, value & 1 != 0, &mut |_| sent += 1),
                }
            }
            let state = ioapic.save();
            prop_assert_eq!(ioapic.restore(&state), Ok(()));
        }
    }
}
