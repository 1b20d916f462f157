//! The DSDT: soft off, the PCI root bridge, the console.

use alloc::vec;
use alloc::vec::Vec;

use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path,
    ResourceTemplate, Scope, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of};
use crate::layout::{
    ECAM, GuestRange, PCI_BUS, PCI_CONFIG_PORT, PCI_WINDOW_32, PCI_WINDOW_64, SLEEP_TYPE_S5, UART_GSI, UART_PORT,
};

/// AML with 64-bit integers (ACPI 6.5, 5.2.11.1).
const DSDT_REVISION: u8 = 2;
const HEADER_BYTES: u32 = 36;

pub fn dsdt() -> Vec<u8> {
    let mut dsdt = Sdt::new(*b"DSDT", HEADER_BYTES, DSDT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&soft_off());
    dsdt.append_slice(&bytes_of(&Scope::new(Path::new("_SB_"), vec![&Raw(pci()), &Raw(motherboard()), &Raw(uart())])));
    dsdt.as_slice().to_vec()
}

/// AML that is encoded already.
struct Raw(Vec<u8>);

impl acpi_tables::Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// `\_S5`: the value for SLP_TYP; the three others have no use here (ACPI 6.5, 7.4.2).
fn soft_off() -> Vec<u8> {
    let package = Package::new(vec![&SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]);
    bytes_of(&Name::new(Path::new("_S5_"), &package))
}

/// The last byte of a range.
fn last(range: GuestRange) -> u64 {
    range.end().get().saturating_sub(1)
}

/// The PCI root bridge with bus 0 and its windows. No _PRT: guests use MSI and
/// MSI-X only. No _OSC: the features it hands over (hot plug, AER, PME) stay with Baton.
fn pci() -> Vec<u8> {
    let not_cacheable = || AddressSpaceCacheable::NotCacheable;
    let buses = AddressSpace::new_bus_number(u16::from(PCI_BUS), u16::from(PCI_BUS));
    let config = IO::new(PCI_CONFIG_PORT, PCI_CONFIG_PORT, 1, 8);
    let low = AddressSpace::new_memory(
        not_cacheable(),
        true,
        PCI_WINDOW_32.start.get() as u32,
        last(PCI_WINDOW_32) as u32,
        None,
    );
    // Not marked prefetchable, or 64-bit BARs that are not could not be placed here.
    let high = AddressSpace::new_memory(not_cacheable(), true, PCI_WINDOW_64.start.get(), last(PCI_WINDOW_64), None);
    let resources = ResourceTemplate::new(vec![&buses, &config, &low, &high]);
    bytes_of(&Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_SEG"), &ZERO),
            &Name::new(Path::new("_BBN"), &PCI_BUS),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &resources),
        ],
    ))
}

/// The motherboard's resources: the firmware specification of PCI (3.3, 4.1.2)
/// wants ECAM reserved here, outside the root bridge.
fn motherboard() -> Vec<u8> {
    let ecam = Memory32Fixed::new(true, ECAM.start.get() as u32, ECAM.bytes as u32);
    bytes_of(&Device::new(
        Path::new("MBRD"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ecam])),
        ],
    ))
}

/// The 16550 console.
fn uart() -> Vec<u8> {
    let ports = IO::new(UART_PORT, UART_PORT, 1, 8);
    let interrupt = Interrupt::new(true, true, false, false, UART_GSI.into());
    bytes_of(&Device::new(
        Path::new("COM1"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0501")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ports, &interrupt])),
        ],
    ))
}
