//! A vCPU's local APIC and clock registrations, and its guest's clock.

record! {
    /// A virtual local APIC in x2APIC mode: logical destinations follow from the id. One per vCPU.
    LapicV1 [0x0605, "LAPIC", Freeze, true, 208] key |record| [record.guest, record.vcpu.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// IA32_APIC_BASE.
        pub base: u64,
        /// Interrupt command register.
        pub icr: u64,
        /// Guest TSC at which the timer fires, with [`LapicV1::timer_armed`]. In deadline mode the MSR's value.
        pub timer_deadline: u64,
        /// Number of the vCPU.
        pub vcpu: u32,
        /// APIC id.
        pub id: u32,
        /// Task priority.
        pub task_priority: u32,
        /// Spurious interrupt vector register.
        pub spurious: u32,
        /// Error status register, as the guest reads it.
        pub error_status: u32,
        /// Errors collected since the guest's last write of it.
        pub error_collected: u32,
        /// LVT timer.
        pub lvt_timer: u32,
        /// LVT thermal sensor.
        pub lvt_thermal: u32,
        /// LVT performance counters.
        pub lvt_performance: u32,
        /// LVT LINT0.
        pub lvt_lint0: u32,
        /// LVT LINT1.
        pub lvt_lint1: u32,
        /// LVT error.
        pub lvt_error: u32,
        /// 1 while the timer will fire.
        pub timer_armed: u32,
        /// Initial count of the timer.
        pub initial_count: u32,
        /// Divide configuration.
        pub divide: u32,
        /// `LAPIC_*`, and with [`LAPIC_STARTUP`] the page in bits 31:24.
        pub events: u32,
        /// Interrupt request register, vector 0 in bit 0 of the first word.
        pub requested: [u32; 8],
        /// In-service register.
        pub in_service: [u32; 8],
        /// Trigger mode register.
        pub trigger: [u32; 8],
        reserved: [u8; 16],
    }
}

/// [`LapicV1::events`]: an NMI is pending.
pub const LAPIC_NMI: u32 = 1;
/// [`LapicV1::events`]: an INIT is pending; it comes before a startup message.
pub const LAPIC_INIT: u32 = 2;
/// [`LapicV1::events`]: a startup message is pending.
pub const LAPIC_STARTUP: u32 = 8;
/// [`LapicV1::events`]: where the page of a startup message starts.
pub const LAPIC_STARTUP_SHIFT: u32 = 24;

record! {
    /// Where a vCPU registered its kvmclock (Linux: Documentation/virt/kvm/x86/msr.rst).
    KvmClockV1 [0x0606, "kvmclock", Freeze, true, 32] key |record| [record.guest, record.vcpu.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// MSR_KVM_SYSTEM_TIME_NEW as the guest wrote it.
        pub system_time_msr: u64,
        /// MSR_KVM_WALL_CLOCK_NEW as the guest wrote it.
        pub wall_clock_msr: u64,
        /// Number of the vCPU.
        pub vcpu: u32,
        /// Version last written to the guest's structure, even.
        pub version: u32,
    }
}

record! {
    /// The formula of a guest's clock, the same on all its vCPUs. Multiplier and shift follow from the frequency. One per
    /// preserved guest.
    GuestClockV1 [0x0607, "guest clock", Freeze, true, 40] key |record| [record.guest, 0];
    {
        /// Token of the guest.
        pub guest: u64,
        /// Guest TSC at which its system time was [`GuestClockV1::base_ns`].
        pub base_tsc: u64,
        /// System time in nanoseconds at that TSC.
        pub base_ns: u64,
        /// Unix time in nanoseconds at system time zero.
        pub wall_base_ns: u64,
        /// TSC ticks per millisecond.
        pub tsc_khz: u32,
        reserved: [u8; 4],
    }
}
