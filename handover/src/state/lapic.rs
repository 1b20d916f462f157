//! A vCPU's local APIC and clock.

record! {
    /// A virtual local APIC. One per vCPU.
    LapicV1 [0x0605, "LAPIC", Freeze, true, 216] key |record| [record.guest, record.vcpu.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// IA32_APIC_BASE.
        pub base: u64,
        /// Interrupt command register.
        pub icr: u64,
        /// IA32_TSC_DEADLINE in guest TSC, zero when disarmed.
        pub tsc_deadline: u64,
        /// Host TSC at which the current count of the timer began.
        pub timer_base_tsc: u64,
        /// Number of the vCPU.
        pub vcpu: u32,
        /// APIC id.
        pub id: u32,
        /// Task priority.
        pub task_priority: u32,
        /// Logical destination; as read, in x2APIC mode it follows from the id.
        pub logical_destination: u32,
        /// Destination format, xAPIC mode only.
        pub destination_format: u32,
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
        /// Initial count of the timer.
        pub initial_count: u32,
        /// Divide configuration.
        pub divide: u32,
        /// Interrupt request register, vector 0 in bit 0 of the first word.
        pub requested: [u32; 8],
        /// In-service register.
        pub in_service: [u32; 8],
        /// Trigger mode register.
        pub trigger: [u32; 8],
        /// Timer interrupts that were due and not delivered yet, 0 or 1.
        pub timer_pending: u32,
        reserved: [u8; 12],
    }
}

record! {
    /// A vCPU's kvmclock (Linux: Documentation/virt/kvm/x86/msr.rst).
    KvmClockV1 [0x0606, "kvmclock", Freeze, true, 64] key |record| [record.guest, record.vcpu.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// MSR_KVM_SYSTEM_TIME_NEW as the guest wrote it.
        pub system_time_msr: u64,
        /// MSR_KVM_WALL_CLOCK_NEW as the guest wrote it; the guest's, the same on each vCPU.
        pub wall_clock_msr: u64,
        /// Guest TSC at the last update.
        pub tsc_timestamp: u64,
        /// Guest nanoseconds at that TSC.
        pub system_time_ns: u64,
        /// Number of the vCPU.
        pub vcpu: u32,
        /// Multiplier from ticks to nanoseconds, 32.32.
        pub multiplier: u32,
        /// Left shift of ticks before that, as a two's complement number.
        pub shift: i32,
        /// Version of the guest's structure, even.
        pub version: u32,
        /// Flags of the guest's structure.
        pub flags: u32,
        reserved: [u8; 4],
    }
}
