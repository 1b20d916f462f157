//! Who may raise an interrupt: what a remapping entry verifies (VT-d 5.1.7, 9.10).

use crate::intel::spec::interrupts::{InterruptEntry, SourceValidation};
use machine::pci::Bdf;

/// The requester ids that an interrupt remapping entry lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptSource {
    /// One requester id (SVT = 01b, SQ = 00b): a function, an IOAPIC, an HPET.
    Function(u16),
    /// A function that also sends as its phantom functions (PCIe 7.5.3.3): the upper `bits` of the
    /// function number, 1 to 3, do not count (SVT = 01b, SQ = `bits`).
    Phantom {
        /// The function itself.
        source: u16,
        /// Phantom Functions Supported.
        bits: u8,
    },
    /// Everything on these buses (SVT = 10b): a device behind a PCIe-to-PCI bridge, which sends
    /// under its own id or the bridge's.
    Buses {
        /// The first bus.
        first: u8,
        /// The last, inclusive.
        last: u8,
    },
}

impl InterruptSource {
    /// The narrowest that covers a device and its aliases.
    #[must_use]
    pub fn covering(device: Bdf, aliases: &[u16]) -> Self {
        let source = device.requester_id();
        let differs = aliases.iter().fold(0, |bits, alias| bits | (alias ^ source));
        // SQ ignores function bit 2, bits 2:1 or bits 2:0.
        match differs {
            0 => Self::Function(source),
            0b100 => Self::Phantom { source, bits: 1 },
            0b010 | 0b110 => Self::Phantom { source, bits: 2 },
            0b001..=0b111 => Self::Phantom { source, bits: 3 },
            _ => {
                let buses = || aliases.iter().chain(core::iter::once(&source)).map(|id| (id >> 8) as u8);
                let bus = (source >> 8) as u8;
                Self::Buses { first: buses().min().unwrap_or(bus), last: buses().max().unwrap_or(bus) }
            }
        }
    }

    /// SID, SQ and SVT of `entry`, and nothing else of it.
    #[must_use]
    pub fn bind(self, entry: InterruptEntry) -> InterruptEntry {
        let (id, qualifier, validation) = match self {
            Self::Function(source) => (source, 0, SourceValidation::SOURCE),
            Self::Phantom { source, bits } => (source, bits.min(3), SourceValidation::SOURCE),
            Self::Buses { first, last } => (u16::from(first) << 8 | u16::from(last), 0, SourceValidation::BUS),
        };
        entry.with_source(id).with_source_qualifier(qualifier).with_validation(validation)
    }

    /// What `entry` verifies; `None` when that is nothing this driver writes.
    #[must_use]
    pub fn of(entry: InterruptEntry) -> Option<Self> {
        let (source, bits) = (entry.source(), entry.source_qualifier());
        match (entry.validation(), bits) {
            (SourceValidation::SOURCE, 0) => Some(Self::Function(source)),
            (SourceValidation::SOURCE, _) => Some(Self::Phantom { source, bits }),
            (SourceValidation::BUS, 0) => Some(Self::Buses { first: (source >> 8) as u8, last: source as u8 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intel::spec::tables::pair;

    /// By hand from VT-d 9.10 and Linux's set_irte_sid(), set_irte_verify_bus(): SVT 83:82, SQ 81:80, SID 79:64.
    #[test]
    fn bits() {
        let high = |source: InterruptSource| pair(source.bind(InterruptEntry::new()).into_bits())[1];
        assert_eq!(high(InterruptSource::Function(0x0108)), 0x4_0108);
        assert_eq!(high(InterruptSource::Phantom { source: 0x0108, bits: 2 }), 0x6_0108);
        assert_eq!(high(InterruptSource::Buses { first: 3, last: 5 }), 0x8_0305);
        for source in [
            InterruptSource::Function(0xffff),
            InterruptSource::Phantom { source: 0x0300, bits: 3 },
            InterruptSource::Buses { first: 0, last: 255 },
        ] {
            assert_eq!(InterruptSource::of(source.bind(InterruptEntry::new())), Some(source));
        }
        assert_eq!(InterruptSource::of(InterruptEntry::new()), None);
    }

    #[test]
    fn the_narrowest() {
        let covering = |aliases: &[u16]| InterruptSource::covering(Bdf::from_requester_id(0, 0x0301), aliases);
        assert_eq!(covering(&[]), InterruptSource::Function(0x0301));
        assert_eq!(covering(&[0x0301]), InterruptSource::Function(0x0301));
        assert_eq!(covering(&[0x0305]), InterruptSource::Phantom { source: 0x0301, bits: 1 });
        assert_eq!(covering(&[0x0305, 0x0303, 0x0307]), InterruptSource::Phantom { source: 0x0301, bits: 2 });
        assert_eq!(covering(&[0x0300]), InterruptSource::Phantom { source: 0x0301, bits: 3 });
        // Behind a PCIe-to-PCI bridge with secondary bus 3: its messages bear 03:00.0.
        let behind = InterruptSource::covering(Bdf::from_requester_id(0, 0x0508), &[0x0300]);
        assert_eq!(behind, InterruptSource::Buses { first: 3, last: 5 });
        let same_bus = InterruptSource::covering(Bdf::from_requester_id(0, 0x0308), &[0x0300]);
        assert_eq!(same_bus, InterruptSource::Buses { first: 3, last: 3 });
    }
}
