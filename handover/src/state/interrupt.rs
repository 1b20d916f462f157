//! Interrupts of devices: what the guest asked for, and the remapping entry that carries it.

record! {
    /// An MSI-X entry, or the MSI message, of a device. An entry that is not there is as after reset: masked, with
    /// an empty message and no route.
    MsixV1 [0x0501, "MSI-X entry", Settled, true, 64] key |record| [record.device.into(), u64::from(record.flags & MSIX_IS_MSI) << 32 | u64::from(record.index)];
    {
        /// Message address as the guest wrote it.
        pub guest_address: u64,
        /// The guest's message address when the route was made.
        pub routed_address: u64,
        /// Message address as the device has it.
        pub host_address: u64,
        /// The device.
        pub device: u32,
        /// Number of the entry.
        pub index: u32,
        /// Message data as the guest wrote it.
        pub guest_data: u32,
        /// Vector control as the guest wrote it; bit 0 masks.
        pub guest_control: u32,
        /// The guest's message data when the route was made.
        pub routed_data: u32,
        /// Message data as the device has it.
        pub host_data: u32,
        /// Index of the entry in the unit's interrupt remapping table, [`NO_IRTE`] without a route: then all of the
        /// route's fields are zero.
        pub irte: u32,
        /// Vector on the host, 32 to 255; zero without IRTE.
        pub host_vector: u32,
        /// pCPU the interrupt goes to.
        pub pcpu: u32,
        /// `MSIX_*`.
        pub flags: u32,
    }
}

/// [`MsixV1::irte`]: the entry has no route.
pub const NO_IRTE: u32 = u32::MAX;
/// [`MsixV1::flags`]: the entry is unmasked in the device.
pub const MSIX_OPEN: u32 = 1;
/// [`MsixV1::flags`]: an interrupt arrived and was not injected yet; the new image injects it once.
pub const MSIX_PENDING: u32 = 2;
/// [`MsixV1::flags`]: the message of the MSI capability, not of the MSI-X table; its number is zero.
pub const MSIX_IS_MSI: u32 = 4;

record! {
    /// A frame of posted interrupt descriptors, 64 of them (VT-d 9.11).
    PostedV1 [0x0503, "posted interrupts", Plan, true, {2: 16}] key |record| [record.frame, 0];
    {
        /// Host physical address.
        pub frame: u64,
        /// Which of its 64 places are given out.
        pub used: u64,
    }
}

record! {
    /// An allocated entry of an interrupt remapping table, present or not; compared with the table in place.
    IrteV1 [0x0502, "IRTE", Settled, true, 32] key |record| [record.unit.into(), record.index.into()];
    {
        /// Bits 63:0 (VT-d 9.10).
        pub low: u64,
        /// Bits 127:64.
        pub high: u64,
        /// Number of the unit.
        pub unit: u32,
        /// Index in the table.
        pub index: u32,
        /// Device the entry belongs to; unused with [`IRTE_OWN`].
        pub owner: u32,
        /// `IRTE_*`.
        pub flags: u32,
    }
}

/// [`IrteV1::flags`]: an entry of Baton's own (I/O APIC, fault event), of no device.
pub const IRTE_OWN: u32 = 1;
