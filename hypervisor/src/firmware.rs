//! What the firmware says about the machine, checked by `machine::acpi`.
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use machine::acpi::dmar::Dmar;
use machine::acpi::{self, Mapper};
use machine::addr::HostPhys;
use machine::pci::EcamRegion;

use crate::mem::window;
use crate::passthrough::units::Described;
use crate::upgrade::watchdog;

/// What the hypervisor needs of it.
pub struct Firmware {
    /// The RSDP's address.
    pub rsdp: u64,
    /// x2APIC ids of the CPUs that may be started.
    pub cpus: Vec<u32>,
    /// Configuration space.
    pub ecam: Vec<EcamRegion>,
    /// The IOMMU units.
    pub units: Vec<Described>,
    /// The table that describes them.
    pub dmar: Option<Dmar>,
}

/// Firmware's memory is copied piece by piece through a mapping that lasts as long as the copy.
struct Copies;

/// The highest physical address (52 bits).
const LIMIT: u64 = 1 << 52;

impl Mapper for Copies {
    fn read(&self, address: HostPhys, buffer: &mut [u8]) -> bool {
        match address.get().checked_add(buffer.len() as u64) {
            Some(end) if end <= LIMIT => {
                window::read(address, buffer);
                true
            }
            _ => false,
        }
    }
}

/// Notes what is read.
struct Noted(RefCell<Vec<(u64, u64)>>);

impl Mapper for Noted {
    fn read(&self, address: HostPhys, buffer: &mut [u8]) -> bool {
        let read = Copies.read(address, buffer);
        if read {
            self.0.borrow_mut().push((address.get(), buffer.len() as u64));
        }
        read
    }
}

/// The ranges, base and length in bytes, that [`read`] looks at: a loader's memory map need not have them.
pub fn ranges(rsdp: HostPhys) -> Vec<(u64, u64)> {
    let noted = Noted(RefCell::default());
    // Whoever reads them in earnest says what is wrong with them.
    _ = acpi::read(&noted, rsdp);
    noted.0.into_inner()
}

/// Looks for the tables and reads them.
///
/// # Errors
/// There are none, or the machine lacks what Baton can't do without.
pub fn find() -> Result<Firmware, String> {
    let rsdp = acpi::find_rsdp(&Copies).ok_or("the firmware has no ACPI root pointer: boot this machine with ACPI")?;
    read(rsdp)
}

/// Reads the tables that `rsdp` leads to.
///
/// # Errors
/// As for [`find`].
pub fn read(rsdp: HostPhys) -> Result<Firmware, String> {
    let platform = acpi::read(&Copies, rsdp).map_err(|error| error.to_string())?;
    for warning in &platform.warnings {
        log::warn!("ACPI: {warning}");
    }
    if platform.ecam.is_empty() {
        log::warn!("the firmware describes no PCI Express configuration space (no MCFG table): no device is found");
    }
    let cpus = platform.processors.iter().filter(|cpu| cpu.enabled).map(|cpu| cpu.apic_id).collect();
    let dmar = match platform.dmar {
        None => None,
        Some(Ok(dmar)) => {
            for warning in &dmar.warnings {
                log::warn!("DMAR: {warning}");
            }
            Some(dmar)
        }
        Some(Err(error)) => {
            log::error!("the firmware's DMAR table can't be used: {error}");
            None
        }
    };
    let units = dmar
        .iter()
        .flat_map(|dmar| &dmar.units)
        .map(|unit| Described { base: unit.base, segment: unit.segment })
        .collect();
    watchdog::set_present(platform.has_8259);
    Ok(Firmware { rsdp: rsdp.get(), cpus, ecam: platform.ecam, units, dmar })
}
