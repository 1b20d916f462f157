//! What a reset takes from a function that its place on the bus needs.

use crate::access::Width;
use crate::pci::capability::{find_extended, id};
use crate::pci::header::register;
use crate::pci::{Bdf, Command, ConfigSpace, Express};
use alloc::vec::Vec;

/// Registers of an endpoint that a reset clears and that place it on its bus and link: BARs and their sizes, payload sizes,
/// timeouts, power states of the link, access control services. What makes requests or interrupts is not among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedConfig {
    bdf: Bdf,
    command: Command,
    /// In the order in which they go back.
    registers: Vec<(u16, Width, u32)>,
}

/// Resizable BAR: bits 7:5 of the first control, how many there are (PCIe 7.8.6.3).
const RESIZABLE_COUNT: u32 = 5;

impl SavedConfig {
    /// Reads them.
    #[must_use]
    pub fn save(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Self {
        let mut saved = Self { bdf, command: Command::read(config, bdf), registers: Vec::new() };
        // Sizes before addresses.
        if let Some(offset) = find_extended(config, bdf, id::RESIZABLE_BAR, 0x0c) {
            let count = config.read32(bdf, offset + 8) >> RESIZABLE_COUNT & 7;
            for entry in 0..count.min(6) as u16 {
                saved.keep(config, offset + 8 + entry * 8, Width::Long, !0);
            }
        }
        for bar in 0..6 {
            saved.keep(config, register::BAR0 + bar * 4, Width::Long, !0);
        }
        saved.keep(config, register::ROM, Width::Long, !0);
        saved.keep(config, register::CACHE_LINE, Width::Word, !0);
        saved.keep(config, register::INTERRUPT, Width::Byte, !0);
        if let Some(offset) = find_extended(config, bdf, id::ACS, 8) {
            saved.keep(config, offset + 6, Width::Word, !0);
        }
        if let Some(offset) = find_extended(config, bdf, id::LATENCY, 8) {
            saved.keep(config, offset + 4, Width::Long, !0);
        }
        // Substates before the states they belong to; the power-on time first (PCIe 7.8.3.4).
        if let Some(offset) = find_extended(config, bdf, id::L1_SUBSTATES, 0x10) {
            saved.keep(config, offset + 0x0c, Width::Long, !0);
            saved.keep(config, offset + 0x08, Width::Long, !0);
        }
        for (offset, mask) in Express::find(config, bdf).iter().flat_map(Express::kept) {
            saved.keep(config, offset, Width::Word, mask.into());
        }
        saved
    }

    /// Writes them back, the command register last and without bus mastering: whoever
    /// gets the function turns that on, once its translation is in place.
    pub fn restore(&self, config: &(impl ConfigSpace + ?Sized)) {
        for &(offset, width, value) in &self.registers {
            config.write(self.bdf, offset, width, value);
        }
        (self.command - Command::BUS_MASTER).write(config, self.bdf);
    }

    /// Writes back the command register alone, as it was.
    pub(super) fn restore_command(&self, config: &(impl ConfigSpace + ?Sized)) {
        self.command.write(config, self.bdf);
    }

    fn keep(&mut self, config: &(impl ConfigSpace + ?Sized), offset: u16, width: Width, mask: u32) {
        if offset + u16::from(width.bytes()) <= 0x1000 {
            self.registers.push((offset, width, config.read(self.bdf, offset, width) & mask));
        }
    }
}
