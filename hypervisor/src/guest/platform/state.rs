//! A guest's platform as plain numbers, for the handover.

use alloc::vec::Vec;
use core::fmt;

use crate::guest::clock::{ClockState, VcpuClockState};
use crate::guest::cpuid::CpuidEntry;
use crate::guest::ioapic::{IoapicState, IoapicStateError};
use crate::guest::lapic::{LapicState, LapicStateError};
use crate::guest::legacy::LegacyState;
use crate::guest::msr::MsrState;
use crate::guest::pci::{PciError, PciState};
use crate::guest::uart::{UartState, UartStateError};

/// What the vCPUs share. Numbers only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlatformState {
    /// IOAPIC.
    pub ioapic: IoapicState,
    /// Console.
    pub uart: UartState,
    /// PCI.
    pub pci: PciState,
    /// Legacy ports.
    pub legacy: LegacyState,
    /// Clock.
    pub clock: ClockState,
    /// CPUID table.
    pub cpuid: Vec<CpuidEntry>,
    /// A power event nobody took: 0 none, 1 off, 2 reset.
    pub power: u32,
}

/// What one vCPU has for itself. Numbers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuPlatformState {
    /// Local APIC with all that was posted.
    pub lapic: LapicState,
    /// Clock registrations.
    pub clock: VcpuClockState,
    /// Emulated MSRs.
    pub msrs: MsrState,
}

/// A saved state was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The IOAPIC's.
    Ioapic(IoapicStateError),
    /// The console's.
    Uart(UartStateError),
    /// PCI's.
    Pci(PciError),
    /// A LAPIC's.
    Lapic(LapicStateError),
    /// The power event is none.
    Power(u32),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ioapic(error) => error.fmt(f),
            Self::Uart(error) => error.fmt(f),
            Self::Pci(error) => error.fmt(f),
            Self::Lapic(error) => error.fmt(f),
            Self::Power(value) => write!(f, "guest record has power event {value}; the record is damaged"),
        }
    }
}
