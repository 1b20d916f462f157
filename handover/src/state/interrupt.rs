//! Interrupts of devices: what the guest asked for, and the remapping entry that carries it.

record! {
    /// An MSI-X entry, or an MSI message, of a device.
    MsixV1 [0x0501, "MSI-X entry", Freeze, true, 48] key |record| [record.device.into(), record.index.into()];
    {
        /// Message address as the guest wrote it.
        pub guest_address: u64,
        /// The device.
        pub device: u32,
        /// Number of the entry.
        pub index: u32,
        /// Message data as the guest wrote it.
        pub guest_data: u32,
        /// Vector control as the guest wrote it.
        pub guest_control: u32,
        /// Index of the entry in the unit's interrupt remapping table, [`NO_IRTE`] for none.
        pub irte: u32,
        /// Vector on the host, 32 to 255; zero without IRTE.
        pub host_vector: u32,
        /// pCPU the interrupt goes to.
        pub pcpu: u32,
        /// `MSIX_*`.
        pub flags: u32,
        /// vCPU the guest addressed.
        pub vcpu: u32,
        reserved: [u8; 4],
    }
}

/// [`MsixV1::irte`]: the guest has not enabled the entry yet.
pub const NO_IRTE: u32 = u32::MAX;
/// [`MsixV1::flags`]: the entry is masked in the device.
pub const MSIX_MASKED: u32 = 1;
/// [`MsixV1::flags`]: an interrupt arrived and was not injected yet; the new image injects it once.
pub const MSIX_PENDING: u32 = 2;
/// [`MsixV1::flags`]: a message of the MSI capability, not of the MSI-X table.
pub const MSIX_IS_MSI: u32 = 4;

record! {
    /// A present entry of an interrupt remapping table, compared with the table in place.
    IrteV1 [0x0502, "IRTE", Freeze, true, 32] key |record| [record.unit.into(), record.index.into()];
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
