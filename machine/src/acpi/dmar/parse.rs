//! From bytes to structures: VT-d 8.1 to 8.9.

use super::super::vet::{Field, sums_to_zero};
use super::error::{DmarError, DmarWarning};
use super::scope;
use super::structures::{Andd, Atsr, Dmar, DmarFlags, Drhd, Rhsa, Rmrr, Satc, Sidp};
use crate::addr::{HostPhys, PAGE_SIZE};
use alloc::string::String;
use alloc::vec::Vec;

/// The highest address there can be (52 bits).
const HIGHEST: u64 = (1 << 52) - 1;
/// Where the structures begin.
const FIRST: usize = 48;

/// One structure, its length checked.
struct Structure<'a> {
    kind: u16,
    offset: usize,
    bytes: &'a [u8],
}

impl Structure<'_> {
    fn short(&self) -> DmarError {
        let bytes = u16::try_from(self.bytes.len()).unwrap_or(u16::MAX);
        DmarError::Structure { kind: self.kind, offset: self.offset, bytes }
    }

    fn u8(&self, offset: usize) -> Result<u8, DmarError> {
        self.bytes.get(offset).copied().ok_or(self.short())
    }

    fn u16(&self, offset: usize) -> Result<u16, DmarError> {
        self.bytes.u16(offset).ok_or(self.short())
    }

    fn u32(&self, offset: usize) -> Result<u32, DmarError> {
        self.bytes.u32(offset).ok_or(self.short())
    }

    fn u64(&self, offset: usize) -> Result<u64, DmarError> {
        self.bytes.u64(offset).ok_or(self.short())
    }

    fn scopes(&self, offset: usize) -> Result<Vec<scope::DeviceScope>, DmarError> {
        scope::parse(self.bytes.get(offset..).ok_or(self.short())?, self.offset + offset)
    }

    fn address(&self, address: u64) -> DmarError {
        DmarError::Address { offset: self.offset, address }
    }

    fn unit(&self) -> Result<Drhd, DmarError> {
        let base = self.u64(8)?;
        // Bits 3:0, a power of two of pages (VT-d 4.0 on; zero, one page, before).
        let bytes = PAGE_SIZE << (self.u8(5)? & 0xf);
        let end = base.checked_add(bytes);
        if base == 0 || base % PAGE_SIZE != 0 || end.is_none_or(|end| end > 1 << 52) {
            return Err(self.address(base));
        }
        Ok(Drhd {
            include_all: self.u8(4)? & 1 != 0,
            segment: self.u16(6)?,
            base: HostPhys(base),
            bytes,
            scopes: self.scopes(16)?,
            offset: self.offset,
        })
    }

    /// A range that can't be is taken to be everything: whoever uses it is refused, and nobody else.
    fn reserved(&self) -> Result<(Rmrr, Option<DmarWarning>), DmarError> {
        let (mut base, mut last) = (self.u64(8)?, self.u64(16)?);
        let wrong = if base % PAGE_SIZE != 0 {
            Some(base)
        } else if last <= base || last % PAGE_SIZE != PAGE_SIZE - 1 || last > HIGHEST {
            Some(last)
        } else {
            None
        };
        let warning = wrong.map(|address| DmarWarning::Reserved { offset: self.offset, address });
        if warning.is_some() {
            (base, last) = (0, HIGHEST);
        }
        let (segment, scopes) = (self.u16(6)?, self.scopes(24)?);
        Ok((Rmrr { segment, base: HostPhys(base), last: HostPhys(last), scopes, offset: self.offset }, warning))
    }

    /// Structures that only advise.
    fn advice(&self, dmar: &mut Dmar) -> Result<(), DmarError> {
        match self.kind {
            2 => dmar.ats_ports.push(Atsr {
                all_ports: self.u8(4)? & 1 != 0,
                segment: self.u16(6)?,
                scopes: self.scopes(8)?,
            }),
            3 => dmar.nodes.push(Rhsa { base: HostPhys(self.u64(8)?), proximity: self.u32(16)? }),
            4 => {
                let name = self.bytes.get(8..).ok_or(self.short())?.split(|byte| *byte == 0).next().unwrap_or_default();
                let show = |byte: &u8| {
                    if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }
                };
                let name = name.iter().map(show).collect::<String>();
                dmar.named.push(Andd { number: self.u8(7)?, name });
            }
            5 => dmar.caching.push(Satc {
                required: self.u8(4)? & 1 != 0,
                segment: self.u16(6)?,
                scopes: self.scopes(8)?,
            }),
            6 => dmar.properties.push(Sidp { segment: self.u16(6)?, scopes: self.scopes(8)? }),
            kind => dmar.warnings.push(DmarWarning::Unknown { kind, offset: self.offset }),
        }
        Ok(())
    }
}

impl Dmar {
    /// Parses a whole table, header included. Bytes beyond its stated length are ignored.
    ///
    /// An error in what isolation rests on (the header, any structure's length, units, scopes of reserved
    /// memory) refuses the table: a unit or a region overlooked would be a hole.
    pub fn parse(bytes: &[u8]) -> Result<Self, DmarError> {
        let stated = bytes.u32(4).filter(|_| bytes.starts_with(b"DMAR")).ok_or(DmarError::Header)?;
        let length = usize::try_from(stated).unwrap_or(usize::MAX);
        let table = bytes.get(..length).filter(|table| table.len() >= FIRST);
        let table = table.ok_or(DmarError::Length { stated, bytes: bytes.len() })?;
        if !sums_to_zero(table) {
            return Err(DmarError::Checksum);
        }
        let [width, flags] = table.array(36).ok_or(DmarError::Header)?;
        let mut dmar = Self {
            host_address_bits: width.saturating_add(1),
            flags: DmarFlags::from_bits_truncate(flags),
            units: Vec::new(),
            reserved: Vec::new(),
            ats_ports: Vec::new(),
            nodes: Vec::new(),
            named: Vec::new(),
            caching: Vec::new(),
            properties: Vec::new(),
            warnings: Vec::new(),
        };
        let mut offset = FIRST;
        while offset < table.len() {
            let structure = structure(table, offset)?;
            // At least 4, so the walk ends.
            offset += structure.bytes.len();
            dmar.take(&structure)?;
        }
        if dmar.units.is_empty() {
            return Err(DmarError::NoUnits);
        }
        dmar.cut_overlaps();
        Ok(dmar)
    }

    fn take(&mut self, structure: &Structure<'_>) -> Result<(), DmarError> {
        match structure.kind {
            0 => {
                let unit = structure.unit()?;
                self.unknown_scopes(&unit.scopes);
                return self.unit(unit);
            }
            1 => {
                let (region, warning) = structure.reserved()?;
                self.warnings.extend(warning);
                self.unknown_scopes(&region.scopes);
                self.reserved.push(region);
            }
            _ => {
                if let Err(error) = structure.advice(self) {
                    self.warnings.push(DmarWarning::Skipped(error));
                }
            }
        }
        Ok(())
    }

    fn unit(&mut self, mut unit: Drhd) -> Result<(), DmarError> {
        let (segment, offset, address) = (unit.segment, unit.offset, unit.base.0);
        let rival = |other: &Drhd| other.include_all && other.segment == segment && other.base.0 != address;
        if unit.include_all && self.units.iter().any(rival) {
            self.warnings.push(DmarWarning::TwoCatchAll { segment, offset });
            unit.include_all = false;
        }
        // Two drivers for one set of registers would undo each other.
        match self.units.iter_mut().find(|other| other.base == unit.base) {
            Some(known) if known.segment == segment => {
                self.warnings.push(DmarWarning::SameUnit { offset, address });
                known.include_all |= unit.include_all;
                known.scopes.append(&mut unit.scopes);
            }
            Some(_) => return Err(DmarError::Address { offset, address }),
            None => self.units.push(unit),
        }
        Ok(())
    }

    /// Ends the registers of each unit where another's begin.
    fn cut_overlaps(&mut self) {
        let starts: Vec<u64> = self.units.iter().map(|unit| unit.base.0).collect();
        for unit in &mut self.units {
            let inside = |start: &&u64| **start > unit.base.0 && **start - unit.base.0 < unit.bytes;
            if let Some(&address) = starts.iter().filter(inside).min() {
                unit.bytes = address - unit.base.0;
                self.warnings.push(DmarWarning::Overlap { offset: unit.offset, address });
            }
        }
    }

    fn unknown_scopes(&mut self, scopes: &[scope::DeviceScope]) {
        for scope in scopes.iter().filter(|scope| !(1..=5).contains(&scope.kind.0)) {
            self.warnings.push(DmarWarning::UnknownScope { kind: scope.kind.0, offset: scope.offset });
        }
    }
}

/// The structure at `offset`, if its length is at least a header and stays in the table.
fn structure(table: &[u8], offset: usize) -> Result<Structure<'_>, DmarError> {
    let rest = table.get(offset..).unwrap_or_default();
    let kind = rest.u16(0).unwrap_or(u16::MAX);
    let length = rest.u16(2).unwrap_or(0);
    let bytes = rest.get(..usize::from(length)).filter(|bytes| bytes.len() >= 4);
    let bytes = bytes.ok_or(DmarError::Structure { kind, offset, bytes: length })?;
    Ok(Structure { kind, offset, bytes })
}
