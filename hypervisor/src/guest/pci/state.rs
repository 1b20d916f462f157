//! What an assigned function needs to continue in another image.

use machine::pci::Bdf;

use super::bars::BARS;
use super::config::COMMAND_WRITABLE;
use super::error::PciError;
use super::function::Passthrough;
use super::msi::{Msi, MsiState};
use super::msix::MsixState;

/// One assigned function. Numbers only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PciFunctionState {
    /// MSI, if the function has it.
    pub msi: Option<MsiState>,
    /// MSI-X, if the function has it.
    pub msix: Option<MsixState>,
    /// Where each BAR is mapped in the nested page table; `u64::MAX` if it is not.
    pub mapped: [u64; BARS],
    /// BAR registers, address bits only.
    pub bars: [u32; BARS],
    /// Vendor id in bits 15:0, device id in bits 31:16.
    pub identity: u32,
    /// Device control register of the PCIe capability.
    pub express_control: u32,
    /// PCI segment group of the physical function.
    pub segment: u16,
    /// Its bus, device and function, as requester id.
    pub requester_id: u16,
    /// Command register.
    pub command: u16,
    /// Cache line size register.
    pub cache_line: u8,
    /// Interrupt line register.
    pub interrupt_line: u8,
}

impl PciFunctionState {
    /// The physical function.
    #[must_use]
    pub const fn device(&self) -> Bdf {
        Bdf::from_requester_id(self.segment, self.requester_id)
    }
}

impl Passthrough {
    pub(super) fn save_into(&self, state: &mut PciFunctionState) {
        let mut mapped = [u64::MAX; BARS];
        for bar in self.bars.iter() {
            if let (Some(slot), Some(address)) = (mapped.get_mut(usize::from(bar.description.index)), bar.applied) {
                *slot = address;
            }
        }
        state.segment = self.device.segment();
        state.requester_id = self.device.requester_id();
        state.msi = self.msi.as_ref().map(Msi::save);
        match &self.msix {
            Some(msix) => msix.save_into(state.msix.get_or_insert_default()),
            None => state.msix = None,
        }
        state.mapped = mapped;
        state.bars = self.bars.registers();
        state.identity = self.identity;
        state.express_control = self.express_control;
        state.command = self.command;
        state.cache_line = self.cache_line;
        state.interrupt_line = self.interrupt_line;
    }

    /// Takes over without a write to hardware.
    pub(super) fn restore(&mut self, state: &PciFunctionState) -> Result<(), PciError> {
        let fail = |what| Err(PciError::State(self.device, what));
        let device = Bdf::from_requester_id(state.segment, state.requester_id);
        if device != self.device || state.identity != self.identity {
            return fail("another function's address or identity");
        }
        if state.command & !COMMAND_WRITABLE != 0 || state.express_control > 0x7FFF {
            return fail("reserved bits in a command register");
        }
        let msi = match (&mut self.msi, &state.msi) {
            (Some(msi), Some(state)) => msi.restore(state),
            (None, None) => true,
            _ => false,
        };
        let msix = match (&mut self.msix, &state.msix) {
            (Some(msix), Some(state)) => msix.restore(state),
            (None, None) => true,
            _ => false,
        };
        if !msi || !msix {
            return fail("MSI or MSI-X");
        }
        if !self.bars.set_registers(state.bars) {
            return fail("BAR registers");
        }
        for (index, address) in (0u8..).zip(state.mapped) {
            let address = (address != u64::MAX).then_some(address);
            match (self.bars.get_mut(index), address) {
                (Some(bar), _) if address.is_none_or(|at| at & (bar.description.bytes - 1) == 0) => {
                    bar.active = address;
                    bar.applied = address;
                }
                (None, None) => {}
                _ => return fail("a mapped BAR"),
            }
        }
        self.command = state.command;
        self.express_control = state.express_control;
        self.cache_line = state.cache_line;
        self.interrupt_line = state.interrupt_line;
        Ok(())
    }
}
