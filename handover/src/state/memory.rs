//! Guest address spaces and the memory objects that back them.

use super::NAME_BYTES;

record! {
    /// A guest's address space.
    SpaceV1 [0x0301, "address space", Plan, true, 40] key |record| [record.token, 0];
    {
        /// Name across images.
        pub token: u64,
        /// Token of the guest.
        pub guest: u64,
        /// Host physical address of the nested page table's root.
        pub nested_root: u64,
        /// Table levels, 4 or 5.
        pub levels: u32,
        /// `NESTED_*`.
        pub format: u32,
        /// Leaves in use: bit 0 for 4 KiB, bit 1 for 2 MiB, bit 2 for 1 GiB.
        pub leaf_mask: u32,
        reserved: [u8; 4],
    }
}

/// [`SpaceV1::format`]: AMD nested paging (APM2 15.25).
pub const NESTED_NPT: u32 = 1;
/// [`SpaceV1::format`]: Intel extended page tables (SDM 3C 29.3).
pub const NESTED_EPT: u32 = 2;

record! {
    /// A named, sealed set of host frames.
    ObjectV1 [0x0302, "memory object", Plan, true, 64] key |record| [record.token, 0];
    {
        /// Name across images.
        pub token: u64,
        /// Token of the guest it belongs to: who claims it in the new image.
        pub owner: u64,
        /// Bytes, the sum of its extents.
        pub bytes: u64,
        /// What it is, for example `ram`; claimed by owner and tag.
        pub tag: [u8; NAME_BYTES],
        /// Records of [`ExtentV1`].
        pub extent_count: u32,
        reserved: [u8; 4],
    }
}

record! {
    /// A contiguous piece of a memory object.
    ExtentV1 [0x0303, "extent", Plan, true, 32] key |record| [record.object, record.guest_base];
    {
        /// Token of the object.
        pub object: u64,
        /// Guest physical address, 4 KiB aligned.
        pub guest_base: u64,
        /// Host physical address, 4 KiB aligned.
        pub host_base: u64,
        /// Bytes, a multiple of 4 KiB.
        pub bytes: u64,
    }
}

record! {
    /// Guest addresses that are no RAM of the guest's because firmware has one of its devices use the memory there (RMRR, VT-d
    /// 8.4): mapped one to one for the devices, not for the guest, whose BARs stay away.
    ReservedV1 [0x0305, "reserved range", Plan, true, {2: 24}] key |record| [record.space, record.base];
    {
        /// Token of the address space.
        pub space: u64,
        /// Guest physical and host physical address, 4 KiB aligned.
        pub base: u64,
        /// Bytes, a multiple of 4 KiB.
        pub bytes: u64,
    }
}

record! {
    /// An address space maps a memory object.
    SpaceObjectV1 [0x0304, "mapping of an object", Plan, true, 16] key |record| [record.space, record.object];
    {
        /// Token of the address space.
        pub space: u64,
        /// Token of the object.
        pub object: u64,
    }
}
