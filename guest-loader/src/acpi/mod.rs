//! ACPI for guests (ACPI 6.5): a hardware-reduced platform with a local APIC per
//! virtual CPU, one IOAPIC, one PCI bus and one UART. No PIT, PIC, RTC, keyboard
//! controller, VGA or power-management timer: Linux looks for none of them.

mod dsdt;
mod fixed;

#[cfg(test)]
mod tests;

use alloc::vec::Vec;

use acpi_tables::Aml;
use machine::addr::GuestPhys;

use crate::layout::ACPI_TABLES;

/// OEM id of every table.
const OEM_ID: [u8; 6] = *b"BATON ";
/// OEM table id of every table.
const OEM_TABLE_ID: [u8; 8] = *b"BATONVM ";
/// OEM revision of every table.
const OEM_REVISION: u32 = 1;
/// Tables start at multiples of this; the RSDP must (ACPI 5.2.5.1).
const ALIGNMENT: u64 = 16;

/// A table and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where the guest finds it.
    pub at: GuestPhys,
    /// Its bytes, checksum included.
    pub bytes: Vec<u8>,
}

/// The tables for so many virtual CPUs do not fit [`ACPI_TABLES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyCpus {
    /// How many there are.
    pub cpus: usize,
}

/// All tables of a guest whose virtual CPUs have these APIC ids. The first one is
/// the RSDP, at the start of [`ACPI_TABLES`].
///
/// # Errors
/// [`TooManyCpus`] when they do not fit their area (some 4,000 virtual CPUs do).
pub fn tables(apic_ids: &[u32]) -> Result<Vec<Table>, TooManyCpus> {
    let too_many = TooManyCpus { cpus: apic_ids.len() };
    // Bounds the work before anything is built: a local APIC takes 8 bytes at least.
    if apic_ids.len() as u64 > ACPI_TABLES.bytes / 8 {
        return Err(too_many);
    }
    let mut area = Area { next: ACPI_TABLES.start, tables: Vec::new() };
    // The RSDP points to the XSDT, that to the rest: room is kept for these two.
    let rsdp_at = area.reserve(fixed::RSDP_BYTES).ok_or(too_many)?;
    let xsdt_at = area.reserve(fixed::XSDT_BYTES).ok_or(too_many)?;
    let dsdt_at = area.add(dsdt::dsdt()).ok_or(too_many)?;
    let fadt_at = area.add(fixed::fadt(dsdt_at)).ok_or(too_many)?;
    let madt_at = area.add(fixed::madt(apic_ids)).ok_or(too_many)?;
    let mcfg_at = area.add(fixed::mcfg()).ok_or(too_many)?;
    let xsdt = Table { at: xsdt_at, bytes: fixed::xsdt([fadt_at, madt_at, mcfg_at]) };
    let rsdp = Table { at: rsdp_at, bytes: fixed::rsdp(xsdt_at) };
    let mut tables = Vec::from([rsdp, xsdt]);
    tables.append(&mut area.tables);
    Ok(tables)
}

/// Hands out [`ACPI_TABLES`] from its start.
struct Area {
    next: GuestPhys,
    tables: Vec<Table>,
}

impl Area {
    fn reserve(&mut self, bytes: u64) -> Option<GuestPhys> {
        let at = self.next;
        if !ACPI_TABLES.contains(at, bytes) {
            return None;
        }
        self.next = GuestPhys(at.get().checked_add(bytes)?.checked_next_multiple_of(ALIGNMENT)?);
        Some(at)
    }

    fn add(&mut self, bytes: Vec<u8>) -> Option<GuestPhys> {
        let at = self.reserve(bytes.len() as u64)?;
        self.tables.push(Table { at, bytes });
        Some(at)
    }
}

/// The bytes of a table or an AML object.
fn bytes_of(object: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    object.to_aml_bytes(&mut bytes);
    bytes
}
