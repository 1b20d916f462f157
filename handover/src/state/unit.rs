//! IOMMU units, domains, and the ids domains have on units.

record! {
    /// A unit as the old image left it, translating.
    UnitV1 [0x0201, "unit", Plan, true, 96] key |record| [record.index.into(), 0];
    {
        /// Host physical address of the registers.
        pub register_base: u64,
        /// CAP as read.
        pub cap: u64,
        /// ECAP as read.
        pub ecap: u64,
        /// RTADDR raw: table address and mode (VT-d 11.4.5).
        pub root_table: u64,
        /// IRTA raw: table address, EIME, size (VT-d 11.4.7.3), zero without interrupt remapping.
        pub interrupt_table: u64,
        /// IQA raw: queue address, width, size (VT-d 11.4.9.3).
        pub queue: u64,
        /// Host physical address of the words that wait descriptors write.
        pub status_word: u64,
        /// Number, as other records use it.
        pub index: u32,
        /// PCI segment.
        pub segment: u32,
        /// VER as read.
        pub version: u32,
        /// GSTS as it must read.
        pub status: u32,
        /// Entries of the interrupt remapping table.
        pub interrupt_entries: u32,
        /// DIDs the unit has: `2^(4 + 2 * CAP.ND)`.
        pub did_count: u32,
        /// Fault event data (FEDATA).
        pub fault_data: u32,
        /// Fault event address (FEADDR).
        pub fault_address: u32,
        /// Fault event upper address (FEUADDR).
        pub fault_upper_address: u32,
        /// `UNIT_*`.
        pub flags: u32,
    }
}

/// [`UnitV1::flags`]: the unit covers every device of its segment no other unit names (INCLUDE_PCI_ALL).
pub const UNIT_INCLUDE_ALL: u32 = 1;
/// [`UnitV1::flags`]: the unit does not snoop; tables are flushed from caches by software.
pub const UNIT_NON_COHERENT: u32 = 2;
/// [`UnitV1::flags`]: caching mode; not-present entries are cached as well.
pub const UNIT_CACHING_MODE: u32 = 4;
/// [`UnitV1::flags`]: an AMD unit; register fields hold the AMD registers of the same purpose.
pub const UNIT_AMD: u32 = 8;
/// [`UnitV1::flags`]: faults are told by an event; otherwise they are polled.
pub const UNIT_FAULT_EVENT: u32 = 16;

record! {
    /// What a unit's queue and fault event read at FREEZE. One per unit. Recorded faults stay in the unit's registers.
    UnitRestV1 [0x0202, "unit rest", Freeze, true, 32] key |record| [record.index.into(), 0];
    {
        /// Invalidation queue head (IQH).
        pub queue_head: u64,
        /// Invalidation queue tail (IQT); equals the head, the queue is drained.
        pub queue_tail: u64,
        /// Number of the unit.
        pub index: u32,
        /// GSTS.
        pub status: u32,
        /// Fault event control (FECTL) without IP: masked in a storm of faults.
        pub fault_control: u32,
        /// What the last wait descriptor wrote to the status word.
        pub sequence: u32,
    }
}

record! {
    /// A domain: one I/O page table.
    DomainV1 [0x0203, "domain", Plan, true, {1: 48, 2: 64}] key |record| [record.token, 0];
    {
        /// Name across images.
        pub token: u64,
        /// Token of the address space it maps, zero for a domain of Baton's own.
        pub space: u64,
        /// Host physical address of the root table; zero with [`FORMAT_PASS_THROUGH`]; with [`FORMAT_NESTED`] the guest's, an
        /// address that the parent maps.
        pub table_root: u64,
        /// Table levels, 2 to 5; zero with [`FORMAT_PASS_THROUGH`].
        pub levels: u32,
        /// Leaves in use: bit 0 for 4 KiB, bit 1 for 2 MiB, bit 2 for 1 GiB.
        pub leaf_mask: u32,
        /// Bits of an I/O address.
        pub width: u32,
        /// `FORMAT_*`.
        pub format: u32,
        /// `DOMAIN_*`.
        pub flags: u32,
        reserved: [u8; 4],
    }
    late {
        /// Token of the domain on which one of [`FORMAT_NESTED`] stands. Zero: it stands on none, as all did before.
        pub parent: u64,
        /// Address bits that every unit of the domain accepts. Zero: as many as all units of the machine do, as before.
        pub address_bits: u32,
        reserved_late: [u8; 4],
    }
}

/// [`DomainV1::format`]: VT-d second stage.
pub const FORMAT_SECOND_STAGE: u32 = 1;
/// [`DomainV1::format`]: VT-d first stage.
pub const FORMAT_FIRST_STAGE: u32 = 2;
/// [`DomainV1::format`]: AMD version 1.
pub const FORMAT_AMD_V1: u32 = 3;
/// [`DomainV1::format`]: no table, devices reach all memory; Baton's own only.
pub const FORMAT_PASS_THROUGH: u32 = 4;
/// [`DomainV1::format`]: a guest's VT-d first stage over the parent's second.
pub const FORMAT_NESTED: u32 = 5;
/// [`DomainV1::flags`]: every unit that walks the table snoops.
pub const DOMAIN_COHERENT: u32 = 1;
/// [`DomainV1::flags`]: leaves force snooping.
pub const DOMAIN_FORCE_SNOOP: u32 = 2;
/// [`DomainV1::flags`]: the table is the nested page table of its address space, not one of its own.
pub const DOMAIN_SHARES_NESTED: u32 = 4;

record! {
    /// The id a domain has on a unit.
    DomainIdV1 [0x0204, "domain id", Plan, true, 16] key |record| [record.domain, record.unit.into()];
    {
        /// Token of the domain.
        pub domain: u64,
        /// Number of the unit.
        pub unit: u32,
        /// The id.
        pub did: u32,
    }
}
