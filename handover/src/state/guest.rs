//! Guests.

use super::{NAME_BYTES, TEXT_BYTES};

record! {
    /// A guest, as planned.
    GuestV1 [0x0601, "guest", Plan, true, 272] key |record| [record.token, 0];
    {
        /// Name across images.
        pub token: u64,
        /// Bytes of memory, as configured.
        pub memory_bytes: u64,
        /// Token of its address space.
        pub space: u64,
        /// Name.
        pub name: [u8; NAME_BYTES],
        /// Name of the module its kernel came from.
        pub kernel: [u8; TEXT_BYTES],
        /// Records of [`super::vcpu::VcpuV1`]; with [`ON_UPGRADE_STOP`] none is written.
        pub vcpu_count: u32,
        /// Records of [`super::device::DeviceV1`] it owns.
        pub device_count: u32,
        /// `CONSOLE_*`.
        pub console: u32,
        /// `ON_UPGRADE_*`.
        pub on_upgrade: u32,
        /// Number on this machine, below 65536: the id in [`super::machine::FrameTag`]s of its tables.
        pub number: u32,
        reserved: [u8; 4],
    }
}

/// [`GuestV1::console`]: none.
pub const CONSOLE_NONE: u32 = 0;
/// [`GuestV1::console`]: the machine's first serial port, port 0x3f8.
pub const CONSOLE_COM1: u32 = 1;
/// [`GuestV1::console`]: its second, port 0x2f8.
pub const CONSOLE_COM2: u32 = 2;
/// [`GuestV1::on_upgrade`]: keep it running.
pub const ON_UPGRADE_PRESERVE: u32 = 1;
/// [`GuestV1::on_upgrade`]: it was stopped. Not written: such a guest ends with the old image, see
/// [`super::report::StoppedV1`].
pub const ON_UPGRADE_STOP: u32 = 2;

record! {
    /// What a guest was doing at FREEZE. One per guest.
    GuestRestV1 [0x0602, "guest rest", Freeze, true, 232] key |record| [record.guest, 0];
    {
        /// Token of the guest.
        pub guest: u64,
        /// Times a vCPU of it was entered.
        pub entries: u64,
        /// Interrupts injected.
        pub interrupts: u64,
        /// TSC at which it started.
        pub started_tsc: u64,
        /// Why it stopped: UTF-8, cut to what fits.
        pub reason: [u8; TEXT_BYTES],
        /// `GUEST_*`.
        pub state: u32,
        /// `POWER_*`: a wish of the guest's that nobody has served yet.
        pub power: u32,
    }
}

/// [`GuestRestV1::state`]: running.
pub const GUEST_RUNNING: u32 = 1;
/// [`GuestRestV1::state`]: shut down, or crashed; kept for its report.
pub const GUEST_STOPPED: u32 = 2;
/// [`GuestRestV1::power`]: none.
pub const POWER_NONE: u32 = 0;
/// [`GuestRestV1::power`]: to be switched off.
pub const POWER_OFF: u32 = 1;
/// [`GuestRestV1::power`]: to start again.
pub const POWER_RESET: u32 = 2;

record! {
    /// An answer of CPUID to a guest, which must not change under it.
    CpuidV1 [0x0609, "CPUID entry", Plan, true, 32] key |record| [record.guest, u64::from(record.leaf) << 32 | u64::from(record.subleaf)];
    {
        /// Token of the guest.
        pub guest: u64,
        /// EAX of the question.
        pub leaf: u32,
        /// ECX of the question, zero where it does not matter.
        pub subleaf: u32,
        /// EAX, EBX, ECX, EDX.
        pub values: [u32; 4],
    }
}
