//! The tables without code: RSDP, XSDT, FADT, MADT, MCFG.

use alloc::vec::Vec;

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use machine::addr::GuestPhys;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, bytes_of};
use crate::layout::{
    ECAM, IOAPIC, IOAPIC_ID, LAPIC, PCI_BUS, RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT,
};

/// Size of an ACPI 2.0+ RSDP.
pub const RSDP_BYTES: u64 = 36;
/// Tables the XSDT lists.
const XSDT_ENTRIES: usize = 3;
/// Size of the XSDT: the header and the entries.
pub const XSDT_BYTES: u64 = 36 + 8 * XSDT_ENTRIES as u64;

/// IAPC_BOOT_ARCH (ACPI 6.5, table 5.11): VGA not present, PCIe ASPM not to be
/// touched, CMOS RTC not present; no legacy devices, no 8042.
const BOOT_ARCH: u16 = (1 << 2) | (1 << 4) | (1 << 5);

/// MADT revision of ACPI 6.3 and later.
const MADT_REVISION: u8 = 5;
/// Size of the MADT's fixed part.
const MADT_HEADER_BYTES: u32 = 44;
/// MADT: the CPU is ready for use.
const CPU_ENABLED: u32 = 1;
/// The first APIC id that needs an x2APIC entry (ACPI 6.5, 5.2.12.12): 255 means all in the old one.
const FIRST_X2APIC_ID: u32 = 255;

pub fn rsdp(xsdt: GuestPhys) -> Vec<u8> {
    bytes_of(&Rsdp::new(OEM_ID, xsdt.get()))
}

pub fn xsdt(tables: [GuestPhys; XSDT_ENTRIES]) -> Vec<u8> {
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in tables {
        xsdt.add_entry(table.get());
    }
    bytes_of(&xsdt)
}

/// One byte of I/O space.
fn port(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

pub fn fadt(dsdt: GuestPhys) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .dsdt_64(dsdt.get())
        .flag(Flags::Wbinvd)
        // Power and sleep buttons, if any, are control-method devices: there are none.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    fadt.iapc_boot_arch = BOOT_ARCH.into();
    fadt.reset_reg = port(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = port(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(SLEEP_STATUS_PORT);
    bytes_of(&fadt.finalize())
}

/// The table is put together here: the crate's MADT has revision 1 and no x2APIC entries.
pub fn madt(apic_ids: &[u32]) -> Vec<u8> {
    let mut body = Vec::new();
    for &id in apic_ids {
        match u8::try_from(id) {
            Ok(short) if id < FIRST_X2APIC_ID => {
                // Type 0, length 8, processor UID, APIC id, flags.
                body.extend_from_slice(&[0, 8, short, short]);
                body.extend_from_slice(&CPU_ENABLED.to_le_bytes());
            }
            _ => {
                // Type 9, length 16, reserved, x2APIC id, flags, processor UID.
                body.extend_from_slice(&[9, 16, 0, 0]);
                for word in [id, CPU_ENABLED, id] {
                    body.extend_from_slice(&word.to_le_bytes());
                }
            }
        }
    }
    // Type 1, length 12, id, reserved, address, first global system interrupt.
    body.extend_from_slice(&[1, 12, IOAPIC_ID, 0]);
    for word in [IOAPIC.start.get() as u32, 0] {
        body.extend_from_slice(&word.to_le_bytes());
    }
    let mut madt = Sdt::new(*b"APIC", MADT_HEADER_BYTES, MADT_REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(36, LAPIC.start.get() as u32);
    // Flags 0: no 8259 is present (PCAT_COMPAT clear).
    madt.write_u32(40, 0);
    madt.append_slice(&body);
    madt.as_slice().to_vec()
}

pub fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM.start.get(), 0, PCI_BUS, PCI_BUS);
    bytes_of(&mcfg)
}
