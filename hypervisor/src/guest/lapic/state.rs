//! What a LAPIC needs to continue in another image. Numbers only.

/// Timer part of [`LapicState`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LapicTimerState {
    /// Guest TSC at which the timer fires, if `armed`.
    pub deadline: u64,
    /// 0 or 1.
    pub armed: u32,
    /// Initial count register.
    pub initial: u32,
    /// Divide configuration register.
    pub divide: u32,
}

/// A whole virtual LAPIC with all that was posted for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LapicState {
    /// `IA32_APIC_BASE`.
    pub base: u64,
    /// Last value of the interrupt command register.
    pub icr: u64,
    /// The timer.
    pub timer: LapicTimerState,
    /// APIC id.
    pub id: u32,
    /// Task priority register.
    pub task_priority: u32,
    /// Spurious interrupt vector register.
    pub spurious: u32,
    /// Error status register as last latched.
    pub error_status: u32,
    /// Errors since the last latch.
    pub errors: u32,
    /// LVT: timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    /// Interrupt request register.
    pub irr: [u32; 8],
    /// In-service register.
    pub isr: [u32; 8],
    /// Trigger mode register.
    pub tmr: [u32; 8],
    /// Pending NMI (bit 0), INIT (bit 1), startup (bit 3, page in bits 31:24).
    pub events: u32,
}

/// Why a [`LapicState`] is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LapicStateError {
    /// The record belongs to another vCPU.
    WrongId {
        /// Id of the record.
        record: u32,
        /// Id of this vCPU.
        expected: u32,
    },
    /// `IA32_APIC_BASE` has a value no guest can set.
    Base(u64),
    /// A vector below 16 is requested or in service.
    LowVector,
    /// A register has reserved bits set.
    Reserved {
        /// The register's name.
        register: &'static str,
        /// Its value.
        value: u32,
    },
}

impl core::fmt::Display for LapicStateError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::WrongId { record, expected } => {
                write!(f, "LAPIC record is of id {record}, this vCPU is {expected}; the record's order is wrong")
            }
            Self::Base(value) => write!(f, "LAPIC record has IA32_APIC_BASE {value:#x}; the record is damaged"),
            Self::LowVector => write!(f, "LAPIC record has a vector below 16 pending; the record is damaged"),
            Self::Reserved { register, value } => {
                write!(f, "LAPIC record has reserved bits in {register} ({value:#x}); the record is damaged")
            }
        }
    }
}
