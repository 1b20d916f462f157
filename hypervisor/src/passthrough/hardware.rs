//! An assigned function's hardware, as its front end in the guest's platform reaches it.
#![expect(unsafe_code, reason = "registers of a device are mapped and reached")]

use alloc::sync::Arc;
use alloc::vec::Vec;

use machine::access::Width;
use machine::mmio::MmioRegion;
use machine::pci::{Ats, Bdf, ConfigSpace, Ecam};

use super::{Assigned, inventory};
use crate::guest::message::MsiMessage;
use crate::guest::pci::access::{BarAccess, MsixHardware, PhysicalFunction, ResetError};
use crate::mem::host_map;
use crate::time::TscClock;

/// Where the MSI-X table is: in which BAR, from which byte.
#[derive(Clone, Copy, Debug)]
pub struct TablePlace {
    /// BAR number.
    pub bar: u8,
    /// Byte offset in the BAR.
    pub offset: u64,
}

/// A physical function.
pub struct HostFunction {
    bdf: Bdf,
    /// Vendor and device; a virtual function does not say them itself.
    identity: u32,
    /// Its translation cache is in use, and has to be switched on again after a reset.
    ats: bool,
    config: Arc<Ecam>,
    bars: Vec<(u8, MmioRegion)>,
    table: Option<TablePlace>,
}

impl HostFunction {
    /// Maps the function's BARs for the hypervisor.
    ///
    /// # Errors
    /// The heap is exhausted.
    ///
    /// # Safety
    /// The BARs are where `function` says, and stay there; the function is used through this object and by its guest only.
    pub unsafe fn new(
        function: &Assigned,
        config: Arc<Ecam>,
        table: Option<TablePlace>,
    ) -> Result<Self, machine::paging::PagingError> {
        let mut regions = Vec::new();
        for bar in &function.bars {
            host_map::map_device(bar.host, bar.bytes)?;
            // SAFETY: just mapped one to one and uncached; the caller says that a BAR is there.
            regions.push((bar.index, unsafe { MmioRegion::new(bar.host, bar.bytes as usize) }));
        }
        let Assigned { bdf, identity, ats, .. } = *function;
        Ok(Self { bdf, identity, ats, config, bars: regions, table })
    }

    fn bar(&self, bar: u8) -> Option<&MmioRegion> {
        self.bars.iter().find(|(index, _)| *index == bar).map(|(_, region)| region)
    }
}

fn width(bytes: u8) -> Option<Width> {
    match bytes {
        1 => Some(Width::Byte),
        2 => Some(Width::Word),
        4 => Some(Width::Long),
        _ => None,
    }
}

impl PhysicalFunction for HostFunction {
    fn config_read(&mut self, offset: u16, bytes: u8) -> u32 {
        if (offset, bytes) == (0, 4) {
            return self.identity;
        }
        width(bytes).map_or(u32::MAX, |width| self.config.read(self.bdf, offset, width))
    }

    fn config_write(&mut self, offset: u16, bytes: u8, value: u32) {
        if let Some(width) = width(bytes) {
            self.config.write(self.bdf, offset, width, value);
        }
    }

    fn reset(&mut self) -> Result<(), ResetError> {
        let reset = inventory::reset_of(self.bdf).map_err(|_| ResetError::Unsupported)?;
        reset.perform(&*self.config, &TscClock).map_err(|_| ResetError::TimedOut)?;
        // The unit goes on expecting a cache; without one the function's requests would be translated one by one.
        if let Some(ats) = Ats::find(&*self.config, self.bdf).filter(|_| self.ats)
            && let Err(error) = ats.enable(&*self.config)
        {
            log::warn!("{error}");
        }
        Ok(())
    }
}

impl MsixHardware for HostFunction {
    fn write_entry(&mut self, index: u16, message: MsiMessage, masked: bool) {
        let Some(place) = self.table else { return };
        let Some(bar) = self.bar(place.bar) else { return };
        // PCIe 7.7.2.1: address, upper address, data, vector control; bit 0 masks.
        let at = place.offset as usize + usize::from(index) * 16;
        if masked {
            bar.write_u32(at + 12, 1);
        }
        bar.write_u32(at, message.address as u32);
        bar.write_u32(at + 4, (message.address >> 32) as u32);
        bar.write_u32(at + 8, message.data);
        if !masked {
            bar.write_u32(at + 12, 0);
        }
        // Posted writes have arrived when a read comes back.
        let _ = bar.read_u32(at + 12);
    }
}

impl BarAccess for HostFunction {
    fn read(&mut self, bar: u8, offset: u64, bytes: u8) -> u64 {
        let at = offset as usize;
        match (self.bar(bar), bytes) {
            (Some(region), 1) => region.read_u8(at).into(),
            (Some(region), 2) => region.read_u16(at).into(),
            (Some(region), 4) => region.read_u32(at).into(),
            (Some(region), 8) => region.read_u64(at),
            _ => u64::MAX,
        }
    }

    fn write(&mut self, bar: u8, offset: u64, bytes: u8, value: u64) {
        let at = offset as usize;
        match (self.bar(bar), bytes) {
            (Some(region), 1) => region.write_u8(at, value as u8),
            (Some(region), 2) => region.write_u16(at, value as u16),
            (Some(region), 4) => region.write_u32(at, value as u32),
            (Some(region), 8) => region.write_u64(at, value),
            _ => {}
        }
    }
}
