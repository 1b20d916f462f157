//! The virtual base address registers of one function (PCI 3.0 6.2.5.1).

use core::ops::Range;

use machine::addr::{GuestPhys, HostPhys, PAGE_SIZE};
use machine::pci::Bdf;

use super::access::BarDescription;
use super::config::masked;

/// BAR registers of a function.
pub const BARS: usize = 6;

/// The largest BAR offered: what a 52-bit physical address space can hold with room to spare.
const LARGEST: u64 = 1 << 46;
const SMALLEST: u64 = 16;

/// A BAR that is (or is to be) visible at an address of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarMapping {
    /// The physical function.
    pub device: Bdf,
    /// BAR number.
    pub bar: u8,
    /// Where the guest put it.
    pub guest: GuestPhys,
    /// Where it is.
    pub host: HostPhys,
    /// Its size in bytes.
    pub bytes: u64,
    /// Byte offsets that must not be mapped: accesses come to the bus. Whole pages, or all of a BAR that
    /// shares its page with something else.
    pub trapped: Range<u64>,
}

/// A change to the guest's nested page table that its PCI configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BarChange {
    /// The BAR is no longer there.
    Unmap(BarMapping),
    /// The BAR is there now.
    Map(BarMapping),
}

#[derive(Clone, Debug)]
pub(super) struct Bar {
    pub description: BarDescription,
    pub trapped: Range<u64>,
    /// Where the guest sees it now.
    pub active: Option<u64>,
    /// Where the integrator was last told that the guest sees it.
    pub applied: Option<u64>,
}

/// The registers and what is behind them.
#[derive(Clone, Debug)]
pub(super) struct Bars {
    registers: [u32; BARS],
    bars: [Option<Bar>; BARS],
}

/// Why a set of [`BarDescription`]s is impossible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadBar(pub u8);

impl Bars {
    pub(super) fn new(descriptions: &[BarDescription]) -> Result<Self, BadBar> {
        let mut bars = [const { None }; BARS];
        for description in descriptions {
            let index = description.index;
            let bytes = description.bytes;
            let fits = if description.wide { bytes <= LARGEST && index < 5 } else { bytes <= 1 << 31 };
            let upper_is_free = !description.wide || bars.get(usize::from(index) + 1).is_some_and(Option::is_none);
            let lower_is_narrow = match usize::from(index).checked_sub(1).and_then(|lower| bars.get(lower)) {
                Some(Some(lower)) => !Bar::is_wide(lower),
                _ => true,
            };
            let legal = bytes.is_power_of_two()
                && bytes >= SMALLEST
                && fits
                && upper_is_free
                && lower_is_narrow
                && description.host.is_aligned(bytes);
            match bars.get_mut(usize::from(index)) {
                Some(slot @ None) if legal => {
                    // A BAR smaller than a page shares it with other registers of the machine.
                    let trapped = if bytes < PAGE_SIZE { 0..bytes } else { 0..0 };
                    *slot = Some(Bar { description: *description, trapped, active: None, applied: None });
                }
                _ => return Err(BadBar(index)),
            }
        }
        Ok(Self { registers: [0; BARS], bars })
    }

    pub(super) fn get(&self, index: u8) -> Option<&Bar> {
        self.bars.get(usize::from(index)).and_then(Option::as_ref)
    }

    pub(super) fn get_mut(&mut self, index: u8) -> Option<&mut Bar> {
        self.bars.get_mut(usize::from(index)).and_then(Option::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bar> {
        self.bars.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Bar> {
        self.bars.iter_mut().flatten()
    }

    /// Register bits that hold the address, and the fixed low bits.
    fn format(&self, register: usize) -> (u32, u32) {
        if let Some(Some(bar)) = self.bars.get(register) {
            let size = bar.description.bytes;
            let kind = if bar.description.wide { 4 } else { 0 } | if bar.description.prefetchable { 8 } else { 0 };
            return ((!(size - 1)) as u32 & !0xF, kind);
        }
        match register.checked_sub(1).and_then(|lower| self.bars.get(lower)) {
            Some(Some(lower)) if lower.is_wide() => ((!(lower.description.bytes - 1) >> 32) as u32, 0),
            _ => (0, 0),
        }
    }

    pub(super) fn read(&self, register: usize) -> u32 {
        let (_, fixed) = self.format(register);
        self.registers.get(register).copied().unwrap_or(0) | fixed
    }

    pub(super) fn write(&mut self, register: usize, value: u32, mask: u32) {
        let (address, _) = self.format(register);
        if let Some(slot) = self.registers.get_mut(register) {
            *slot = masked(*slot, value, mask) & address;
        }
    }

    /// The address in the registers of `bar`.
    pub(super) fn address(&self, bar: &Bar) -> u64 {
        let index = usize::from(bar.description.index);
        let register = |n: usize| u64::from(self.registers.get(n).copied().unwrap_or(0));
        let high = if bar.is_wide() { register(index + 1) << 32 } else { 0 };
        high | register(index)
    }

    /// Puts `bar` at `address`, as firmware would.
    pub(super) fn assign(&mut self, bar: u8, address: u64) {
        let index = usize::from(bar);
        self.write(index, address as u32, u32::MAX);
        if self.get(bar).is_some_and(Bar::is_wide) {
            self.write(index + 1, (address >> 32) as u32, u32::MAX);
        }
    }

    pub(super) const fn registers(&self) -> [u32; BARS] {
        self.registers
    }

    /// Takes saved registers, if their bits are such as a guest can set.
    pub(super) fn set_registers(&mut self, registers: [u32; BARS]) -> bool {
        let legal = registers.iter().enumerate().all(|(index, value)| value & !self.format(index).0 == 0);
        if legal {
            self.registers = registers;
        }
        legal
    }

    pub(super) fn clear_registers(&mut self) {
        self.registers = [0; BARS];
    }
}

impl Bar {
    pub(super) const fn is_wide(&self) -> bool {
        self.description.wide
    }

    pub(super) fn mapping(&self, device: Bdf, guest: u64) -> BarMapping {
        BarMapping {
            device,
            bar: self.description.index,
            guest: GuestPhys(guest),
            host: self.description.host,
            bytes: self.description.bytes,
            trapped: self.trapped.clone(),
        }
    }

    /// The addresses the BAR takes when it is at `address`; `None` beyond the address space.
    pub(super) fn range_at(&self, address: u64) -> Option<Range<u64>> {
        Some(address..address.checked_add(self.description.bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(index: u8, wide: bool, bytes: u64) -> BarDescription {
        BarDescription { index, wide, prefetchable: false, host: HostPhys(0), bytes }
    }

    #[test]
    fn sizing() {
        let mut bars = Bars::new(&[bar(0, true, 0x4000), bar(2, false, 0x1000), bar(4, true, 1 << 33)]).expect("legal");
        for register in 0..BARS {
            bars.write(register, u32::MAX, u32::MAX);
        }
        let read: alloc::vec::Vec<u32> = (0..BARS).map(|register| bars.read(register)).collect();
        assert_eq!(read, [0xFFFF_C004, 0xFFFF_FFFF, 0xFFFF_F000, 0, 0x0000_0004, 0xFFFF_FFFE]);
    }

    #[test]
    fn bytes_of_a_register() {
        let mut bars = Bars::new(&[bar(0, true, 0x4000)]).expect("legal");
        bars.assign(0, 0x12_FEB0_4000);
        assert_eq!((bars.read(0), bars.read(1)), (0xFEB0_4004, 0x12));
        bars.write(0, 0x0080_0000, 0x00FF_0000);
        assert_eq!(bars.address(bars.get(0).expect("there")), 0x12_FE80_4000);
    }

    #[test]
    fn impossible_sets_are_refused() {
        for (descriptions, culprit) in [
            (&[bar(5, true, 0x1000)][..], 5),
            (&[bar(6, false, 0x1000)], 6),
            (&[bar(0, false, 0x1800)], 0),
            (&[bar(0, false, 8)], 0),
            (&[bar(0, true, 0x1000), bar(1, false, 0x1000)], 1),
            (&[bar(1, false, 0x1000), bar(0, true, 0x1000)], 0),
            (&[bar(0, false, 1 << 32)], 0),
            (&[bar(0, true, 0)], 0),
            (&[bar(0, true, 1 << 47)], 0),
            (&[bar(255, true, 0x1000)], 255),
        ] {
            assert_eq!(Bars::new(descriptions).err(), Some(BadBar(culprit)));
        }
    }
}
