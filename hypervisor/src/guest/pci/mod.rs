//! PCI bus 0 of a guest: a host bridge and the assigned functions.
//!
//! - [`access`]: traits to the hardware and to the interrupt routing.
//! - `host_bridge`, `function`: what is on the bus.
//! - `error`, `state`: why it refuses, what it saves.
//! - `capabilities`, `bars`, `msi`, `msix`: the parts of a function that are virtual.
//! - here: configuration mechanisms, BAR placement, dispatch.

pub mod access;
mod bars;
mod capabilities;
mod config;
mod error;
mod function;
mod host_bridge;
mod msi;
mod msix;
mod state;

use alloc::boxed::Box;
use alloc::vec::Vec;

use guest_loader::layout::GuestRange;
use machine::pci::Bdf;

use self::access::{InterruptRouter, ResetError, RouteError};
pub use self::bars::{BARS, BarChange, BarMapping};
use self::config::ones;
pub use self::error::PciError;
pub use self::function::Passthrough;
pub use self::msi::MsiState;
pub use self::msix::{MsixEntryState, MsixState};
pub use self::state::PciFunctionState;

/// Slots 1 to 31; 0 is the host bridge.
const SLOTS: usize = 31;
const LATCH_ENABLE: u32 = 1 << 31;
/// Bits 27:24 extend the register number, as AMD's processors have it (`NB_CFG.EnableCf8ExtCfg`).
const LATCH_WRITABLE: u32 = 0x8FFF_FFFC;
/// 64-bit BARs of this size and more leave the 32-bit window to those who need it.
const LARGE_BAR: u64 = 64 << 20;
const PAGE: u64 = 4096;

/// What went wrong on the bus since power-on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PciCounters {
    /// Times a BAR was placed where it cannot be: over RAM, another BAR, an APIC.
    pub withheld: u64,
    /// Interrupts that could not be routed.
    pub route_failures: u64,
    /// The last reason for that.
    pub last_route_error: Option<RouteError>,
    /// Function resets that failed.
    pub reset_failures: u64,
}

/// The whole bus. Numbers only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PciState {
    /// The assigned functions in the order of their slots.
    pub functions: Vec<PciFunctionState>,
    /// The address register of configuration mechanism 1.
    pub latch: u32,
}

/// Bus 0.
pub struct PciBus {
    functions: Vec<Passthrough>,
    latch: u32,
    router: Box<dyn InterruptRouter>,
    /// Where no BAR may be: RAM, APICs, ECAM.
    blocked: Vec<GuestRange>,
    /// First address beyond the guest's physical address space.
    address_end: u64,
    counters: PciCounters,
    /// Rises with whatever may alter a function.
    changes: u64,
}

impl PciBus {
    /// An empty bus. No BAR is mapped over a `blocked` range or beyond `address_bits`.
    #[must_use]
    pub fn new(router: Box<dyn InterruptRouter>, blocked: Vec<GuestRange>, address_bits: u8) -> Self {
        let address_end = 1u64.checked_shl(u32::from(address_bits)).unwrap_or(u64::MAX);
        Self {
            functions: Vec::new(),
            latch: 0,
            router,
            blocked,
            address_end,
            counters: PciCounters::default(),
            changes: 0,
        }
    }

    /// Plugs `function` into the next slot, which it returns (1 to 31).
    ///
    /// # Errors
    /// All slots are taken.
    pub fn add(&mut self, function: Passthrough) -> Result<u8, PciError> {
        if self.functions.len() >= SLOTS {
            return Err(PciError::NoSlot(function.device()));
        }
        self.functions.push(function);
        Ok(u8::try_from(self.functions.len()).unwrap_or(u8::MAX))
    }

    /// Gives every BAR an address, as firmware would, largest first. Decoding stays off.
    ///
    /// # Errors
    /// A BAR does not fit; the ones before it are placed.
    pub fn assign_bars(&mut self, low: GuestRange, high: GuestRange) -> Result<(), PciError> {
        let mut wanted: Vec<(usize, u8, u64, bool)> = Vec::new();
        for (position, function) in self.functions.iter().enumerate() {
            wanted.extend(function.bars.iter().map(|bar| {
                let description = bar.description;
                (position, description.index, description.bytes, description.wide)
            }));
        }
        wanted.sort_by_key(|(_, _, bytes, _)| core::cmp::Reverse(*bytes));
        let mut windows = [low, high].map(|window| (window.start.get(), window.end().get().min(self.address_end)));
        for (position, bar, bytes, wide) in wanted {
            let order: &[usize] = match (wide, bytes >= LARGE_BAR) {
                (false, _) => &[0],
                (true, false) => &[0, 1],
                (true, true) => &[1, 0],
            };
            let place = order.iter().find_map(|window| {
                let (next, end) = windows.get_mut(*window)?;
                // Each BAR has its pages for itself.
                let size = bytes.max(PAGE);
                let start = free_place(&self.blocked, *next, size)?;
                let behind = start.checked_add(size).filter(|behind| *behind <= *end)?;
                *next = behind;
                Some(start)
            });
            let Some(function) = self.functions.get_mut(position) else {
                continue;
            };
            match place {
                Some(start) => function.bars.assign(bar, start),
                None => return Err(PciError::NoRoom(function.device(), bar)),
            }
        }
        Ok(())
    }

    /// The assigned functions in the order of their slots.
    #[must_use]
    pub fn functions(&self) -> &[Passthrough] {
        &self.functions
    }

    /// Rises with whatever may alter what [`save`](Self::save) says of the functions.
    #[must_use]
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// What went wrong so far.
    #[must_use]
    pub const fn counters(&self) -> PciCounters {
        self.counters
    }

    /// IN from 0xCF8 to 0xCFF.
    pub fn port_read(&mut self, port: u16, width: u8) -> u32 {
        match (port, width) {
            (0xCF8, 4) => self.latch,
            (0xCFC..=0xCFF, _) => match self.latched(port) {
                Some((bus, slot, offset)) => self.config_read(bus, slot, offset, width),
                None => ones(width),
            },
            _ => ones(width),
        }
    }

    /// OUT to 0xCF8 to 0xCFF. Only a dword reaches the address register (PCI 3.0 3.2.2.3.2).
    pub fn port_write(&mut self, port: u16, width: u8, value: u32) {
        match (port, width) {
            (0xCF8, 4) => self.latch = value & LATCH_WRITABLE,
            (0xCFC..=0xCFF, _) => {
                if let Some((bus, slot, offset)) = self.latched(port) {
                    self.config_write(bus, slot, offset, width, value);
                }
            }
            _ => {}
        }
    }

    /// Bus, device and function, and offset that a data port stands for.
    const fn latched(&self, port: u16) -> Option<(u8, u8, u16)> {
        if self.latch & LATCH_ENABLE == 0 {
            return None;
        }
        let offset = (self.latch & 0xFC | self.latch >> 16 & 0xF00) as u16 | port & 3;
        Some(((self.latch >> 16) as u8, (self.latch >> 8) as u8, offset))
    }

    /// A load of `width` bytes at `offset` of bus 0's ECAM (PCIe 7.2.2).
    pub fn ecam_read(&mut self, offset: u64, width: u8) -> u64 {
        let (bus, slot, register) = ecam(offset);
        if width == 8 && register & 7 == 0 {
            let low = self.config_read(bus, slot, register, 4);
            let high = self.config_read(bus, slot, register + 4, 4);
            return u64::from(low) | u64::from(high) << 32;
        }
        if width == 8 { u64::MAX } else { u64::from(self.config_read(bus, slot, register, width)) }
    }

    /// A store, likewise.
    pub fn ecam_write(&mut self, offset: u64, width: u8, value: u64) {
        let (bus, slot, register) = ecam(offset);
        if width != 8 {
            self.config_write(bus, slot, register, width, value as u32);
        } else if register & 7 == 0 {
            self.config_write(bus, slot, register, 4, value as u32);
            self.config_write(bus, slot, register + 4, 4, (value >> 32) as u32);
        }
    }

    /// The function at device 1 to 31, function 0.
    fn position(slot: u8) -> Option<usize> {
        if slot & 7 == 0 { usize::from(slot >> 3).checked_sub(1) } else { None }
    }

    fn config_read(&mut self, bus: u8, slot: u8, offset: u16, width: u8) -> u32 {
        if bus != 0 || config::lanes(offset, width, 0).is_none() {
            return ones(width);
        }
        let dword = if slot == 0 {
            host_bridge::read_dword(offset & !3)
        } else {
            match Self::position(slot).and_then(|position| self.functions.get_mut(position)) {
                Some(function) if !function.removed => {
                    function.read_dword(offset & !3, &mut *self.router, &mut self.counters)
                }
                _ => return ones(width),
            }
        };
        dword >> (u32::from(offset & 3) * 8) & ones(width)
    }

    fn config_write(&mut self, bus: u8, slot: u8, offset: u16, width: u8, value: u32) {
        let Some((value, mask)) = config::lanes(offset, width, value) else {
            return;
        };
        if bus != 0 {
            return;
        }
        let function = Self::position(slot).and_then(|position| self.functions.get_mut(position));
        if let Some(function) = function.filter(|function| !function.removed) {
            self.changes += 1;
            function.write_dword(offset & !3, value, mask, &mut *self.router, &mut self.counters);
            self.reconcile();
        }
    }

    /// Lets the BARs be where the registers say, as far as they may. A BAR that is in place keeps it.
    fn reconcile(&mut self) {
        for position in 0..self.functions.len() {
            for index in 0..BARS as u8 {
                self.reconcile_bar(position, index);
            }
        }
    }

    fn reconcile_bar(&mut self, position: usize, index: u8) {
        let Some(function) = self.functions.get(position) else {
            return;
        };
        let Some(bar) = function.bars.get(index) else {
            return;
        };
        let wanted = function.decodes_memory().then(|| function.bars.address(bar));
        if wanted == bar.active {
            return;
        }
        let granted = wanted.filter(|address| self.is_free(position, index, *address));
        if wanted.is_some() && granted.is_none() {
            self.counters.withheld = self.counters.withheld.saturating_add(1);
        }
        if let Some(bar) = self.functions.get_mut(position).and_then(|function| function.bars.get_mut(index)) {
            bar.active = granted;
        }
    }

    /// Whether BAR `index` of the function at `position` may be at `address`.
    fn is_free(&self, position: usize, index: u8, address: u64) -> bool {
        let Some(range) = self
            .functions
            .get(position)
            .and_then(|function| function.bars.get(index))
            .and_then(|bar| bar.range_at(address))
        else {
            return false;
        };
        let overlaps = |start: u64, end: u64| range.start < end && start < range.end;
        // A BAR of a page or more has its pages for itself by its alignment; smaller ones are never mapped.
        range.end <= self.address_end
            && !self.blocked.iter().any(|blocked| overlaps(blocked.start.get(), blocked.end().get()))
            && !self.functions.iter().enumerate().any(|(other, function)| {
                function.bars.iter().any(|bar| {
                    (other, bar.description.index) != (position, index)
                        && bar
                            .active
                            .and_then(|address| bar.range_at(address))
                            .is_some_and(|taken| overlaps(taken.start, taken.end))
                })
            })
    }

    /// What the nested page table must follow since the last call: first all that goes, then all
    /// that comes. To be done (with TLB flushes) before the vCPU enters again.
    pub fn take_bar_changes(&mut self) -> Vec<BarChange> {
        let mut gone = Vec::new();
        let mut come = Vec::new();
        for function in &mut self.functions {
            let device = function.device();
            for bar in function.bars.iter_mut().filter(|bar| bar.active != bar.applied) {
                gone.extend(bar.applied.map(|address| BarChange::Unmap(bar.mapping(device, address))));
                come.extend(bar.active.map(|address| BarChange::Map(bar.mapping(device, address))));
                bar.applied = bar.active;
            }
        }
        gone.append(&mut come);
        gone
    }

    /// Whether [`take_bar_changes`](Self::take_bar_changes) has something to say.
    #[must_use]
    pub fn has_bar_changes(&self) -> bool {
        self.functions.iter().any(|function| function.bars.iter().any(|bar| bar.active != bar.applied))
    }

    /// A load from a trapped part of a BAR; `None` if there is none at `address`.
    pub fn mmio_read(&mut self, address: u64, width: u8) -> Option<u64> {
        self.functions.iter_mut().find_map(|function| {
            let (bar, offset) = function.find(address, width)?;
            Some(function.bar_read(bar, offset, width))
        })
    }

    /// A store to a trapped part of a BAR; false if there is none at `address`.
    pub fn mmio_write(&mut self, address: u64, width: u8, value: u64) -> bool {
        for function in &mut self.functions {
            if let Some((bar, offset)) = function.find(address, width) {
                self.changes += 1;
                function.bar_write(bar, offset, width, value, &mut *self.router, &mut self.counters);
                return true;
            }
        }
        false
    }

    /// Tries again to route what the router refused, say with [`RouteError::Busy`] during an
    /// upgrade. Until then the entries are masked, and the devices' pending bits keep what arrives.
    pub fn retry_routes(&mut self) {
        self.changes += 1;
        for function in &mut self.functions {
            function.retry_routes(&mut *self.router, &mut self.counters);
        }
    }

    /// Stops DMA and interrupts of every function and gives all routes back: the guest has ended.
    pub fn quiesce(&mut self) {
        self.changes += 1;
        for function in &mut self.functions {
            function.quiesce(&mut *self.router, &mut self.counters);
        }
        self.reconcile();
    }

    /// Takes `device` away from the guest, which runs on: reads of it give all ones, its BARs are gone.
    pub fn remove(&mut self, device: Bdf) {
        self.changes += 1;
        if let Some(function) = self.functions.iter_mut().find(|function| function.device == device) {
            function.remove(&mut *self.router, &mut self.counters);
        }
        self.reconcile();
    }

    /// A function that the image before this one took away is still away. Touches no hardware.
    pub fn mark_removed(&mut self, device: Bdf) {
        self.changes += 1;
        if let Some(function) = self.functions.iter_mut().find(|function| function.device == device) {
            function.removed = true;
        }
    }

    /// Stops, resets and unplugs every function: the guest has ended, and the functions are its own no more. Returns those
    /// that could not be reset.
    pub fn retire(&mut self) -> Vec<(Bdf, ResetError)> {
        self.changes += 1;
        let mut broken = Vec::new();
        for mut function in core::mem::take(&mut self.functions) {
            if let Err(error) = function.reset(&mut *self.router, &mut self.counters) {
                broken.push((function.device(), error));
            }
        }
        broken
    }

    /// Resets every function and the bus, for the guest's next life.
    pub fn reset(&mut self) {
        self.latch = 0;
        self.changes += 1;
        for function in &mut self.functions {
            // What could not be reset is counted.
            let _reset = function.reset(&mut *self.router, &mut self.counters);
        }
        self.reconcile();
    }

    /// Everything. BAR changes not yet taken are found again after [`restore`](Self::restore).
    #[must_use]
    pub fn save(&self) -> PciState {
        let mut state = PciState::default();
        self.save_into(&mut state);
        state
    }

    /// Likewise, into a state of this bus that was saved before: takes no memory.
    pub fn save_into(&self, state: &mut PciState) {
        state.latch = self.latch;
        state.functions.resize_with(self.functions.len(), PciFunctionState::default);
        self.functions.iter().zip(&mut state.functions).for_each(|(function, state)| function.save_into(state));
    }

    /// The address register of configuration mechanism 1: all that is not a function's.
    #[must_use]
    pub const fn latch(&self) -> u32 {
        self.latch
    }

    /// Puts it back.
    pub const fn set_latch(&mut self, latch: u32) {
        self.latch = latch & LATCH_WRITABLE;
    }

    /// Continues from `state` on a bus with the same functions, without a write to hardware or a call
    /// to the router: routes stay as they are. On error the bus is not to be used.
    ///
    /// # Errors
    /// The state is of other functions or damaged.
    pub fn restore(&mut self, state: &PciState) -> Result<(), PciError> {
        if state.functions.len() != self.functions.len() {
            return Err(PciError::FunctionCount { record: state.functions.len(), present: self.functions.len() });
        }
        for (function, state) in self.functions.iter_mut().zip(&state.functions) {
            function.restore(state)?;
        }
        for (position, function) in self.functions.iter().enumerate() {
            for bar in function.bars.iter() {
                if bar.active.is_some_and(|address| !self.is_free(position, bar.description.index, address)) {
                    return Err(PciError::State(function.device(), "a BAR mapped where none may be"));
                }
            }
        }
        self.set_latch(state.latch);
        self.reconcile();
        Ok(())
    }
}

/// The first multiple of `size` from `next` on where `size` bytes meet no blocked range.
fn free_place(blocked: &[GuestRange], next: u64, size: u64) -> Option<u64> {
    let mut start = next.checked_next_multiple_of(size)?;
    loop {
        let end = start.checked_add(size)?;
        let in_the_way = blocked.iter().find(|range| start < range.end().get() && range.start.get() < end);
        match in_the_way {
            // Each step passes one of the ranges for good.
            Some(range) => start = range.end().get().checked_next_multiple_of(size)?,
            None => return Some(start),
        }
    }
}

/// Bus, device and function, and offset of an ECAM address.
const fn ecam(offset: u64) -> (u8, u8, u16) {
    ((offset >> 20) as u8, (offset >> 12) as u8, (offset & 0xFFF) as u16)
}

#[cfg(test)]
mod isolation_tests;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
