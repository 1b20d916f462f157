//! Names: of devices, domains and units.

use core::fmt;

/// A requester id in a PCI segment: bus in bits 15:8, device in 7:3, function in 2:0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// PCI segment group.
    pub segment: u16,
    /// Requester id.
    pub source: u16,
}

impl DeviceId {
    /// The function `bus:device.function` of `segment`.
    #[must_use]
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        let source = (bus as u16) << 8 | ((device & 0x1f) as u16) << 3 | (function & 7) as u16;
        Self { segment, source }
    }

    /// The bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.source >> 8) as u8
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) =
            (self.source >> 8, (self.source >> 3) & 0x1f, self.source & 7);
        write!(f, "{:04x}:{bus:02x}:{device:02x}.{function}", self.segment)
    }
}

/// The name of a domain, stable across images. The caller chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Which of the machine's units: the place in the list given at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitIndex(pub usize);

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn requester_ids() {
        let device = DeviceId::new(0, 0x3a, 0x1f, 7);
        assert_eq!((device.source, device.bus()), (0x3aff, 0x3a));
        assert_eq!(device.to_string(), "0000:3a:1f.7");
        assert_eq!(
            DeviceId {
                segment: 1,
                source: 0x0108
            }
            .to_string(),
            "0001:01:01.0"
        );
    }
}
