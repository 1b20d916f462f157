//! One assigned function as the guest sees it: its identity from hardware, everything
//! that could touch another guest or the host virtual.

use alloc::boxed::Box;
use alloc::vec::Vec;

use machine::pci::Bdf;

use super::PciCounters;
use super::access::{BarDescription, Context, InterruptRouter, PassthroughHardware, ResetError};
use super::bars::{BarMapping, Bars};
use super::capabilities::{self, Capability, Kind, ListError};
use super::config::{
    BAR0, BAR5, CACHE_LINE, CAPABILITIES, CLASS, COMMAND, COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE, COMMAND_MEMORY,
    COMMAND_WRITABLE, ID, INTERRUPT, STATUS_CAPABILITIES, SUBSYSTEM, masked,
};
use super::error::PciError;
use super::msi::Msi;
use super::msix::Msix;

/// PMC: version 3, no D1, D2, no PME; PMCSR: D0, no soft reset (PM 1.2 3.2).
const PM_CAPABILITIES: u32 = 3 << 16;
const PM_CONTROL: u32 = 1 << 3;
/// Version 2, root complex integrated endpoint (PCIe 7.5.3.2).
const EXPRESS_TYPE: u32 = (2 | 9 << 4) << 16;
/// Device capabilities kept: payload size, role-based errors, FLR.
const EXPRESS_DEVICE: u32 = 7 | 1 << 15 | EXPRESS_FLR;
const EXPRESS_FLR: u32 = 1 << 28;
/// Device control: initiate FLR.
const EXPRESS_INITIATE_FLR: u32 = 1 << 15;
/// Device status: transactions pending.
const EXPRESS_PENDING: u32 = 1 << 5;

/// One assigned function.
pub struct Passthrough {
    pub(super) device: Bdf,
    hardware: Box<dyn PassthroughHardware>,
    pub(super) identity: u32,
    class: u32,
    subsystem: u32,
    express_device: u32,
    pub(super) command: u16,
    pub(super) cache_line: u8,
    pub(super) interrupt_line: u8,
    pub(super) express_control: u32,
    capabilities: Vec<Capability>,
    pub(super) bars: Bars,
    pub(super) msi: Option<Msi>,
    pub(super) msix: Option<Msix>,
    /// Taken away while the guest runs: it sees no device here.
    pub(super) removed: bool,
}

impl Passthrough {
    /// The virtual view of the physical function behind `hardware`, with `bars` as found (memory BARs only; I/O BARs
    /// and the expansion ROM are hidden). Hardware is read, not written: a function that starts
    /// afresh is reset by the caller before.
    ///
    /// # Errors
    /// The function is absent or broken; see [`PciError`].
    pub fn new(
        device: Bdf,
        mut hardware: Box<dyn PassthroughHardware>,
        bars: &[BarDescription],
    ) -> Result<Self, PciError> {
        let identity = hardware.config_read(ID, 4);
        if matches!(identity, 0 | u32::MAX) {
            return Err(PciError::Absent(device));
        }
        if hardware.config_read(CACHE_LINE, 4) >> 16 & 0x7F != 0 {
            return Err(PciError::NotAnEndpoint(device));
        }
        let class = hardware.config_read(CLASS, 4);
        let subsystem = hardware.config_read(SUBSYSTEM, 4);
        let capabilities = capabilities::scan(&mut *hardware).map_err(|error| match error {
            ListError::Loop => PciError::CapabilityLoop(device),
            ListError::Outside(offset) => PciError::CapabilityOutside(device, offset),
        })?;
        let mut function = Self {
            device,
            identity,
            class,
            subsystem,
            express_device: 0,
            command: 0,
            cache_line: 0,
            interrupt_line: 0xFF,
            express_control: 0,
            bars: Bars::new(bars).map_err(|bad| PciError::BadBar(device, bad.0))?,
            msi: None,
            msix: None,
            removed: false,
            hardware,
            capabilities: Vec::new(),
        };
        for capability in &capabilities {
            function.add_capability(*capability)?;
        }
        function.capabilities = capabilities;
        Ok(function)
    }

    fn add_capability(&mut self, capability: Capability) -> Result<(), PciError> {
        let offset = capability.offset;
        let mut read = |at: u16| self.hardware.config_read(offset + at, 4);
        match capability.kind {
            Kind::PowerManagement => {}
            Kind::Express => {
                self.express_device = read(4) & EXPRESS_DEVICE;
                // As after reset (PCIe 7.5.3.4): relaxed ordering, no snoop, 512 byte read requests.
                self.express_control = EXPRESS_CONTROL_RESET;
            }
            Kind::Msi => self.msi = Some(Msi::new(offset, read(0) >> 16)),
            Kind::Msix => {
                let msix = Msix::new(offset, read(0) >> 16, read(4), read(8));
                let error = PciError::TableOutside(self.device);
                let bar = self.bars.get_mut(msix.table_bar()).ok_or(error)?;
                if msix.table_range().end > bar.description.bytes {
                    return Err(error);
                }
                if bar.trapped.is_empty() {
                    bar.trapped = msix.table_pages();
                }
                self.msix = Some(msix);
            }
        }
        Ok(())
    }

    /// The physical function's address.
    #[must_use]
    pub const fn device(&self) -> Bdf {
        self.device
    }

    /// The BARs as mapped now, or as they would be at address zero when they are not.
    pub fn mappings(&self) -> impl Iterator<Item = BarMapping> {
        self.bars.iter().filter_map(|bar| bar.active.map(|address| bar.mapping(self.device, address)))
    }

    /// Whether the guest lets the function answer memory accesses.
    pub(super) const fn decodes_memory(&self) -> bool {
        self.command & COMMAND_MEMORY != 0
    }

    /// Reads the dword at `offset` (a multiple of 4, below 4096).
    pub(super) fn read_dword(
        &mut self,
        offset: u16,
        router: &mut dyn InterruptRouter,
        counters: &mut PciCounters,
    ) -> u32 {
        let first = self.capabilities.first().map_or(0, |capability| u32::from(capability.offset));
        match offset {
            ID => self.identity,
            COMMAND => u32::from(self.command) | if first == 0 { 0 } else { STATUS_CAPABILITIES << 16 },
            CLASS => self.class,
            CACHE_LINE => u32::from(self.cache_line),
            BAR0..=BAR5 => self.bars.read(usize::from(offset - BAR0) / 4),
            SUBSYSTEM => self.subsystem,
            CAPABILITIES => first,
            // No interrupt pin: INTx is not offered.
            INTERRUPT => u32::from(self.interrupt_line),
            _ => self.read_capability(offset, router, counters),
        }
    }

    fn read_capability(&mut self, offset: u16, router: &mut dyn InterruptRouter, counters: &mut PciCounters) -> u32 {
        let Some(position) = self.capabilities.iter().position(|capability| capability.contains(offset)) else {
            return 0;
        };
        let Some(capability) = self.capabilities.get(position).copied() else {
            return 0;
        };
        let at = offset - capability.offset;
        let body = match capability.kind {
            Kind::PowerManagement => match at {
                0 => PM_CAPABILITIES,
                _ => PM_CONTROL,
            },
            Kind::Express => match at {
                0 => EXPRESS_TYPE,
                4 => self.express_device,
                8 => {
                    let status = self.hardware.config_read(offset + 2, 2) & EXPRESS_PENDING;
                    self.express_control & 0xFFFF | status << 16
                }
                _ => 0,
            },
            Kind::Msi => {
                let mut context = Context { device: self.device, hardware: &mut *self.hardware, router, counters };
                self.msi.as_ref().map_or(0, |msi| msi.read(at, &mut context))
            }
            Kind::Msix => self.msix.as_ref().map_or(0, |msix| msix.read(at)),
        };
        if at != 0 {
            return body;
        }
        let next = self.capabilities.get(position + 1).map_or(0, |next| u32::from(next.offset));
        body & 0xFFFF_0000 | next << 8 | u32::from(capability.kind.id())
    }

    /// Writes the bytes of `value` that `mask` selects to the dword at `offset`. The caller
    /// reconciles BARs afterwards.
    pub(super) fn write_dword(
        &mut self,
        offset: u16,
        value: u32,
        mask: u32,
        router: &mut dyn InterruptRouter,
        counters: &mut PciCounters,
    ) {
        match offset {
            COMMAND => {
                let command = masked(u32::from(self.command), value, mask) as u16 & COMMAND_WRITABLE;
                let changed = (command ^ self.command) & COMMAND_BUS_MASTER != 0;
                self.command = command;
                if changed {
                    self.write_command();
                }
            }
            CACHE_LINE => self.cache_line = masked(u32::from(self.cache_line), value, mask) as u8,
            INTERRUPT => self.interrupt_line = masked(u32::from(self.interrupt_line), value, mask) as u8,
            BAR0..=BAR5 => self.bars.write(usize::from(offset - BAR0) / 4, value, mask),
            _ => self.write_capability(offset, value, mask, router, counters),
        }
    }

    /// Lets the hardware's bus mastering follow the guest's; INTx stays off, memory on.
    fn write_command(&mut self) {
        let physical = self.hardware.config_read(COMMAND, 2) as u16;
        let command = physical & !COMMAND_BUS_MASTER | self.command & COMMAND_BUS_MASTER | COMMAND_INTX_DISABLE;
        self.hardware.config_write(COMMAND, 2, u32::from(command));
    }

    fn write_capability(
        &mut self,
        offset: u16,
        value: u32,
        mask: u32,
        router: &mut dyn InterruptRouter,
        counters: &mut PciCounters,
    ) {
        let Some(capability) = self.capabilities.iter().find(|capability| capability.contains(offset)).copied() else {
            return;
        };
        let at = offset - capability.offset;
        let mut context = Context { device: self.device, hardware: &mut *self.hardware, router, counters };
        match capability.kind {
            Kind::PowerManagement => {}
            Kind::Msi => {
                if let Some(msi) = &mut self.msi {
                    msi.write(at, value, mask, &mut context);
                }
            }
            Kind::Msix => {
                if let Some(msix) = &mut self.msix {
                    msix.write(at, value, mask, &mut context);
                }
            }
            Kind::Express if at == 8 => {
                // Payload and read request sizes are the host's business: kept, not written through.
                let control = masked(self.express_control, value, mask) & 0xFFFF;
                self.express_control = control & !EXPRESS_INITIATE_FLR;
                if control & EXPRESS_INITIATE_FLR != 0 && self.express_device & EXPRESS_FLR != 0 {
                    // What could not be reset is counted: the guest sees a function that did not answer its reset.
                    let _reset = self.reset(router, counters);
                }
            }
            Kind::Express => {}
        }
    }

    /// Resets the function, by the guest's wish, for its next life or after its end.
    ///
    /// # Errors
    /// The hardware was not reset; bus mastering and interrupts are off all the same.
    pub(super) fn reset(
        &mut self,
        router: &mut dyn InterruptRouter,
        counters: &mut PciCounters,
    ) -> Result<(), ResetError> {
        self.quiesce(router, counters);
        let result = self.hardware.reset();
        if result.is_err() {
            counters.reset_failures = counters.reset_failures.saturating_add(1);
        }
        let mut context = Context { device: self.device, hardware: &mut *self.hardware, router, counters };
        if let Some(msi) = &mut self.msi {
            msi.reset(&mut context);
        }
        if let Some(msix) = &mut self.msix {
            msix.reset(&mut context);
        }
        self.cache_line = 0;
        self.interrupt_line = 0xFF;
        self.express_control = if self.express_device == 0 { 0 } else { EXPRESS_CONTROL_RESET };
        self.bars.clear_registers();
        result
    }

    /// Stops DMA and interrupts of the function and gives its routes back; the guest is gone.
    pub(super) fn quiesce(&mut self, router: &mut dyn InterruptRouter, counters: &mut PciCounters) {
        self.command = 0;
        self.write_command();
        let mut context = Context { device: self.device, hardware: &mut *self.hardware, router, counters };
        if let Some(msi) = &mut self.msi {
            msi.stop(&mut context);
        }
        if let Some(msix) = &mut self.msix {
            msix.stop(&mut context);
        }
    }

    /// Takes the function away from a guest that runs on: no DMA, no interrupts, and what answers is nobody, as after a
    /// surprise removal (PCIe 6.7.1.1). The caller reconciles BARs afterwards.
    pub(super) fn remove(&mut self, router: &mut dyn InterruptRouter, counters: &mut PciCounters) {
        self.quiesce(router, counters);
        self.removed = true;
    }

    /// Tries again to route interrupts that could not be routed.
    pub(super) fn retry_routes(&mut self, router: &mut dyn InterruptRouter, counters: &mut PciCounters) {
        let mut context = Context { device: self.device, hardware: &mut *self.hardware, router, counters };
        if let Some(msi) = &mut self.msi {
            msi.retry(&mut context);
        }
        if let Some(msix) = &mut self.msix {
            msix.retry(&mut context);
        }
    }

    /// The trapped BAR and offset at guest address `address`, if all `width` bytes are trapped.
    pub(super) fn find(&self, address: u64, width: u8) -> Option<(u8, u64)> {
        self.bars.iter().find_map(|bar| {
            let offset = address.checked_sub(bar.active?)?;
            let end = offset.checked_add(u64::from(width))?;
            let inside = bar.trapped.contains(&offset) && end <= bar.trapped.end.min(bar.description.bytes);
            inside.then_some((bar.description.index, offset))
        })
    }

    /// The table offset, if `bar` and `offset` are in the MSI-X table.
    fn in_table(&self, bar: u8, offset: u64) -> Option<u64> {
        let msix = self.msix.as_ref().filter(|msix| msix.table_bar() == bar)?;
        let table = msix.table_range();
        table.contains(&offset).then(|| offset - table.start)
    }

    /// A load from a trapped part of a BAR.
    pub(super) fn bar_read(&mut self, bar: u8, offset: u64, width: u8) -> u64 {
        if !is_natural(offset, width) {
            return u64::MAX;
        }
        match (self.in_table(bar, offset), &self.msix) {
            (Some(at), Some(msix)) => msix.read_table(at, width),
            _ => self.hardware.read(bar, offset, width),
        }
    }

    /// A store to a trapped part of a BAR.
    pub(super) fn bar_write(
        &mut self,
        bar: u8,
        offset: u64,
        width: u8,
        value: u64,
        router: &mut dyn InterruptRouter,
        counters: &mut PciCounters,
    ) {
        if !is_natural(offset, width) {
            return;
        }
        let at = self.in_table(bar, offset);
        let mut context = Context { device: self.device, hardware: &mut *self.hardware, router, counters };
        match (at, &mut self.msix) {
            (Some(at), Some(msix)) => msix.write_table(at, width, value, &mut context),
            _ => self.hardware.write(bar, offset, width, value),
        }
    }
}

/// Relaxed ordering, no snoop, 512 byte read requests.
const EXPRESS_CONTROL_RESET: u32 = 0x2810;

const fn is_natural(offset: u64, width: u8) -> bool {
    matches!(width, 1 | 2 | 4 | 8) && offset & (width as u64 - 1) == 0
}
