//! Memory-mapped registers at a physical address that is mapped one to one.
#![expect(unsafe_code, reason = "volatile loads and stores to registers; the constructor states the contract")]

use crate::access::Registers;
use crate::addr::HostPhys;
use core::ptr;

/// A block of registers, reached by volatile accesses of exactly the width asked for.
///
/// An access that leaves the block or is not aligned to its width does what an
/// empty bus does: reads are all ones, writes are lost. Offsets that firmware or a
/// device supplied can therefore do no harm.
#[derive(Clone, Copy, Debug)]
pub struct MmioRegion {
    base: HostPhys,
    bytes: usize,
}

macro_rules! accessors {
    ($($read:ident, $write:ident: $type:ty;)+) => {$(
        #[doc = concat!("Reads a `", stringify!($type), "` at `offset`.")]
        #[must_use]
        pub fn $read(&self, offset: usize) -> $type {
            match self.pointer::<$type>(offset) {
                // SAFETY: the pointer is aligned and within the block, which the
                // constructor's caller promised to be mapped registers.
                Some(pointer) => unsafe { ptr::read_volatile(pointer) },
                None => <$type>::MAX,
            }
        }

        #[doc = concat!("Writes a `", stringify!($type), "` at `offset`.")]
        pub fn $write(&self, offset: usize, value: $type) {
            if let Some(pointer) = self.pointer::<$type>(offset) {
                // SAFETY: as for reads; what a write does to the device is its driver's business.
                unsafe { ptr::write_volatile(pointer, value) }
            }
        }
    )+};
}

impl MmioRegion {
    /// The registers at `base`, `bytes` long.
    ///
    /// # Safety
    /// As long as the value (or a copy) lives, `base..base + bytes` is mapped one to one,
    /// readable, writable and uncached, and is a device's registers: no Rust object lies there.
    #[must_use]
    pub const unsafe fn new(base: HostPhys, bytes: usize) -> Self {
        Self { base, bytes }
    }

    /// Physical address of the block.
    #[must_use]
    pub const fn base(&self) -> HostPhys {
        self.base
    }

    /// Length of the block in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The part of the block from `offset`, `bytes` long; `None` if it sticks out.
    #[must_use]
    pub fn part(&self, offset: usize, bytes: usize) -> Option<Self> {
        let end = offset.checked_add(bytes)?;
        let base = self.base.checked_add(offset as u64)?;
        (end <= self.bytes).then_some(Self { base, bytes })
    }

    fn pointer<T>(&self, offset: usize) -> Option<*mut T> {
        let end = offset.checked_add(size_of::<T>())?;
        let address = self.base.checked_add(offset as u64)?;
        let fits = end <= self.bytes && address.is_aligned(size_of::<T>() as u64);
        fits.then(|| ptr::with_exposed_provenance_mut(address.0 as usize))
    }

    accessors! {
        read_u8, write_u8: u8;
        read_u16, write_u16: u16;
        read_u32, write_u32: u32;
        read_u64, write_u64: u64;
    }
}

impl Registers for MmioRegion {
    fn read32(&self, offset: usize) -> u32 {
        self.read_u32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        self.write_u32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.read_u64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        self.write_u64(offset, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::boxed::Box;

    #[test]
    fn widths_and_bounds() {
        let block: &'static mut [u64; 4] = Box::leak(Box::new([0x8877_6655_4433_2211, 0, 0, 0]));
        let base = HostPhys((&raw mut *block).expose_provenance() as u64);
        // SAFETY: the block is leaked and reached through this region only.
        let region = unsafe { MmioRegion::new(base, 32) };
        assert_eq!(region.read_u8(1), 0x22);
        assert_eq!(region.read_u16(2), 0x4433);
        assert_eq!(region.read32(4), 0x8877_6655);
        region.write64(24, 7);
        assert_eq!(region.read64(24), 7);
        // Out of the block, across its end, unaligned, overflowing.
        for offset in [32, 28, 25, usize::MAX, usize::MAX - 7] {
            assert_eq!(region.read64(offset), u64::MAX, "{offset:#x}");
            region.write64(offset, 1);
        }
        assert_eq!(region.read64(24), 7);
        assert_eq!(region.read32(2), u32::MAX);
        let part = region.part(24, 8).unwrap();
        assert_eq!(part.read64(0), 7);
        assert_eq!(part.read32(8), u32::MAX);
        assert!(region.part(24, 9).is_none());
        assert!(region.part(usize::MAX, 2).is_none());
    }
}
