//! The functions on the guest's only bus.
#![expect(unsafe_code, reason = "configuration space and BARs are taken over")]

use alloc::vec::Vec;

use machine::addr::HostPhys;
use machine::mmio::MmioRegion;
use machine::pci::{Bdf, Command, ConfigSpace, Ecam, EcamRegion, Msix};

/// Configuration space of bus 0, as the guest's map has it.
const ECAM: EcamRegion = EcamRegion { base: HostPhys(0xe000_0000), segment: 0, start_bus: 0, end_bus: 0 };
/// The first BAR.
const BAR0: u16 = 0x10;
/// Bytes of registers that a driver of ours reaches.
const REGISTER_BYTES: usize = 0x10_0000;

/// Configuration space.
#[must_use]
pub fn config() -> Ecam {
    // SAFETY: the guest's map has it there, mapped one to one and uncached.
    unsafe { Ecam::new(&[ECAM]) }
}

/// Every function with a vendor and device id like this, lowest slot first.
#[must_use]
pub fn find(vendor: u16, device: u16) -> Vec<Bdf> {
    let config = config();
    let wanted = u32::from(vendor) | u32::from(device) << 16;
    let slots = (0..32).map(|slot| Bdf::from_requester_id(0, slot << 3));
    slots.filter(|bdf| config.read32(*bdf, 0) == wanted).collect()
}

/// Where BAR `index` is.
#[must_use]
pub fn bar_address(config: &Ecam, bdf: Bdf, index: u8) -> u64 {
    let register = BAR0 + u16::from(index) * 4;
    let low = config.read32(bdf, register);
    // Bit 2: 64 bits wide (PCI 3.0 6.2.5.1).
    let high = if low & 4 != 0 { u64::from(config.read32(bdf, register + 4)) << 32 } else { 0 };
    high | u64::from(low & !0xf)
}

/// Lets the function answer and lets it do DMA; the registers in its BAR 0.
#[must_use]
pub fn enable(config: &Ecam, bdf: Bdf) -> MmioRegion {
    (Command::MEMORY | Command::BUS_MASTER).write(config, bdf);
    bar(config, bdf, 0)
}

/// The registers in BAR `index` of a function that answers.
#[must_use]
pub fn bar(config: &Ecam, bdf: Bdf, index: u8) -> MmioRegion {
    // SAFETY: a BAR is where the hypervisor says, in the window that is mapped one to one and uncached.
    unsafe { MmioRegion::new(HostPhys(bar_address(config, bdf, index)), REGISTER_BYTES) }
}

/// Sends entry `entry` of a function's MSI-X table to a vector; false if there is none.
pub fn route(config: &Ecam, bdf: Bdf, entry: u16, vector: u8) -> bool {
    let Some(msix) = Msix::find(config, bdf).filter(|msix| entry < msix.vectors) else {
        return false;
    };
    let registers = bar(config, bdf, msix.table.bar);
    let (address, data) = crate::interrupts::message(vector);
    // PCIe 7.7.2.1: address, upper address, data, vector control.
    let at = msix.table.offset as usize + usize::from(entry) * Msix::ENTRY_BYTES as usize;
    registers.write_u32(at, address as u32);
    registers.write_u32(at + 4, (address >> 32) as u32);
    registers.write_u32(at + 8, data);
    registers.write_u32(at + 12, 0);
    msix.set_control(config, true, false);
    true
}
