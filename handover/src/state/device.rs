//! Passed-through functions: who has them, where their registers are, what the guest sees.

record! {
    /// A device.
    DeviceV1 [0x0401, "device", Plan, true, {1: 72, 2: 88}] key |record| [record.bdf.into(), 0];
    {
        /// Token of the domain its requests are translated by.
        pub domain: u64,
        /// Token of the guest that owns it, zero for Baton itself.
        pub owner: u64,
        /// The function.
        pub bdf: u32,
        /// The function as the guest sees it.
        pub guest_bdf: u32,
        /// Number of the unit in front of it.
        pub unit: u32,
        /// Vendor in bits 15:0, device in 31:16; compared with the live function.
        pub identity: u32,
        /// Offset of the MSI-X capability, zero for none.
        pub msix_capability: u32,
        /// Entries of the MSI-X table.
        pub msix_entries: u32,
        /// BAR of the MSI-X table.
        pub msix_table_bar: u32,
        /// Offset of the table in that BAR.
        pub msix_table_offset: u32,
        /// BAR of the pending bits.
        pub msix_pending_bar: u32,
        /// Offset of the pending bits in that BAR.
        pub msix_pending_offset: u32,
        /// Offset of the MSI capability, zero for none.
        pub msi_capability: u32,
        /// `DEVICE_*`.
        pub flags: u32,
        /// Depth of its invalidate queue with [`DEVICE_ATS`], zero otherwise.
        pub ats_depth: u32,
        reserved: [u8; 4],
    }
    late {
        /// Host physical address of its PASID directory. Zero: its unit is in legacy mode, as all were before.
        pub pasid_directory: u64,
        /// `STATE_*`. Zero: as assigned.
        pub state: u32,
        reserved_late: [u8; 4],
    }
}

/// [`DeviceV1::state`]: it faulted too much. Its context entries are not present, bus mastering is off, its guest sees
/// no device there.
pub const STATE_QUARANTINED: u32 = 1;

/// [`DeviceV1::flags`]: ATS is on.
pub const DEVICE_ATS: u32 = 1;
/// [`DeviceV1::flags`]: PRI was on for the guest; it is off from before FREEZE until RUN.
pub const DEVICE_PRI: u32 = 2;
/// [`DeviceV1::flags`]: the function can be reset (FLR).
pub const DEVICE_RESETTABLE: u32 = 4;

record! {
    /// A further requester id under which requests of a device reach its unit.
    AliasV1 [0x0402, "requester alias", Plan, true, 8] key |record| [record.device.into(), record.requester.into()];
    {
        /// The device.
        pub device: u32,
        /// The id, segment included.
        pub requester: u32,
    }
}

record! {
    /// A PASID of a device that leads to a domain of its own, besides that of the device's requests without PASID.
    PasidV1 [0x0406, "PASID", Plan, true, {2: 16}] key |record| [record.device.into(), record.pasid.into()];
    {
        /// Token of the domain.
        pub domain: u64,
        /// The device.
        pub device: u32,
        /// The PASID, 1 to 2^20 - 1.
        pub pasid: u32,
    }
}

record! {
    /// A physical function that stays with Baton, and the virtual functions that Baton made of it at power-on.
    PhysicalFunctionV1 [0x0407, "physical function", Plan, true, {2: 24}] key |record| [record.bdf.into(), 0];
    {
        /// The physical function.
        pub bdf: u32,
        /// Vendor in bits 15:0, device in 31:16; compared with the live function.
        pub identity: u32,
        /// Device id of the virtual functions (PCIe 9.3.3.11).
        pub device_id: u32,
        /// How many virtual functions there are (NumVFs).
        pub count: u32,
        /// From its requester id to the first one's (PCIe 9.3.3.9).
        pub first: u32,
        /// From each to the next (PCIe 9.3.3.10).
        pub stride: u32,
    }
}

record! {
    /// What the operator wants of devices. Not there: as by default.
    DevicePolicyV1 [0x0408, "device policy", Plan, false, {2: 8}] key |_record| [0, 0];
    {
        /// Faults of one device within a second that quarantine it; zero: none ever does.
        pub fault_limit: u32,
        /// Zero.
        pub flags: u32,
    }
}

record! {
    /// A requester id of a device that is not preserved: its entries may be there while the new image gets ready, and are gone
    /// at FREEZE. Not critical: a reader that does not know it refuses the entries instead, before anybody pauses.
    LeavingV1 [0x0409, "leaving requester", Plan, false, {2: 8}] key |record| [record.requester.into(), 0];
    {
        /// The id, segment included.
        pub requester: u32,
        reserved: [u8; 4],
    }
}

record! {
    /// A base address register of a device.
    BarV1 [0x0403, "BAR", Plan, true, 40] key |record| [record.device.into(), record.index.into()];
    {
        /// Host physical address, or port, of the first byte.
        pub host_base: u64,
        /// Bytes, a power of two.
        pub bytes: u64,
        /// Where the guest sees it.
        pub guest_base: u64,
        /// The device.
        pub device: u32,
        /// Number, 0 to 5; 6 is the expansion ROM.
        pub index: u32,
        /// `BAR_*`.
        pub flags: u32,
        reserved: [u8; 4],
    }
}

/// [`BarV1::flags`]: I/O ports.
pub const BAR_PORTS: u32 = 1;
/// [`BarV1::flags`]: a 64-bit register, which takes the next one as well.
pub const BAR_64: u32 = 2;
/// [`BarV1::flags`]: prefetchable.
pub const BAR_PREFETCHABLE: u32 = 4;
/// [`BarV1::flags`]: mapped into the guest at [`BarV1::guest_base`]; otherwise the guest has it switched off.
pub const BAR_MAPPED: u32 = 8;

/// Bytes of configuration space in one record.
pub const CONFIG_PIECE: usize = 256;

record! {
    /// A piece of configuration space as the guest sees it. Pieces that are not there read as the
    /// device gives them.
    ConfigV1 [0x0404, "config space", Settled, true, 264] key |record| [record.device.into(), record.offset.into()];
    {
        /// The device.
        pub device: u32,
        /// Offset of the piece, a multiple of [`CONFIG_PIECE`] below 4096.
        pub offset: u32,
        /// The bytes.
        pub bytes: [u8; CONFIG_PIECE],
    }
}

record! {
    /// The registers of a passed-through function as the guest set them. One per device of a preserved guest.
    PciFunctionV1 [0x0405, "PCI function", Settled, true, 48] key |record| [record.device.into(), 0];
    {
        /// The device.
        pub device: u32,
        /// The six BAR registers, address bits only.
        pub bars: [u32; 6],
        /// Command register.
        pub command: u32,
        /// Device control register of the PCI Express capability.
        pub express_control: u32,
        /// Cache line size register.
        pub cache_line: u32,
        /// Interrupt line register.
        pub interrupt_line: u32,
        /// `FUNCTION_*`.
        pub flags: u32,
    }
}

/// [`PciFunctionV1::flags`]: the guest sees an MSI capability.
pub const FUNCTION_MSI: u32 = 1;
/// [`PciFunctionV1::flags`]: the guest has MSI on.
pub const FUNCTION_MSI_ENABLED: u32 = 2;
/// [`PciFunctionV1::flags`]: the guest sees an MSI-X capability.
pub const FUNCTION_MSIX: u32 = 4;
/// [`PciFunctionV1::flags`]: the guest has MSI-X on.
pub const FUNCTION_MSIX_ENABLED: u32 = 8;
/// [`PciFunctionV1::flags`]: the guest has all of the function's MSI-X masked.
pub const FUNCTION_MSIX_MASKED: u32 = 16;
