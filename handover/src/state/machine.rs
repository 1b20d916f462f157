//! The machine: processors, clocks, how it was started, memory map, arena, bridges.

use super::TEXT_BYTES;

record! {
    /// The machine. Exactly one.
    MachineV1 [0x0101, "machine", Plan, true, 72] key |_record| [0, 0];
    {
        /// Random number drawn at power-on; the same through all generations.
        pub boot_nonce: u64,
        /// Upgrades since power-on, counting the one this stream serves; equals the header's.
        pub generation: u64,
        /// TSC ticks per millisecond.
        pub tsc_khz: u64,
        /// LAPIC timer ticks per millisecond, divider 1.
        pub lapic_ticks_per_ms: u64,
        /// TSC when the first generation started.
        pub boot_tsc: u64,
        /// Nanoseconds since 1970 at TSC zero, zero when the time of day is unknown.
        pub epoch_ns: u64,
        /// Host physical address of the ACPI RSDP, zero when firmware gave none.
        pub rsdp: u64,
        /// Records of [`PcpuV1`].
        pub pcpu_count: u32,
        /// LAPIC id of pCPU 0.
        pub bsp_apic_id: u32,
        /// I/O port of the console UART, zero for none.
        pub console_port: u32,
        /// Bit 0: LAPICs are in x2APIC mode.
        pub flags: u32,
    }
}

/// [`MachineV1::flags`]: LAPICs are in x2APIC mode.
pub const MACHINE_X2APIC: u32 = 1;

record! {
    /// One processor. One per pCPU, numbered from zero without gaps.
    PcpuV1 [0x0102, "pCPU", Plan, true, 16] key |record| [record.index.into(), 0];
    {
        /// Number.
        pub index: u32,
        /// Its LAPIC id.
        pub apic_id: u32,
        /// ACPI processor uid.
        pub acpi_uid: u32,
        /// Zero.
        pub flags: u32,
    }
}

record! {
    /// A range of the firmware's memory map, and who owns it. Ranges are disjoint; what no range covers is unknown.
    RegionV1 [0x0103, "memory region", Plan, true, 32] key |record| [record.base, 0];
    {
        /// Host physical address; of memory that is owned 4 KiB aligned, as is its length.
        pub base: u64,
        /// Bytes.
        pub bytes: u64,
        /// Which one: image slot, module number, token of a memory object; zero otherwise.
        pub owner_id: u64,
        /// Type as firmware gave it: `REGION_*`, the numbers of ACPI 15.1.
        pub firmware_type: u32,
        /// Who owns it: `OWNER_*`.
        pub owner: u32,
    }
}

/// [`RegionV1::firmware_type`]: usable memory.
pub const REGION_RAM: u32 = 1;
/// [`RegionV1::firmware_type`]: reserved.
pub const REGION_RESERVED: u32 = 2;
/// [`RegionV1::firmware_type`]: ACPI tables.
pub const REGION_ACPI: u32 = 3;
/// [`RegionV1::firmware_type`]: ACPI NVS.
pub const REGION_NVS: u32 = 4;
/// [`RegionV1::firmware_type`]: broken memory.
pub const REGION_UNUSABLE: u32 = 5;
/// [`RegionV1::firmware_type`]: persistent memory.
pub const REGION_PERSISTENT: u32 = 7;

/// [`RegionV1::owner`]: nobody.
pub const OWNER_FREE: u32 = 0;
/// [`RegionV1::owner`]: an image slot, 0 or 1.
pub const OWNER_SLOT: u32 = 1;
/// [`RegionV1::owner`]: scratch of the next image.
pub const OWNER_SCRATCH: u32 = 2;
/// [`RegionV1::owner`]: the handover arena.
pub const OWNER_ARENA: u32 = 3;
/// [`RegionV1::owner`]: memory objects.
pub const OWNER_OBJECTS: u32 = 4;
/// [`RegionV1::owner`]: a boot module.
pub const OWNER_MODULE: u32 = 5;
/// [`RegionV1::owner`]: firmware, or not memory at all.
pub const OWNER_FIRMWARE: u32 = 6;
/// [`RegionV1::owner`]: the first MiB's start code, kept by whatever image runs.
pub const OWNER_LOW: u32 = 7;

record! {
    /// A range of the handover arena: everything the next image must find lies in one.
    ArenaV1 [0x0104, "arena", Plan, true, 32] key |record| [record.base, 0];
    {
        /// Host physical address, 4 KiB aligned.
        pub base: u64,
        /// Bytes, a multiple of 4 KiB.
        pub bytes: u64,
        /// Host physical address of the frame table, in an arena itself: a [`FrameTag`] per 4 KiB frame of this range.
        pub frame_table: u64,
        /// Bytes of the frame table: 4 per frame.
        pub frame_table_bytes: u64,
    }
}

/// An entry of an arena's frame table: who owns the frame. Bits 15:0 kind, bits 31:16 the owner's
/// number among its kind (unit index, or the low bits of a token; a cross-check, not a name).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameTag(pub u32);

impl FrameTag {
    /// Free.
    pub const FREE: u16 = 0;
    /// The frame table itself.
    pub const FRAME_TABLE: u16 = 1;
    /// The handover region.
    pub const STREAM: u16 = 2;
    /// Root and context tables of a unit.
    pub const UNIT_TABLE: u16 = 3;
    /// Interrupt remapping table of a unit.
    pub const INTERRUPT_TABLE: u16 = 4;
    /// Invalidation queue, status word, DID bitmap of a unit.
    pub const UNIT_QUEUE: u16 = 5;
    /// Page table of a domain.
    pub const DOMAIN_TABLE: u16 = 6;
    /// Nested page table of an address space.
    pub const SPACE_TABLE: u16 = 7;
    /// Posted interrupt descriptors.
    pub const POSTED: u16 = 8;
    /// Management: keys, logs.
    pub const MANAGEMENT: u16 = 9;

    /// The tag of a frame owned by number `id` of `kind`.
    #[must_use]
    pub const fn new(kind: u16, id: u16) -> Self {
        Self(kind as u32 | (id as u32) << 16)
    }

    /// What owns the frame.
    #[must_use]
    pub const fn kind(self) -> u16 {
        self.0 as u16
    }

    /// Which one.
    #[must_use]
    pub const fn id(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

record! {
    /// A PCI bridge above a preserved device, as found; its registers are never written.
    BridgeV1 [0x0105, "bridge", Plan, true, 24] key |record| [record.bdf.into(), 0];
    {
        /// The bridge itself.
        pub bdf: u32,
        /// Vendor in bits 15:0, device in 31:16.
        pub identity: u32,
        /// Bus number behind it.
        pub secondary: u32,
        /// Highest bus number behind it.
        pub subordinate: u32,
        /// Bridge control register.
        pub bridge_control: u32,
        /// Command register.
        pub command: u32,
    }
}

record! {
    /// A boot module that is kept: kernels and initrds of guests that an upgrade stops, `baton.toml`.
    ModuleV1 [0x0106, "boot module", Plan, true, 216] key |record| [record.index.into(), 0];
    {
        /// Host physical address.
        pub base: u64,
        /// Bytes.
        pub bytes: u64,
        /// The loader's string for it: a path, then arguments.
        pub name: [u8; TEXT_BYTES],
        /// Number, as [`RegionV1::owner_id`] has it.
        pub index: u32,
        reserved: [u8; 4],
    }
}

record! {
    /// How the first generation was started. At most one.
    BootV1 [0x0107, "boot", Plan, false, 200] key |_record| [0, 0];
    {
        /// TSC ticks from the first image's first instruction to the first guest's; zero before.
        pub ticks_to_guest: u64,
        /// The way in: a loader's name.
        pub via: [u8; TEXT_BYTES],
    }
}

#[cfg(test)]
mod tests {
    use super::FrameTag;

    #[test]
    fn a_tag_is_kind_low_and_number_high() {
        let tag = FrameTag::new(FrameTag::DOMAIN_TABLE, 0xabcd);
        assert_eq!(tag, FrameTag(0xabcd_0006));
        assert_eq!((tag.kind(), tag.id()), (6, 0xabcd));
        assert_eq!(FrameTag::new(FrameTag::FREE, 0), FrameTag(0));
    }
}
