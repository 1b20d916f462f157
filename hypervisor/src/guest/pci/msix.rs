//! MSI-X of an assigned function (PCI 3.0 6.8.2): the guest's table is a shadow, the physical
//! one holds what the host's interrupt remapping wants.
//!
//! An entry the guest has masked is masked in hardware too, so the device's pending bit keeps
//! what arrives meanwhile; function mask goes to hardware for the same reason.

use alloc::vec::Vec;
use core::ops::Range;

use machine::addr::PAGE_SIZE;

use super::access::{Context, Route};
use super::config::masked;
use crate::guest::message::MsiMessage;

const CONTROL_ENABLE: u32 = 1 << 15;
const CONTROL_MASK: u32 = 1 << 14;
const CONTROL_SIZE: u32 = 0x7FF;
const ENTRY_BYTES: u64 = 16;
const ENTRY_MASKED: u32 = 1;

/// One entry of the guest's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MsixEntryState {
    /// The guest's message.
    pub guest: MsiMessage,
    /// The guest's message when it was routed, if `routed`.
    pub routed_guest: MsiMessage,
    /// What the physical entry holds, if `routed`.
    pub host: MsiMessage,
    /// Vector control; bit 0 masks.
    pub control: u32,
    /// 1 if the entry has a route.
    pub routed: u32,
    /// 1 while the physical entry is unmasked.
    pub open: u32,
}

/// MSI-X of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MsixState {
    /// All entries of the table.
    pub entries: Vec<MsixEntryState>,
    /// 1 while enabled.
    pub enabled: u32,
    /// 1 while the whole function is masked.
    pub function_masked: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    message: MsiMessage,
    control: u32,
    route: Option<Route>,
    /// The physical entry is unmasked.
    open: bool,
}

impl Entry {
    /// After reset every entry is masked.
    const RESET: Self =
        Self { message: MsiMessage { address: 0, data: 0 }, control: ENTRY_MASKED, route: None, open: false };
}

/// Table or pending bits: a BAR and a byte offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u32);

impl Place {
    const fn bar(self) -> u8 {
        (self.0 & 7) as u8
    }
    const fn offset(self) -> u64 {
        (self.0 & !7) as u64
    }
}

#[derive(Clone, Debug)]
pub(super) struct Msix {
    offset: u16,
    table: Place,
    pending: Place,
    enabled: bool,
    function_masked: bool,
    entries: Vec<Entry>,
}

impl Msix {
    /// From the physical capability's control, table and PBA registers.
    pub(super) fn new(offset: u16, control: u32, table: u32, pending: u32) -> Self {
        let count = (control & CONTROL_SIZE) as usize + 1;
        Self {
            offset,
            table: Place(table),
            pending: Place(pending),
            enabled: false,
            function_masked: false,
            entries: alloc::vec![Entry::RESET; count],
        }
    }

    pub(super) const fn table_bar(&self) -> u8 {
        self.table.bar()
    }

    /// The table's bytes in its BAR.
    pub(super) fn table_range(&self) -> Range<u64> {
        let start = self.table.offset();
        start..start + self.entries.len() as u64 * ENTRY_BYTES
    }

    /// The pages of the BAR that hold the table.
    pub(super) fn table_pages(&self) -> Range<u64> {
        let table = self.table_range();
        table.start & !(PAGE_SIZE - 1)..table.end.next_multiple_of(PAGE_SIZE)
    }

    fn control(&self) -> u32 {
        let flag = |set, bit| if set { bit } else { 0 };
        self.entries.len().saturating_sub(1) as u32 & CONTROL_SIZE
            | flag(self.enabled, CONTROL_ENABLE)
            | flag(self.function_masked, CONTROL_MASK)
    }

    /// The dword at byte `at` of the capability, without the list header.
    pub(super) fn read(&self, at: u16) -> u32 {
        match at {
            0 => self.control() << 16,
            4 => self.table.0,
            8 => self.pending.0,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, at: u16, value: u32, mask: u32, context: &mut Context<'_>) {
        if at != 0 {
            return;
        }
        let control = masked(self.control() << 16, value, mask) >> 16;
        let (was_enabled, was_masked) = (self.enabled, self.function_masked);
        self.enabled = control & CONTROL_ENABLE != 0;
        self.function_masked = control & CONTROL_MASK != 0;
        match (was_enabled, self.enabled) {
            (false, true) => {
                // Entries whose route is yet to be made must not signal what someone left in them.
                for (index, _) in (0u16..).zip(&self.entries) {
                    context.hardware.write_entry(index, MsiMessage::default(), true);
                }
                self.write_control(context);
                for index in 0..self.entries.len() {
                    self.update(index, context);
                }
            }
            (true, false) => self.stop(context),
            (true, true) if was_masked != self.function_masked => self.write_control(context),
            _ => {}
        }
    }

    fn write_control(&self, context: &mut Context<'_>) {
        context.hardware.config_write(self.offset + 2, 2, self.control());
    }

    /// A load of the table; `at` is relative to it and aligned to `width`.
    pub(super) fn read_table(&self, at: u64, width: u8) -> u64 {
        let Some(entry) = usize::try_from(at / ENTRY_BYTES).ok().and_then(|index| self.entries.get(index)) else {
            return u64::MAX;
        };
        let word = |n: u64| match n {
            0 => entry.message.address as u32,
            1 => (entry.message.address >> 32) as u32,
            2 => entry.message.data,
            _ => entry.control,
        };
        let first = at % ENTRY_BYTES / 4;
        match width {
            8 => u64::from(word(first)) | u64::from(word(first + 1)) << 32,
            4 => u64::from(word(first)),
            // The specification wants dwords or quadwords; bytes are read as hardware mostly does.
            _ => u64::from(word(first)) >> (at % 4 * 8),
        }
    }

    /// A store to the table, likewise. Other widths than 4 and 8 are undefined and do nothing.
    pub(super) fn write_table(&mut self, at: u64, width: u8, value: u64, context: &mut Context<'_>) {
        let Ok(index) = usize::try_from(at / ENTRY_BYTES) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        let first = at % ENTRY_BYTES / 4;
        let words = match width {
            4 => &[(first, value as u32)][..],
            8 => &[(first, value as u32), (first + 1, (value >> 32) as u32)],
            _ => return,
        };
        for (word, value) in words {
            match word {
                // Address bits 1:0 are zero (PCI 3.0 6.8.2.6).
                0 => entry.message.address = entry.message.address & !0xFFFF_FFFF | u64::from(value & !3),
                1 => entry.message.address = entry.message.address & 0xFFFF_FFFF | u64::from(*value) << 32,
                2 => entry.message.data = *value,
                _ => entry.control = value & ENTRY_MASKED,
            }
        }
        self.update(index, context);
    }

    /// Makes the physical entry follow the guest's.
    fn update(&mut self, index: usize, context: &mut Context<'_>) {
        let (Some(entry), Ok(number)) = (self.entries.get_mut(index), u16::try_from(index)) else {
            return;
        };
        let wanted = self.enabled && entry.control & ENTRY_MASKED == 0;
        let current = entry.route.filter(|route| route.guest == entry.message);
        if entry.open && (!wanted || current.is_none()) {
            let host = entry.route.map(|route| route.host).unwrap_or_default();
            context.hardware.write_entry(number, host, true);
            entry.open = false;
        }
        if !wanted || entry.open {
            return;
        }
        if current.is_none() {
            entry.route = context.route(number, entry.message, entry.route);
        }
        if let Some(route) = entry.route {
            context.hardware.write_entry(number, route.host, false);
            entry.open = true;
        }
    }

    /// Tries again to route what could not be routed.
    pub(super) fn retry(&mut self, context: &mut Context<'_>) {
        for index in 0..self.entries.len() {
            self.update(index, context);
        }
    }

    /// Turns the hardware's MSI-X off and gives all routes back.
    pub(super) fn stop(&mut self, context: &mut Context<'_>) {
        self.enabled = false;
        self.write_control(context);
        self.release(context);
    }

    /// After a function reset: the hardware is off already.
    pub(super) fn reset(&mut self, context: &mut Context<'_>) {
        self.release(context);
        self.enabled = false;
        self.function_masked = false;
        self.entries.fill(Entry::RESET);
    }

    fn release(&mut self, context: &mut Context<'_>) {
        for (number, entry) in (0u16..).zip(&mut self.entries) {
            entry.open = false;
            if entry.route.take().is_some() {
                context.router.release(context.device, number);
            }
        }
    }

    pub(super) fn save_into(&self, state: &mut MsixState) {
        let entry = |entry: &Entry| {
            let route = entry.route.unwrap_or_default();
            MsixEntryState {
                guest: entry.message,
                routed_guest: route.guest,
                host: route.host,
                control: entry.control,
                routed: u32::from(entry.route.is_some()),
                open: u32::from(entry.open),
            }
        };
        state.entries.clear();
        state.entries.extend(self.entries.iter().map(entry));
        state.enabled = u32::from(self.enabled);
        state.function_masked = u32::from(self.function_masked);
    }

    /// Takes over without touching hardware. False if the state is impossible for this function.
    pub(super) fn restore(&mut self, state: &MsixState) -> bool {
        let entry_is_legal = |entry: &MsixEntryState| {
            (entry.control | entry.routed | entry.open) & !1 == 0
                && entry.open <= entry.routed
                && entry.routed <= state.enabled
                // What is open in hardware is what the guest wants open.
                && (entry.open == 0 || entry.control == 0 && entry.guest == entry.routed_guest)
        };
        if state.entries.len() != self.entries.len()
            || (state.enabled | state.function_masked) & !1 != 0
            || !state.entries.iter().all(entry_is_legal)
        {
            return false;
        }
        self.enabled = state.enabled != 0;
        self.function_masked = state.function_masked != 0;
        for (entry, saved) in self.entries.iter_mut().zip(&state.entries) {
            *entry = Entry {
                message: saved.guest,
                control: saved.control,
                route: (saved.routed != 0).then_some(Route { guest: saved.routed_guest, host: saved.host }),
                open: saved.open != 0,
            };
        }
        true
    }
}
