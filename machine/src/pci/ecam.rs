//! Memory-mapped configuration space: PCIe 7.2.2, the MCFG table.
#![expect(unsafe_code, reason = "the constructor takes over physical ranges")]

use super::bdf::Bdf;
use super::config::ConfigSpace;
use crate::access::Width;
use crate::addr::HostPhys;
use crate::mmio::MmioRegion;
use alloc::vec::Vec;

/// One line of the MCFG table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EcamRegion {
    /// Where bus 0 of the segment would be; the region itself begins at `start_bus`.
    pub base: HostPhys,
    /// The segment group.
    pub segment: u16,
    /// The first bus.
    pub start_bus: u8,
    /// The last bus, inclusive.
    pub end_bus: u8,
}

impl EcamRegion {
    /// Where the region begins (1 MiB for each bus), and how many bytes it has; `None`
    /// if the numbers make no sense.
    #[must_use]
    pub fn extent(&self) -> Option<(HostPhys, u64)> {
        let buses = u64::from(self.end_bus.checked_sub(self.start_bus)?) + 1;
        let start = self.base.checked_add(u64::from(self.start_bus) << 20)?;
        let end = start.checked_add(buses << 20)?;
        (self.base.is_aligned(1 << 20) && self.base.0 != 0 && end.0 <= 1 << 52).then_some((start, buses << 20))
    }

    /// Whether the two share neither addresses nor buses.
    #[must_use]
    pub fn is_apart(&self, other: &Self) -> bool {
        let same_buses =
            self.segment == other.segment && self.start_bus <= other.end_bus && other.start_bus <= self.end_bus;
        let same_addresses = match (self.extent(), other.extent()) {
            (Some((one, bytes)), Some((two, others))) => one.0 < two.0 + others && two.0 < one.0 + bytes,
            _ => false,
        };
        !same_buses && !same_addresses
    }
}

/// Configuration space as the MCFG table describes it.
#[derive(Clone, Debug)]
pub struct Ecam {
    regions: Vec<(EcamRegion, MmioRegion)>,
}

impl Ecam {
    /// Configuration space through `regions`. Lines that make no sense are left out.
    ///
    /// # Safety
    /// Each region's [`extent`](EcamRegion::extent) is mapped one to one and uncached,
    /// and is configuration space.
    #[must_use]
    pub unsafe fn new(regions: &[EcamRegion]) -> Self {
        let regions = regions.iter().filter_map(|&region| {
            let (start, bytes) = region.extent()?;
            // SAFETY: the caller's promise, for this very range.
            Some((region, unsafe { MmioRegion::new(start, usize::try_from(bytes).ok()?) }))
        });
        Self { regions: regions.collect() }
    }

    /// The regions in use.
    pub fn regions(&self) -> impl Iterator<Item = EcamRegion> + '_ {
        self.regions.iter().map(|(region, _)| *region)
    }

    fn locate(&self, bdf: Bdf, offset: u16) -> Option<(&MmioRegion, usize)> {
        let (region, mmio) = self.regions.iter().find(|(region, _)| {
            region.segment == bdf.segment() && (region.start_bus..=region.end_bus).contains(&bdf.bus())
        })?;
        let bus = usize::from(bdf.bus() - region.start_bus);
        (offset < 4096).then(|| (mmio, bus << 20 | usize::from(bdf.devfn()) << 12 | usize::from(offset)))
    }
}

impl ConfigSpace for Ecam {
    fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32 {
        let Some((mmio, offset)) = self.locate(bdf, offset) else {
            return width.all_ones();
        };
        match width {
            Width::Byte => mmio.read_u8(offset).into(),
            Width::Word => mmio.read_u16(offset).into(),
            Width::Long => mmio.read_u32(offset),
        }
    }

    fn write(&self, bdf: Bdf, offset: u16, width: Width, value: u32) {
        let Some((mmio, offset)) = self.locate(bdf, offset) else {
            return;
        };
        match width {
            Width::Byte => mmio.write_u8(offset, value as u8),
            Width::Word => mmio.write_u16(offset, value as u16),
            Width::Long => mmio.write_u32(offset, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec;

    #[test]
    fn addresses() {
        // PCIe 7.2.2: bus 27:20, device 19:15, function 14:12, register 11:0.
        let layout = std::alloc::Layout::from_size_align(2 << 20, 1 << 20).unwrap();
        // SAFETY: the layout has a size.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        let start = memory.expose_provenance() as u64;
        let region = EcamRegion { base: HostPhys(start - (2 << 20)), segment: 1, start_bus: 2, end_bus: 3 };
        assert_eq!(region.extent(), Some((HostPhys(start), 2 << 20)));
        // SAFETY: the memory above is never freed.
        let ecam = unsafe { Ecam::new(&[region]) };
        let bdf: Bdf = "0001:03:1f.2".parse().unwrap();
        ecam.write16(bdf, 0xffe, 0x1234);
        // SAFETY: inside the 2 MiB.
        assert_eq!(unsafe { *memory.add(0x1f_affe) }, 0x34);
        assert_eq!(ecam.read8(bdf, 0xfff), 0x12);
        assert_eq!(ecam.read32(bdf, 0xffe), 0xffff_ffff);
        assert_eq!(ecam.read32(bdf, 0x1000), 0xffff_ffff);
        assert_eq!(ecam.read32("0001:04:00.0".parse().unwrap(), 0), 0xffff_ffff);
        assert_eq!(ecam.read32("0000:03:00.0".parse().unwrap(), 0), 0xffff_ffff);
    }

    #[test]
    fn nonsense_is_left_out() {
        let good = EcamRegion { base: HostPhys(0xb000_0000), segment: 0, start_bus: 0, end_bus: 255 };
        let bad = [
            EcamRegion { start_bus: 9, end_bus: 8, ..good },
            EcamRegion { base: HostPhys(0xb000_0001), ..good },
            EcamRegion { base: HostPhys(0xffff_ffff_fff0_0000), ..good },
            EcamRegion { base: HostPhys(0), ..good },
        ];
        // SAFETY: nothing is accessed.
        let ecam = unsafe { Ecam::new(&[bad.as_slice(), &[good]].concat()) };
        assert_eq!(ecam.regions().collect::<vec::Vec<_>>(), [good]);
    }

    #[test]
    fn shared_buses_and_addresses() {
        let region =
            |base, segment, start_bus, end_bus| EcamRegion { base: HostPhys(base), segment, start_bus, end_bus };
        let first = region(0xb000_0000, 0, 0, 0x7f);
        // Two halves of a segment with one base, as ACPI has it; another segment elsewhere.
        assert!(first.is_apart(&region(0xb000_0000, 0, 0x80, 0xff)));
        assert!(first.is_apart(&region(0xc000_0000, 1, 0, 0xff)));
        assert!(!first.is_apart(&region(0xc000_0000, 0, 0x7f, 0xff)));
        assert!(!first.is_apart(&region(0xb000_0000, 1, 0x70, 0xff)));
        assert!(!first.is_apart(&first));
    }
}
