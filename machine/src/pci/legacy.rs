//! Configuration mechanism 1, ports 0xCF8 and 0xCFC: PCI 3.2.2.3.2.

use super::bdf::Bdf;
use super::config::ConfigSpace;
use crate::access::{Ports, Width};
use core::cell::Cell;
use core::marker::PhantomData;

/// Where the address goes.
const ADDRESS: u16 = 0xcf8;
/// Where the data is.
const DATA: u16 = 0xcfc;
/// Turns the data port on.
const ENABLE: u32 = 1 << 31;

/// The first 256 bytes of segment 0, through ports.
///
/// An access is two port accesses, so the type is not `Sync`: share it under a lock.
#[derive(Debug)]
pub struct LegacyConfig<P: Ports> {
    ports: P,
    not_sync: PhantomData<Cell<()>>,
}

impl<P: Ports> LegacyConfig<P> {
    /// Through `ports`, which must answer 0xCF8 to 0xCFF.
    pub const fn new(ports: P) -> Self {
        Self { ports, not_sync: PhantomData }
    }

    /// Points the data port at the register; gives the port of its first byte.
    fn select(&self, bdf: Bdf, offset: u16, width: Width) -> Option<u16> {
        let aligned = offset.is_multiple_of(u16::from(width.bytes()));
        if bdf.segment() != 0 || offset > 255 || !aligned {
            return None;
        }
        let address = ENABLE | u32::from(bdf.requester_id()) << 8 | u32::from(offset & 0xfc);
        self.ports.write(ADDRESS, Width::Long, address);
        Some(DATA + (offset & 3))
    }
}

impl<P: Ports> ConfigSpace for LegacyConfig<P> {
    fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32 {
        self.select(bdf, offset, width).map_or(width.all_ones(), |port| self.ports.read(port, width))
    }

    fn write(&self, bdf: Bdf, offset: u16, width: Width, value: u32) {
        if let Some(port) = self.select(bdf, offset, width) {
            self.ports.write(port, width, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use std::vec;
    use std::vec::Vec;

    #[derive(Default)]
    struct Recorder(RefCell<Vec<(u16, Width, u32)>>);

    impl Ports for Recorder {
        fn read(&self, port: u16, width: Width) -> u32 {
            self.0.borrow_mut().push((port, width, 0));
            0x5a
        }

        fn write(&self, port: u16, width: Width, value: u32) {
            self.0.borrow_mut().push((port, width, value));
        }
    }

    #[test]
    fn address_register() {
        let config = LegacyConfig::new(Recorder::default());
        let bdf: Bdf = "03:1f.2".parse().unwrap();
        assert_eq!(config.read8(bdf, 0x3d), 0x5a);
        config.write32(bdf, 0x10, 7);
        assert_eq!(config.read32(bdf, 0x100), 0xffff_ffff);
        assert_eq!(config.read16(bdf, 3), 0xffff);
        assert_eq!(config.read8("0001:03:1f.2".parse().unwrap(), 0), 0xff);
        let log = config.ports.0.into_inner();
        let expected = vec![
            (0xcf8, Width::Long, 0x8003_fa3c),
            (0xcfd, Width::Byte, 0),
            (0xcf8, Width::Long, 0x8003_fa10),
            (0xcfc, Width::Long, 7),
        ];
        assert_eq!(log, expected);
    }
}
