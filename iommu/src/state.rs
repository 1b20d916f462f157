//! What a handover must carry: plain structures of addresses and numbers.
//!
//! The run-time types stay inside; these are what `Iommu::snapshot` says and what
//! `Iommu::adopt` compares with the machine. Units are named by their register base.

use crate::intel::fault::FaultLine;
use alloc::vec::Vec;

/// One unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UnitState {
    /// Physical base of the registers.
    pub base: u64,
    /// PCI segment.
    pub segment: u16,
    /// VER.
    pub version: u32,
    /// CAP.
    pub cap: u64,
    /// ECAP.
    pub ecap: u64,
    /// GSTS.
    pub gsts: u32,
    /// RTADDR: the root table and the mode.
    pub rtaddr: u64,
    /// IRTA: the interrupt remapping table, its size, EIME; 0 without remapping.
    pub irta: u64,
    /// IQA: the queue, its size and width.
    pub iqa: u64,
    /// IQT, and with it IQH: the queue is empty.
    pub iqt: u64,
    /// Physical address of the frame that wait descriptors write to.
    pub status: u64,
    /// What the last wait descriptor wrote there.
    pub sequence: u32,
    /// FECTL without IP.
    pub fectl: u32,
    /// FEDATA.
    pub fedata: u32,
    /// FEADDR.
    pub feaddr: u32,
    /// FEUADDR.
    pub feuaddr: u32,
    /// 1 when faults are told by an event, 0 when they are polled.
    pub fault_event: u8,
    /// Set by adoption.
    pub consumed: bool,
}

/// One domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DomainState {
    /// The name.
    pub token: u64,
    /// Physical address of the second stage's root.
    pub root: u64,
    /// Levels, 3 to 5.
    pub levels: u8,
    /// Bit 0: 2 MiB leaves, bit 1: 1 GiB leaves.
    pub leaf_sizes: u8,
    /// 1 when leaves force snooping (SNP).
    pub snoop: u8,
    /// Set by adoption.
    pub consumed: bool,
}

/// The domain id of a domain on a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DidState {
    /// The unit.
    pub unit: u64,
    /// The domain.
    pub token: u64,
    /// The id.
    pub did: u16,
}

/// One attached device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DeviceState {
    /// The unit.
    pub unit: u64,
    /// The domain.
    pub token: u64,
    /// PCI segment.
    pub segment: u16,
    /// Requester id.
    pub source: u16,
    /// 1 when the device's TLB (ATS) is in use.
    pub ats: u8,
    /// The device's invalidate queue depth, with `ats`.
    pub ats_depth: u8,
    /// Set by adoption.
    pub consumed: bool,
}

/// Another requester id of an attached device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AliasState {
    /// PCI segment of the device and of the alias.
    pub segment: u16,
    /// Requester id of the device.
    pub source: u16,
    /// The other requester id.
    pub alias: u16,
}

/// One allocated interrupt remapping entry, present or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct IrteState {
    /// The unit.
    pub unit: u64,
    /// Bits 63:0.
    pub low: u64,
    /// Bits 127:64: the source id in bits 15:0.
    pub high: u64,
    /// Its place in the table.
    pub index: u16,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Units.
    pub units: Vec<UnitState>,
    /// Domains.
    pub domains: Vec<DomainState>,
    /// Domain ids.
    pub dids: Vec<DidState>,
    /// Attached devices.
    pub devices: Vec<DeviceState>,
    /// Their aliases.
    pub aliases: Vec<AliasState>,
    /// Interrupt remapping entries.
    pub irtes: Vec<IrteState>,
    /// The fault log.
    pub faults: Vec<FaultLine>,
}
