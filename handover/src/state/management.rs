//! Management: how Baton is reached, and the faults it remembers.

record! {
    /// The management interface. At most one.
    ManagementV1 [0x0801, "management", Plan, true, 40] key |_record| [0, 0];
    {
        /// The function, [`NO_NIC`] for none.
        pub nic: u32,
        /// TCP port of the API.
        pub port: u32,
        /// Prefix length.
        pub prefix: u32,
        /// `MANAGEMENT_*`.
        pub flags: u32,
        /// IPv4 address, network order.
        pub address: [u8; 4],
        /// Gateway, zero for none.
        pub gateway: [u8; 4],
        /// Ethernet address.
        pub mac: [u8; 6],
        reserved: [u8; 10],
    }
}

/// [`ManagementV1::nic`]: no interface.
pub const NO_NIC: u32 = u32::MAX;
/// [`ManagementV1::flags`]: the address came by DHCP and must be renewed.
pub const MANAGEMENT_DHCP: u32 = 1;

record! {
    /// A fault a unit recorded. Old ones are written at PLAN, those of the pause at FREEZE.
    FaultV1 [0x0802, "fault", Any, false, 40] key |record| [record.sequence, 0];
    {
        /// Number since power-on.
        pub sequence: u64,
        /// Faulting address.
        pub address: u64,
        /// TSC when it was read from the unit.
        pub tsc: u64,
        /// Number of the unit.
        pub unit: u32,
        /// Requester id, segment included.
        pub source: u32,
        /// Reason code (VT-d 7.2.3).
        pub reason: u32,
        /// Bit 0: a read; bit 1: an interrupt request.
        pub flags: u32,
    }
}
