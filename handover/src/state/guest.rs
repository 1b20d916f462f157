//! Guests.

use super::NAME_BYTES;

record! {
    /// A guest, as planned.
    GuestV1 [0x0601, "guest", Plan, true, 72] key |record| [record.token, 0];
    {
        /// Name across images.
        pub token: u64,
        /// Bytes of memory, as configured.
        pub memory_bytes: u64,
        /// Token of its address space.
        pub space: u64,
        /// Name.
        pub name: [u8; NAME_BYTES],
        /// Records of [`super::vcpu::VcpuV1`]; with [`ON_UPGRADE_STOP`] none is written.
        pub vcpu_count: u32,
        /// Records of [`super::device::DeviceV1`] it owns.
        pub device_count: u32,
        /// `CONSOLE_*`.
        pub console: u32,
        /// `ON_UPGRADE_*`.
        pub on_upgrade: u32,
    }
}

/// [`GuestV1::console`]: none.
pub const CONSOLE_NONE: u32 = 0;
/// [`GuestV1::console`]: a 16550 at port 0x3f8.
pub const CONSOLE_UART: u32 = 1;
/// [`GuestV1::on_upgrade`]: keep it running.
pub const ON_UPGRADE_PRESERVE: u32 = 1;
/// [`GuestV1::on_upgrade`]: it was stopped; the new image starts it again.
pub const ON_UPGRADE_STOP: u32 = 2;

record! {
    /// What a guest was doing at FREEZE. One per guest.
    GuestRestV1 [0x0602, "guest rest", Freeze, true, 40] key |record| [record.guest, 0];
    {
        /// Token of the guest.
        pub guest: u64,
        /// Times a vCPU of it was entered.
        pub entries: u64,
        /// Interrupts injected.
        pub interrupts: u64,
        /// TSC at which it started.
        pub started_tsc: u64,
        /// `GUEST_*`.
        pub state: u32,
        reserved: [u8; 4],
    }
}

/// [`GuestRestV1::state`]: running.
pub const GUEST_RUNNING: u32 = 1;
/// [`GuestRestV1::state`]: shut down, or crashed; kept for its report.
pub const GUEST_STOPPED: u32 = 2;
