//! Every length in a table, checked before anybody relies on it.

use super::Mapper;
use super::copies::Copy;
use super::error::{AcpiWarning, Signature};
use crate::addr::HostPhys;
use alloc::vec;
use alloc::vec::Vec;

/// Bytes in the header that all tables share.
pub(super) const HEADER: usize = 36;
/// No table that is read here is longer.
const LONGEST: usize = 1 << 20;

/// The tables that are read, and the least bytes each must have.
const WANTED: [([u8; 4], usize); 5] = [(*b"APIC", 44), (*b"MCFG", 44), (*b"HPET", 56), (*b"FACP", 116), (*b"DMAR", 48)];

/// What the root pointer names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Roots {
    pub(super) revision: u8,
    pub(super) rsdt: HostPhys,
    /// Absent before ACPI 2.0.
    pub(super) xsdt: Option<HostPhys>,
}

/// Little-endian numbers at an offset, if they are within the bytes.
pub(super) trait Field {
    /// `N` bytes.
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    fn u16(&self, offset: usize) -> Option<u16> {
        self.array(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: usize) -> Option<u32> {
        self.array(offset).map(u32::from_le_bytes)
    }

    fn u64(&self, offset: usize) -> Option<u64> {
        self.array(offset).map(u64::from_le_bytes)
    }
}

impl Field for [u8] {
    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// Whether the bytes add up to zero, as every table's must.
pub(super) fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// Reads and checks the root pointer (ACPI 5.2.5.3).
pub(super) fn root_pointer(mapper: &(impl Mapper + ?Sized), at: HostPhys) -> Option<Roots> {
    let mut old = [0; 20];
    if !mapper.read(at, &mut old) || !old.starts_with(b"RSD PTR ") || !sums_to_zero(&old) {
        return None;
    }
    let revision = old[15];
    let rsdt = HostPhys(old.u32(16)?.into());
    let mut new = [0; 36];
    // Should the second half be bad, the first is still good for the RSDT.
    let extended = revision >= 2 && mapper.read(at, &mut new) && new.u32(20) == Some(36) && sums_to_zero(&new);
    let xsdt = if extended { new.u64(24).filter(|&at| at != 0).map(HostPhys) } else { None };
    Some(Roots { revision, rsdt, xsdt })
}

/// Reads the whole table at `at`, if its header holds up.
pub(super) fn table(mapper: &(impl Mapper + ?Sized), at: HostPhys) -> Result<(Signature, Vec<u8>), AcpiWarning> {
    let unreadable = AcpiWarning::Unreadable { at };
    let mut header = [0; HEADER];
    if at.0 == 0 || !mapper.read(at, &mut header) {
        return Err(unreadable);
    }
    let signature = Signature(header.array(0).ok_or(unreadable)?);
    let length = header.u32(4).ok_or(unreadable)?;
    let bytes = usize::try_from(length).unwrap_or(usize::MAX);
    if !(HEADER..=LONGEST).contains(&bytes) {
        return Err(AcpiWarning::Length { table: signature, at, bytes: length });
    }
    let mut table = vec![0; bytes];
    if !mapper.read(at, &mut table) {
        return Err(unreadable);
    }
    // The second reading is what counts; both must agree on what they are.
    if table.get(..HEADER) != Some(header.as_slice()) || !sums_to_zero(&table) {
        return Err(AcpiWarning::Checksum { table: signature, at });
    }
    Ok((signature, table))
}

/// Reads a root table and everything it names that is wanted and holds up.
pub(super) fn tree(
    mapper: &(impl Mapper + ?Sized),
    root: HostPhys,
    wide: bool,
    warnings: &mut Vec<AcpiWarning>,
) -> Result<Vec<Copy>, AcpiWarning> {
    let (signature, table) = self::table(mapper, root)?;
    let (expected, width) = if wide { (*b"XSDT", 8) } else { (*b"RSDT", 4) };
    if signature.0 != expected {
        return Err(AcpiWarning::Wrong { table: signature, at: root });
    }
    let mut copies: Vec<Copy> = Vec::new();
    for entry in table.get(HEADER..).unwrap_or_default().chunks_exact(width) {
        let pointer = if wide { entry.u64(0) } else { entry.u32(0).map(u64::from) };
        let Some(address) = pointer.and_then(|address| usize::try_from(address).ok()) else {
            continue;
        };
        match wanted(mapper, HostPhys(address as u64)) {
            // The first of a kind counts.
            Ok(Some((signature, _))) if copies.iter().any(|copy| copy.signature() == signature) => {
                warnings.push(AcpiWarning::Wrong { table: signature, at: HostPhys(address as u64) });
            }
            Ok(Some((signature, bytes))) => copies.push(Copy::new(address, signature, bytes)),
            Ok(None) => {}
            Err(warning) => warnings.push(warning),
        }
    }
    let root_address = usize::try_from(root.0).map_err(|_| AcpiWarning::Unreadable { at: root })?;
    copies.push(Copy::new(root_address, signature, table));
    Ok(copies)
}

/// Reads the table at `at`, if it is one of those that are wanted.
fn wanted(mapper: &(impl Mapper + ?Sized), at: HostPhys) -> Result<Option<(Signature, Vec<u8>)>, AcpiWarning> {
    let mut name = [0; 4];
    if at.0 == 0 || !mapper.read(at, &mut name) {
        return Err(AcpiWarning::Unreadable { at });
    }
    let Some((_, least)) = WANTED.iter().find(|(wanted, _)| *wanted == name) else {
        return Ok(None);
    };
    let (signature, bytes) = table(mapper, at)?;
    if bytes.len() < *least {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        return Err(AcpiWarning::Length { table: signature, at, bytes: length });
    }
    match &signature.0 {
        b"APIC" => interrupts(&bytes)?,
        // The crate asserts that the HPET is in memory.
        b"HPET" if bytes.get(40) != Some(&0) => {
            return Err(AcpiWarning::Value { table: signature, offset: 40 });
        }
        _ => {}
    }
    Ok(Some((signature, bytes)))
}

/// Walks the MADT's structures: none empty, none beyond the end, none shorter than its type needs.
fn interrupts(madt: &[u8]) -> Result<(), AcpiWarning> {
    let table = Signature(*b"APIC");
    let mut offset = 44;
    while offset < madt.len() {
        let Some([kind, bytes]) = madt.array(offset) else {
            return Err(AcpiWarning::Structure { table, offset, bytes: 1 });
        };
        // ACPI 5.2.12, the types that x86 has.
        let least = match kind {
            0 | 3 => 8,
            1 | 5 | 10 => 12,
            2 => 10,
            4 => 6,
            9 | 16 => 16,
            _ => 2,
        };
        let end = offset + usize::from(bytes);
        if bytes < least || end > madt.len() {
            return Err(AcpiWarning::Structure { table, offset, bytes });
        }
        offset = end;
    }
    Ok(())
}
