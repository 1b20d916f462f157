//! Descriptors of the invalidation queue: VT-d 6.5.2.

use machine::addr::{HostPhys, Iova};

/// Bytes of a descriptor with IQA.DW = 0; with DW = 1 it has as many zeroes behind it.
pub const DESCRIPTOR_BYTES: u64 = 16;

/// Type field of a descriptor, bits 3:0 (its bits 11:9 are zero for all of these).
pub mod kind {
    /// Context-cache invalidate: VT-d 6.5.2.1.
    pub const CONTEXT: u64 = 1;
    /// IOTLB invalidate: VT-d 6.5.2.3.
    pub const IOTLB: u64 = 2;
    /// Device-TLB invalidate: VT-d 6.5.2.5.
    pub const DEVICE_TLB: u64 = 3;
    /// Interrupt entry cache invalidate: VT-d 6.5.2.7.
    pub const INTERRUPT: u64 = 4;
    /// Invalidation wait: VT-d 6.5.2.8.
    pub const WAIT: u64 = 5;
    /// PASID-based IOTLB invalidate: VT-d 6.5.2.4.
    pub const PASID_IOTLB: u64 = 6;
    /// PASID-cache invalidate: VT-d 6.5.2.2.
    pub const PASID_CACHE: u64 = 7;
    /// PASID-based device-TLB invalidate: VT-d 6.5.2.6.
    pub const PASID_DEVICE_TLB: u64 = 8;
}

/// Granularity field of context-cache and IOTLB descriptors, bits 5:4.
mod granularity {
    pub const GLOBAL: u64 = 1 << 4;
    pub const DOMAIN: u64 = 2 << 4;
    /// A device (context cache) or pages (IOTLB).
    pub const NARROW: u64 = 3 << 4;
    /// Of the PASID cache: one PASID (0 is all of a domain, 3 is all).
    pub const PASID: u64 = 1 << 4;
}

/// Which requests an IOTLB invalidation waits for, as CAP.DRD and CAP.DWD allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Drain {
    /// DR: reads are drained.
    pub reads: bool,
    /// DW: writes are drained.
    pub writes: bool,
}

impl Drain {
    const fn bits(self) -> u64 {
        (self.reads as u64) << 7 | (self.writes as u64) << 6
    }
}

/// A device's TLB, as descriptors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceTlb {
    /// SID: the requester id.
    pub source: u16,
    /// The device's ATS invalidate queue depth (0 is 32).
    pub depth: u8,
    /// PFSID: the requester id of its physical function, for units with ECAP.DIT; else `None`.
    pub physical: Option<u16>,
}

impl DeviceTlb {
    const fn throttle_bits(self) -> u64 {
        match self.physical {
            Some(id) => (id as u64 & 0xf) << 12 | (id as u64 >> 4) << 52,
            None => 0,
        }
    }
}

const fn pasid_bits(pasid: u32) -> u64 {
    (pasid as u64 & 0xf_ffff) << 32
}

/// The second word of a device-TLB descriptor: `size` (S) is set and the lowest clear bit of the address says how
/// much, or is clear and it is one page (VT-d 6.5.2.5).
const fn device_range(address: Iova, mask: u8, size: u64) -> u64 {
    match mask {
        0 => address.0 & !0xfff,
        1..52 => {
            let base = address.0 & !((1u64 << (12 + mask as u32)) - 1);
            base | ((1u64 << (12 + mask as u32 - 1)) - 1) & !0xfff | size
        }
        _ => 0x7fff_ffff_ffff_f000 | size,
    }
}

/// A descriptor of 128 bits. The constructors are its only legal shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor([u64; 2]);

impl Descriptor {
    /// Forgets every context entry.
    #[must_use]
    pub const fn context_global() -> Self {
        Self([kind::CONTEXT | granularity::GLOBAL, 0])
    }

    /// Forgets the context entries that name `domain`.
    #[must_use]
    pub const fn context_domain(domain: u16) -> Self {
        Self([kind::CONTEXT | granularity::DOMAIN | (domain as u64) << 16, 0])
    }

    /// Forgets the context entry of `source`, which named `domain` (FM = 0: all of
    /// the source id counts).
    #[must_use]
    pub const fn context_device(domain: u16, source: u16) -> Self {
        Self([kind::CONTEXT | granularity::NARROW | (domain as u64) << 16 | (source as u64) << 32, 0])
    }

    /// Forgets every translation.
    #[must_use]
    pub const fn iotlb_global(drain: Drain) -> Self {
        Self([kind::IOTLB | granularity::GLOBAL | drain.bits(), 0])
    }

    /// Forgets the translations of `domain`.
    #[must_use]
    pub const fn iotlb_domain(domain: u16, drain: Drain) -> Self {
        Self([kind::IOTLB | granularity::DOMAIN | drain.bits() | (domain as u64) << 16, 0])
    }

    /// Forgets the translations of `domain` for 2^`mask` pages from `address`, which is
    /// aligned to that. `leaves_only` (IH): upper levels did not change and may stay cached.
    #[must_use]
    pub const fn iotlb_pages(domain: u16, address: Iova, mask: u8, leaves_only: bool, drain: Drain) -> Self {
        let low = kind::IOTLB | granularity::NARROW | drain.bits() | (domain as u64) << 16;
        Self([low, (address.0 & !0xfff) | (leaves_only as u64) << 6 | (mask as u64 & 0x3f)])
    }

    /// Forgets every PASID table entry. This and the next are for scalable mode.
    #[must_use]
    pub const fn pasid_cache_global() -> Self {
        Self([kind::PASID_CACHE | granularity::NARROW, 0])
    }

    /// Forgets the PASID table entries that name `domain`.
    #[must_use]
    pub const fn pasid_cache_domain(domain: u16) -> Self {
        Self([kind::PASID_CACHE | (domain as u64) << 16, 0])
    }

    /// Forgets the table entries of `pasid` that name `domain`.
    #[must_use]
    pub const fn pasid_cache(domain: u16, pasid: u32) -> Self {
        Self([kind::PASID_CACHE | granularity::PASID | (domain as u64) << 16 | pasid_bits(pasid), 0])
    }

    /// Forgets the first-stage and nested translations of `pasid` in `domain`.
    #[must_use]
    pub const fn pasid_iotlb(domain: u16, pasid: u32) -> Self {
        Self([kind::PASID_IOTLB | granularity::DOMAIN | (domain as u64) << 16 | pasid_bits(pasid), 0])
    }

    /// Likewise, for 2^`mask` pages from `address`, as [`iotlb_pages`](Self::iotlb_pages).
    #[must_use]
    pub const fn pasid_iotlb_pages(domain: u16, pasid: u32, address: Iova, mask: u8, leaves_only: bool) -> Self {
        let low = kind::PASID_IOTLB | granularity::NARROW | (domain as u64) << 16 | pasid_bits(pasid);
        Self([low, (address.0 & !0xfff) | (leaves_only as u64) << 6 | (mask as u64 & 0x3f)])
    }

    /// Has `device` forget 2^`mask` pages from `address`, which is aligned to that; 52 or more are all.
    #[must_use]
    pub const fn device_tlb(device: DeviceTlb, address: Iova, mask: u8) -> Self {
        // S is bit 0.
        let low = kind::DEVICE_TLB | (device.depth as u64 & 0x1f) << 16 | (device.source as u64) << 32;
        Self([low | device.throttle_bits(), device_range(address, mask, 1)])
    }

    /// Likewise, of one PASID of the device.
    #[must_use]
    pub const fn pasid_device_tlb(device: DeviceTlb, pasid: u32, address: Iova, mask: u8) -> Self {
        // S is bit 11; bit 0 (G) would be every PASID.
        let low = kind::PASID_DEVICE_TLB | (device.depth as u64 & 0x1f) << 4 | (device.source as u64) << 16;
        Self([low | device.throttle_bits() | pasid_bits(pasid), device_range(address, mask, 1 << 11)])
    }

    /// Forgets every interrupt remapping table entry.
    #[must_use]
    pub const fn interrupt_global() -> Self {
        Self([kind::INTERRUPT, 0])
    }

    /// Forgets 2^`mask` interrupt remapping table entries from `index`.
    #[must_use]
    pub const fn interrupt_index(index: u16, mask: u8) -> Self {
        Self([kind::INTERRUPT | 1 << 4 | (mask as u64 & 0x1f) << 27 | (index as u64) << 32, 0])
    }

    /// Writes `data` to the 4 bytes at `status` when every descriptor before it is
    /// done. Status write only: no interrupt, which some units cannot do with it.
    #[must_use]
    pub const fn wait(status: HostPhys, data: u32) -> Self {
        Self([kind::WAIT | 1 << 5 | (data as u64) << 32, status.0 & !3])
    }

    /// The bits, `[low, high]`.
    #[must_use]
    pub const fn bits(self) -> [u64; 2] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Drain = Drain { reads: true, writes: true };

    /// Literals put together by hand from Linux's QI_* and QEMU's VTD_INV_DESC_* masks.
    #[test]
    fn vectors() {
        let disk = |depth| DeviceTlb { source: 0x0300, depth, physical: None };
        let virtual_function = DeviceTlb { source: 0x0301, depth: 4, physical: Some(0x0305) };
        let vectors: [(Descriptor, [u64; 2]); 23] = [
            (Descriptor::context_global(), [0x11, 0]),
            (Descriptor::context_domain(0x1234), [0x1234_0021, 0]),
            (Descriptor::context_device(0x0007, 0x0108), [0x0108_0007_0031, 0]),
            (Descriptor::iotlb_global(BOTH), [0xd2, 0]),
            (Descriptor::iotlb_global(Drain::default()), [0x12, 0]),
            (Descriptor::iotlb_domain(0xffff, Drain { reads: false, writes: true }), [0xffff_0062, 0]),
            (Descriptor::iotlb_pages(5, Iova(0x20_0000), 9, true, BOTH), [0x5_00f2, 0x20_0049]),
            (Descriptor::iotlb_pages(5, Iova(0x3000), 0, false, BOTH), [0x5_00f2, 0x3000]),
            (Descriptor::interrupt_global(), [0x4, 0]),
            (Descriptor::interrupt_index(0x0102, 3), [0x0102_1800_0014, 0]),
            (Descriptor::wait(HostPhys(0x1000), 0xdead_beef), [0xdead_beef_0000_0025, 0x1000]),
            (Descriptor::device_tlb(disk(4), Iova(0x5000), 0), [0x0300_0004_0003, 0x5000]),
            // Two pages from 0x8000: S = 1, address bit 12 clear (QEMU: "xxx0: 8K").
            (Descriptor::device_tlb(disk(4), Iova(0x8000), 1), [0x0300_0004_0003, 0x8001]),
            // Linux: QI_DEV_IOTLB_PFSID puts bits 3:0 at 12 and 15:4 at 52.
            (Descriptor::device_tlb(virtual_function, Iova(0x8000), 1), [0x0300_0301_0004_5003, 0x8001]),
            // Linux: QI_PC_GRAN(0, 1, 3), QI_PC_PASID at 32.
            (Descriptor::pasid_cache_domain(5), [0x5_0007, 0]),
            (Descriptor::pasid_cache(5, 0x1_2345), [0x0001_2345_0005_0017, 0]),
            (Descriptor::pasid_cache_global(), [0x37, 0]),
            // QEMU: VTD_INV_DESC_PIOTLB_ALL_IN_PASID is 2 << 4, PSI_IN_PASID 3 << 4.
            (Descriptor::pasid_iotlb(5, 7), [0x7_0005_0026, 0]),
            (Descriptor::pasid_iotlb_pages(5, 7, Iova(0x20_0000), 9, true), [0x7_0005_0036, 0x20_0049]),
            (Descriptor::pasid_iotlb_pages(5, 7, Iova(0x3000), 0, false), [0x7_0005_0036, 0x3000]),
            // Linux: QI_DEV_EIOTLB_QDEP at 4, SID at 16, PASID at 32, SIZE bit 11.
            (Descriptor::pasid_device_tlb(disk(4), 7, Iova(0x5000), 0), [0x7_0300_0048, 0x5000]),
            (Descriptor::pasid_device_tlb(disk(4), 7, Iova(0x8000), 2), [0x7_0300_0048, 0x9800]),
            (Descriptor::pasid_device_tlb(disk(0), 7, Iova(0), 52), [0x7_0300_0008, 0x7fff_ffff_ffff_f800]),
        ];
        for (descriptor, bits) in vectors {
            assert_eq!(descriptor.bits(), bits);
        }
        // QEMU's table: bits 15:12 = xx01 is 16K, 0111 is 64K.
        assert_eq!(Descriptor::device_tlb(disk(0), Iova(0x1_0000), 2).bits()[1], 0x1_1001);
        assert_eq!(Descriptor::device_tlb(disk(0), Iova(0x1_0000), 4).bits()[1], 0x1_7001);
    }

    /// Reserved bits as QEMU checks them (VTD_INV_DESC_*_RSVD*) stay clear for extreme arguments.
    #[test]
    fn reserved_bits_are_clear() {
        let [low, high] = Descriptor::context_device(0xffff, 0xffff).bits();
        assert_eq!((low & 0xfffc_0000_0000_ffc0, high), (0, 0));
        let [low, high] = Descriptor::iotlb_pages(0xffff, Iova(u64::MAX), 0xff, true, BOTH).bits();
        assert_eq!((low & 0xffff_ffff_0000_ff00, high & 0xf80), (0, 0));
        let [low, high] = Descriptor::wait(HostPhys(u64::MAX), u32::MAX).bits();
        assert_eq!((low & 0xffff_ff80, high & 3), (0, 0));
        let extreme = DeviceTlb { source: 0xffff, depth: 0xff, physical: None };
        let [low, high] = Descriptor::device_tlb(extreme, Iova(u64::MAX), 0xff).bits();
        assert_eq!((low & 0xffff_0000_ffe0_fff8, high & 0xffe), (0, 0));
    }
}
