//! What a handover must carry: plain structures of addresses and numbers.
//!
//! The run-time types stay inside; these are what `Iommu::snapshot` says and what
//! `Iommu::adopt` compares with the machine. Units are named by their register base.

use crate::intel::fault_log::FaultLine;
use alloc::vec::Vec;
use machine::pci::Bdf;

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

/// [`DomainState::stage`]: a second stage.
pub const SECOND_STAGE: u8 = 0;
/// [`DomainState::stage`]: a first stage.
pub const FIRST_STAGE: u8 = 1;
/// [`DomainState::stage`]: no table.
pub const PASS_THROUGH: u8 = 2;
/// [`DomainState::stage`]: the guest's first stage over the parent's second.
pub const NESTED: u8 = 3;

/// One domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct DomainState {
    /// The name.
    pub token: u64,
    /// Physical address of the page table's root; 0 for pass-through. Of a nested domain the
    /// guest's root, an address that the parent maps.
    pub root: u64,
    /// The domain that a nested one stands on, otherwise 0.
    pub parent: u64,
    /// Kind of table: [`SECOND_STAGE`] (zero), [`FIRST_STAGE`], [`PASS_THROUGH`] or [`NESTED`].
    pub stage: u8,
    /// Levels, 3 to 5; 0 for pass-through.
    pub levels: u8,
    /// Bit 0: 2 MiB leaves, bit 1: 1 GiB leaves.
    pub leaf_sizes: u8,
    /// 1 when requests are snooped, whatever they ask for (SNP in leaves, PGSNP in PASID entries).
    pub snoop: u8,
    /// 1 when every unit of the domain snoops when it walks the table; 0: changes are written back.
    pub coherent: u8,
    /// Address bits that every unit of the domain accepts; 0: as many as all units of the machine do.
    pub address_bits: u8,
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
    /// Physical address of the PASID directory; 0 behind a unit in legacy mode.
    pub directory: u64,
    /// PCI segment.
    pub segment: u16,
    /// Requester id.
    pub source: u16,
    /// 1 when the device's TLB (ATS) is in use.
    pub ats: u8,
    /// The device's invalidate queue depth, with `ats`.
    pub ats_depth: u8,
    /// 1 when the device is in quarantine: its context entries are not present.
    pub quarantined: u8,
    /// Set by adoption.
    pub consumed: bool,
}

/// A PASID of an attached device that leads to a domain of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PasidState {
    /// The unit.
    pub unit: u64,
    /// The domain.
    pub token: u64,
    /// The PASID, not 0: that one is the device's own.
    pub pasid: u32,
    /// PCI segment of the device.
    pub segment: u16,
    /// Requester id of the device.
    pub source: u16,
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

/// A requester id of a device that is not handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LeavingState {
    /// PCI segment.
    pub segment: u16,
    /// Requester id.
    pub source: u16,
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
    /// The device that it was allocated for; `None`: an IOAPIC, an HPET, Baton itself.
    pub owner: Option<Bdf>,
}

/// One frame of posted interrupt descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PostedState {
    /// Physical address.
    pub frame: u64,
    /// Which of its 64 places are given out.
    pub used: u64,
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
    /// Their PASIDs, besides their own domain.
    pub pasids: Vec<PasidState>,
    /// Their aliases.
    pub aliases: Vec<AliasState>,
    /// Who else may be in the tables when an adoption is prepared, and is gone when it is finished. Never part of what
    /// [`Iommu::snapshot`](crate::Iommu::snapshot) says: who leaves, the caller decides.
    pub leaving: Vec<LeavingState>,
    /// Interrupt remapping entries.
    pub irtes: Vec<IrteState>,
    /// Posted interrupt descriptors.
    pub posted: Vec<PostedState>,
    /// The fault log.
    pub faults: Vec<FaultLine>,
}
