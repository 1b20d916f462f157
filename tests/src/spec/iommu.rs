//! The machine's IOMMU: every way QEMU can make it that an operator may meet.

/// The translation that the unit offers. What Baton uses of it is Baton's choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Legacy mode only.
    Legacy,
    /// Scalable mode with second-stage tables besides.
    Scalable,
    /// Scalable mode with first-stage tables besides.
    FirstStage,
}

/// QEMU's `intel-iommu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iommu {
    /// Translation.
    pub offer: Offer,
    /// Bits of an I/O address: 39 or 48.
    pub address_bits: u8,
    /// Whether the unit caches what is not present.
    pub caching: bool,
    /// Whether it serves devices that have a TLB of their own.
    pub device_tlb: bool,
    /// Whether interrupts can have destinations of 32 bits.
    pub extended_interrupts: bool,
}

impl Default for Iommu {
    fn default() -> Self {
        Self { offer: Offer::Legacy, address_bits: 48, caching: false, device_tlb: true, extended_interrupts: true }
    }
}

impl Iommu {
    /// The option of the command line.
    #[must_use]
    pub fn argument(&self) -> String {
        let word = |on| if on { "on" } else { "off" };
        let offer = match self.offer {
            Offer::Legacy => "",
            Offer::Scalable => ",x-scalable-mode=on",
            Offer::FirstStage => ",x-scalable-mode=on,x-flts=on",
        };
        format!(
            "-device intel-iommu,intremap=on,eim={},aw-bits={},caching-mode={},device-iotlb={}{offer}",
            word(self.extended_interrupts),
            self.address_bits,
            word(self.caching),
            word(self.device_tlb),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_that_of_the_test_bed() {
        let default = "-device intel-iommu,intremap=on,eim=on,aw-bits=48,caching-mode=off,device-iotlb=on";
        assert_eq!(Iommu::default().argument(), default);
    }
}
