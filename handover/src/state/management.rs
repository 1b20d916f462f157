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
        /// The longest guests may stand still in an upgrade, in milliseconds.
        pub deadline_ms: u32,
        /// IPv4 address, network order.
        pub address: [u8; 4],
        /// Gateway, zero for none.
        pub gateway: [u8; 4],
        /// Ethernet address.
        pub mac: [u8; 6],
        reserved: [u8; 6],
    }
}

/// [`ManagementV1::nic`]: no interface.
pub const NO_NIC: u32 = u32::MAX;
/// [`ManagementV1::flags`]: the address came by DHCP and must be renewed.
pub const MANAGEMENT_DHCP: u32 = 1;

record! {
    /// A kind of fault that units recorded, and how often: a line of the fault log.
    FaultV1 [0x0802, "fault", Any, false, 64] key |record| [record.sequence, 0];
    {
        /// Number of the line.
        pub sequence: u64,
        /// Faulting address of the latest one.
        pub address: u64,
        /// TSC when it was last told of in the log, zero when it was not.
        pub tsc: u64,
        /// How many there were.
        pub count: u64,
        /// How many of them were told of in the log.
        pub reported: u64,
        /// Number of the unit.
        pub unit: u32,
        /// Requester id, segment included.
        pub source: u32,
        /// Reason code (VT-d 7.2.3).
        pub reason: u32,
        /// `FAULT_*`.
        pub access: u32,
        /// Index of the remapping entry with [`FAULT_INTERRUPT`], zero otherwise.
        pub entry: u32,
        /// PASID of the request, [`NO_PASID`] without.
        pub pasid: u32,
    }
}

/// [`FaultV1::access`]: a read.
pub const FAULT_READ: u32 = 1;
/// [`FaultV1::access`]: a write.
pub const FAULT_WRITE: u32 = 2;
/// [`FaultV1::access`]: an atomic operation.
pub const FAULT_ATOMIC: u32 = 3;
/// [`FaultV1::access`]: a page request.
pub const FAULT_PAGE_REQUEST: u32 = 4;
/// [`FaultV1::access`]: an interrupt request.
pub const FAULT_INTERRUPT: u32 = 5;
/// [`FaultV1::pasid`]: the request had none.
pub const NO_PASID: u32 = u32::MAX;

record! {
    /// What is counted since power-on. At most one.
    TotalsV1 [0x0804, "totals", Freeze, false, 56] key |_record| [0, 0];
    {
        /// Upgrades that were committed.
        pub committed: u64,
        /// Upgrades that were rolled back.
        pub rolled_back: u64,
        /// Upgrades that were refused.
        pub refused: u64,
        /// Upgrades that were cancelled.
        pub cancelled: u64,
        /// Faults of all units.
        pub faults: u64,
        /// Of those, faults of kinds that found no room in the log.
        pub faults_unlisted: u64,
        /// Times a unit ran out of fault recording registers.
        pub fault_overflows: u64,
    }
}
