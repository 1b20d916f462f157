//! What the table holds, chapter by chapter of VT-d 8.

use super::error::DmarWarning;
use super::scope::DeviceScope;
use crate::addr::HostPhys;
use alloc::string::String;
use alloc::vec::Vec;
use bitflags::bitflags;

bitflags! {
    /// Flags of the table, VT-d 8.1.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DmarFlags: u8 {
        /// The platform has interrupt remapping.
        const INTERRUPT_REMAPPING = 1 << 0;
        /// Firmware asks not to use x2APIC mode.
        const X2APIC_OPT_OUT = 1 << 1;
        /// Firmware keeps DMA blocked until the system takes over.
        const DMA_CONTROL = 1 << 2;
    }
}

/// One unit: DMA remapping hardware definition, VT-d 8.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drhd {
    /// Whether it has every device of its segment that no other unit names.
    pub include_all: bool,
    /// The segment group.
    pub segment: u16,
    /// Its registers.
    pub base: HostPhys,
    /// Bytes of registers, a power of two from 4 KiB.
    pub bytes: u64,
    /// What is behind it.
    pub scopes: Vec<DeviceScope>,
    /// Where it stands in the table.
    pub offset: usize,
}

/// Memory that firmware has devices use: reserved memory region, VT-d 8.4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rmrr {
    /// The segment group.
    pub segment: u16,
    /// The first byte.
    pub base: HostPhys,
    /// The last byte.
    pub last: HostPhys,
    /// The devices.
    pub scopes: Vec<DeviceScope>,
    /// Where it stands in the table.
    pub offset: usize,
}

/// Root ports that pass address translation services: VT-d 8.5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Atsr {
    /// Whether all root ports of the segment do.
    pub all_ports: bool,
    /// The segment group.
    pub segment: u16,
    /// The root ports, unless all do.
    pub scopes: Vec<DeviceScope>,
}

/// The memory node of a unit: VT-d 8.6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhsa {
    /// The unit's registers.
    pub base: HostPhys,
    /// The proximity domain.
    pub proximity: u32,
}

/// A device that only AML names: VT-d 8.7.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Andd {
    /// What a scope's enumeration id refers to.
    pub number: u8,
    /// Its name; bytes that are not ASCII are shown as `?`.
    pub name: String,
}

/// Integrated devices with a translation cache: VT-d 8.8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Satc {
    /// Whether they only work with the cache enabled.
    pub required: bool,
    /// The segment group.
    pub segment: u16,
    /// The devices.
    pub scopes: Vec<DeviceScope>,
}

/// Properties of integrated devices: VT-d 8.9.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sidp {
    /// The segment group.
    pub segment: u16,
    /// The devices, with flags.
    pub scopes: Vec<DeviceScope>,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dmar {
    /// Bits of the addresses that devices can reach.
    pub host_address_bits: u8,
    /// Flags.
    pub flags: DmarFlags,
    /// The units, in the table's order.
    pub units: Vec<Drhd>,
    /// Reserved memory.
    pub reserved: Vec<Rmrr>,
    /// Root ports with ATS.
    pub ats_ports: Vec<Atsr>,
    /// Memory nodes of units.
    pub nodes: Vec<Rhsa>,
    /// Devices that AML names.
    pub named: Vec<Andd>,
    /// Integrated devices with a translation cache.
    pub caching: Vec<Satc>,
    /// Properties of integrated devices.
    pub properties: Vec<Sidp>,
    /// What was skipped.
    pub warnings: Vec<DmarWarning>,
}
