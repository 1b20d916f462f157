//! The IOMMU's structures in memory, read from outside: what hardware walks, byte for byte (VT-d 9).

use anyhow::{Context, Result, bail};

use crate::machine::Machine;
use crate::outside::{IQA, IRTA, RTADDR};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// Address bits of an entry that points to a page (VT-d 9.1, 9.8).
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Read or write: a second-stage entry is present (VT-d 9.8); a first-stage entry by the first of them (VT-d 9.7).
const PRESENT: u64 = 3;
const LEAF: u64 = 1 << 7;
/// Translation type of a root table address: legacy mode, scalable mode (VT-d 11.4.5).
const MODE: u64 = 3 << 10;
const LEGACY: u64 = 0;
const SCALABLE: u64 = 1 << 10;
/// Translation type of a PASID entry: first stage, second stage (VT-d 9.6).
const FIRST_STAGE: u64 = 0b001;
const SECOND_STAGE: u64 = 0b010;

/// A piece of physical memory at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Piece {
    /// What it is.
    pub name: String,
    /// Where it is.
    pub base: u64,
    /// What was there.
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Reads it.
    ///
    /// # Errors
    /// When QEMU doesn't answer.
    pub fn read(machine: &Machine, name: &str, base: u64, bytes: u64) -> Result<Self> {
        Ok(Self { name: name.into(), base, bytes: machine.memory(base, bytes)? })
    }

    /// The same place now.
    ///
    /// # Errors
    /// When QEMU doesn't answer.
    pub fn again(&self, machine: &Machine) -> Result<Self> {
        Self::read(machine, &self.name, self.base, self.bytes.len() as u64)
    }

    /// Its 32 bits at a byte offset; 0 beyond its end.
    #[must_use]
    pub fn long(&self, at: usize) -> u32 {
        self.bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
    }

    /// A 64-bit word of it.
    fn word(&self, index: usize) -> u64 {
        let at = index * 8;
        self.bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    }
}

/// Everything that the only unit walks.
pub struct Structures {
    /// Root table, context tables, PASID tables, page tables, interrupt remapping table: what only Baton may change.
    pub pieces: Vec<Piece>,
    /// The page of the invalidation queue; Baton writes to it whenever it forgets something.
    pub queue: u64,
    /// The root of the page tables and their levels, by requester id.
    roots: Vec<(u16, u64, u8)>,
}

impl Structures {
    /// Reads them.
    ///
    /// # Errors
    /// When QEMU doesn't answer, or something is of a kind that Baton doesn't use for guests.
    pub fn read(machine: &Machine) -> Result<Self> {
        let qmp = machine.qmp()?;
        let root = qmp.read_u64(RTADDR)?;
        let interrupts = qmp.read_u64(IRTA)?;
        let mut this = Self { pieces: Vec::new(), queue: qmp.read_u64(IQA)? & ADDRESS, roots: Vec::new() };
        let entries = 16u64 << ((interrupts & 0xf) + 1);
        this.pieces.push(Piece::read(machine, "interrupt remapping table", interrupts & ADDRESS, entries)?);
        let table = Piece::read(machine, "root table", root & ADDRESS, PAGE)?;
        for bus in 0..256u16 {
            let [low, high] = [0, 1].map(|half| table.word(usize::from(bus) * 2 + half));
            match root & MODE {
                LEGACY if low & 1 != 0 => this.contexts(machine, bus, low & ADDRESS)?,
                SCALABLE => {
                    for (entry, first) in [(low, 0), (high, 128)] {
                        if entry & 1 != 0 {
                            this.scalable_contexts(machine, bus, first, entry & ADDRESS)?;
                        }
                    }
                }
                LEGACY => {}
                mode => bail!("the root table is of an unknown mode: {mode:#x}"),
            }
        }
        this.pieces.push(table);
        for (source, base, levels) in this.roots.clone() {
            this.pages(machine, source, base, levels)?;
        }
        Ok(this)
    }

    /// VT-d 9.3: AW is 1 for three levels, 2 for four.
    fn contexts(&mut self, machine: &Machine, bus: u16, base: u64) -> Result<()> {
        let table = Piece::read(machine, &format!("context table of bus {bus:#x}"), base, PAGE)?;
        for function in 0..256u16 {
            let [low, high] = [0, 1].map(|half| table.word(usize::from(function) * 2 + half));
            if low & 1 != 0 {
                self.roots.push((bus << 8 | function, low & ADDRESS, (high & 7) as u8 + 2));
            }
        }
        self.pieces.push(table);
        Ok(())
    }

    /// VT-d 9.4 to 9.6: a directory of PASID tables for each device; its own requests use PASID 0.
    fn scalable_contexts(&mut self, machine: &Machine, bus: u16, first: u16, base: u64) -> Result<()> {
        let table = Piece::read(machine, &format!("context table of bus {bus:#x} from {first:#x}"), base, PAGE)?;
        for function in 0..128u16 {
            let entry = table.word(usize::from(function) * 4);
            if entry & 1 == 0 {
                continue;
            }
            let source = (bus << 8 | first) + function;
            let directory =
                Piece::read(machine, &format!("PASID directory of device {source:#06x}"), entry & ADDRESS, PAGE)?;
            for index in 0..512 {
                let entry = directory.word(index);
                if entry & 1 == 0 {
                    continue;
                }
                let name = format!("PASID table {index} of device {source:#06x}");
                let pasids = Piece::read(machine, &name, entry & ADDRESS, PAGE)?;
                for pasid in 0..64 {
                    let [low, _, third] = [0, 1, 2].map(|word| pasids.word(pasid * 8 + word));
                    match low >> 6 & 7 {
                        _ if low & 1 == 0 => {}
                        SECOND_STAGE => self.roots.push((source, low & ADDRESS, (low >> 2 & 7) as u8 + 2)),
                        FIRST_STAGE => self.roots.push((source, third & ADDRESS, (third >> 2 & 3) as u8 + 4)),
                        other => bail!("PASID {pasid} of device {source:#06x} is translated in way {other}"),
                    }
                }
                self.pieces.push(pasids);
            }
            self.pieces.push(directory);
        }
        self.pieces.push(table);
        Ok(())
    }

    fn pages(&mut self, machine: &Machine, source: u16, base: u64, level: u8) -> Result<()> {
        let table = Piece::read(machine, &format!("level {level} of device {source:#06x}"), base, PAGE)?;
        let below = (0..512).map(|index| table.word(index)).filter(|entry| entry & PRESENT != 0 && entry & LEAF == 0);
        let below: Vec<u64> = below.map(|entry| entry & ADDRESS).collect();
        self.pieces.push(table);
        if level > 1 {
            below.into_iter().try_for_each(|base| self.pages(machine, source, base, level - 1))?;
        }
        Ok(())
    }

    fn table(&self, base: u64) -> Result<&Piece> {
        self.pieces.iter().find(|piece| piece.base == base).with_context(|| format!("no table at {base:#x}"))
    }

    /// The first piece with such a name.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&self, name: &str) -> Result<&Piece> {
        self.pieces.iter().find(|piece| piece.name.contains(name)).with_context(|| format!("there is no {name}"))
    }

    /// The root of a device's page tables.
    ///
    /// # Errors
    /// The device has none.
    pub fn root_of(&self, source: u16) -> Result<u64> {
        let found = self.roots.iter().find(|(known, ..)| *known == source);
        Ok(found.with_context(|| format!("device {source:#06x} has no context entry"))?.1)
    }

    /// Where `address` of a device lies in physical memory.
    ///
    /// # Errors
    /// Nowhere.
    pub fn translate(&self, source: u16, address: u64) -> Result<u64> {
        let found = self.roots.iter().find(|(known, ..)| *known == source);
        let (_, mut base, levels) = *found.with_context(|| format!("device {source:#06x} has no context entry"))?;
        for level in (1..=levels).rev() {
            let shift = 12 + 9 * u32::from(level - 1);
            let entry = self.table(base)?.word((address >> shift & 0x1ff) as usize);
            if entry & PRESENT == 0 {
                break;
            }
            if level == 1 || entry & LEAF != 0 {
                let offset = (1u64 << shift) - 1;
                return Ok(entry & ADDRESS & !offset | address & offset);
            }
            base = entry & ADDRESS;
        }
        bail!("device {source:#06x} has no mapping at {address:#x}")
    }
}
