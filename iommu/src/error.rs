//! What can go wrong, who is to blame, and what to do about it.

use crate::Token;
use crate::intel::spec::registers::QueueErrorInfo;
use core::fmt;
use machine::addr::HostPhys;
use machine::paging::PagingError;
use machine::pci::Bdf;

/// Why an operation was refused or failed. `unit` is the base of the unit's registers.
///
/// Unless a variant says otherwise, nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are what their names say; Display tells the rest")]
pub enum Error {
    // Hardware
    /// Nothing answers at the register base.
    NoHardware { unit: HostPhys, version: u32 },
    /// The unit cannot do what is needed.
    Unsupported { unit: HostPhys, what: &'static str },
    /// A bit did not change in time. The unit's state is unknown.
    Timeout { unit: HostPhys, wait: &'static str },
    /// The unit rejected a descriptor, twice. Caches may be stale: nothing that the
    /// invalidation was for may be reused.
    DescriptorRejected { unit: HostPhys, descriptor: [u64; 2], info: QueueErrorInfo },
    /// A device with a TLB did not confirm its invalidation, twice. As above. `source` is its
    /// requester id, 0 when the unit does not say.
    DeviceTlbTimeout { unit: HostPhys, source: u16 },
    /// An earlier invalidation for the domain failed; pages may still be reachable by DMA.
    Stale { token: Token },

    // Resources
    /// No frame for a structure that hardware walks.
    OutOfMemory { what: &'static str },
    /// Every domain id of the unit is in use.
    NoDomainId { unit: HostPhys },
    /// No run of free interrupt remapping entries.
    NoInterruptEntry { unit: HostPhys, count: u16 },

    // Callers
    /// No unit translates for the device.
    NoUnit { device: Bdf },
    /// There is no unit of that number.
    BadUnit { index: usize },
    /// Two units at one register base, or a unit given twice.
    DuplicateUnit { unit: HostPhys },
    /// The domain is immutable: an upgrade is under way.
    Busy { token: Token, operation: &'static str },
    /// The adoption was prepared but not finished.
    NotAdopted,
    /// The domain is not frozen.
    NotFrozen { token: Token },
    /// A domain of that name exists.
    DomainExists { token: Token },
    /// There is no domain of that name.
    NoDomain { token: Token },
    /// Devices are attached to the domain.
    DomainInUse { token: Token, device: Bdf },
    /// The requester id belongs to a device that is attached already.
    DeviceClaimed { device: Bdf, owner: Bdf, token: Token },
    /// The units that a domain is for have no kind of table in common.
    NoCommonFormat { token: Token },
    /// The unit cannot do what the domain relies on.
    Format { unit: HostPhys, token: Token, what: &'static str },
    /// The domain is of another kind than the operation needs.
    WrongStage { token: Token, what: &'static str },
    /// A nested domain stands on this one.
    ParentInUse { token: Token, child: Token },
    /// PASIDs of the device are attached.
    PasidAttached { device: Bdf, pasid: u32 },
    /// The PASID of the device leads to a domain already.
    PasidClaimed { device: Bdf, pasid: u32, token: Token },
    /// The PASID of the device leads nowhere.
    NoPasid { device: Bdf, pasid: u32 },
    /// The PASID is 0 or beyond what unit and driver have.
    PasidRange { device: Bdf, pasid: u32, limit: u32 },
    /// The device is not attached to anything.
    NotAttached { device: Bdf },
    /// An alias of the device is translated by another unit, or lies in another segment.
    AliasElsewhere { device: Bdf, alias: u16 },
    /// The page table refused.
    Paging { token: Token, cause: PagingError },
    /// The address is beyond what the units accept.
    AddressTooWide { token: Token, end: u64, bits: u8 },
    /// A mapping for writes only, and a unit would block the zero-length reads by which
    /// devices flush them (CAP.ZLR).
    WriteOnly { token: Token },
    /// The interrupt remapping entry is not allocated.
    NoSuchInterrupt { unit: HostPhys, index: u16 },
    /// No posted interrupt descriptor was given out there.
    NoSuchDescriptor { place: HostPhys },
    /// An interrupt remapping entry leads to the posted interrupt descriptor.
    DescriptorInUse { unit: HostPhys, index: u16 },
    /// The destination does not fit the unit's mode.
    Destination { unit: HostPhys, apic_id: u32 },

    // Adoption
    /// A live register differs from the record.
    Mismatch { unit: HostPhys, register: &'static str, expected: u64, found: u64 },
    /// A table in memory differs from the record.
    Entry { unit: HostPhys, what: &'static str, index: u32, expected: [u64; 2], found: [u64; 2] },
    /// A unit is live, but the record does not know it.
    UnknownUnit { unit: HostPhys },
    /// The record has a unit that this machine has not.
    MissingUnit { unit: HostPhys },
    /// The object was adopted before.
    Consumed { what: &'static str, name: u64 },
    /// Two objects of the record have one name.
    Duplicate { what: &'static str, name: u64 },
    /// Two domains claim one domain id of a unit.
    DomainIdClaimed { unit: HostPhys, did: u16, token: Token },
    /// The record refers to something that it does not contain.
    Dangling { what: &'static str, name: u64 },
    /// A frame of a hardware structure is not owned by the IOMMU, or is used twice.
    ForeignFrame { what: &'static str, frame: HostPhys },
    /// The record says something of a device that this version, or its unit, cannot keep.
    UnsupportedDevice { device: Bdf, what: &'static str },
    /// A field of the record has a value that means nothing.
    BadRecord { what: &'static str, value: u64 },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoHardware { unit, version } => {
                write!(f, "no VT-d unit answers at {unit} (VER reads {version:#x}); firmware's DMAR table is wrong")
            }
            Self::Unsupported { unit, what } => write!(f, "the VT-d unit at {unit} lacks {what}"),
            Self::Timeout { unit, wait } => {
                write!(f, "the VT-d unit at {unit} is stuck: {wait} did not happen in time; power-cycle the machine")
            }
            Self::DescriptorRejected { unit, descriptor: [low, high], info } => write!(
                f,
                "the VT-d unit at {unit} rejects the invalidation descriptor {low:#x} {high:#x}: {}; memory it was for is kept back",
                info.words()
            ),
            Self::DeviceTlbTimeout { unit, source } => {
                f.write_str("device ")?;
                match source {
                    0 => f.write_str("(the unit does not say which)")?,
                    _ => write!(f, "{}", Bdf::from_requester_id(0, source))?,
                }
                write!(
                    f,
                    " behind the VT-d unit at {unit} does not confirm invalidations of its TLB; reset the device, memory it could reach is kept back"
                )
            }
            Self::Stale { token } => {
                write!(f, "domain {token} may be stale in hardware, an invalidation failed earlier; detach its devices")
            }
            Self::OutOfMemory { what } => write!(f, "no memory for {what}"),
            Self::NoDomainId { unit } => {
                write!(f, "all domain ids of the VT-d unit at {unit} are in use")
            }
            Self::NoInterruptEntry { unit, count } => {
                write!(f, "the VT-d unit at {unit} has no {count} free interrupt remapping entries in a row")
            }
            Self::NoUnit { device } => {
                write!(f, "device {device} is behind no IOMMU; it cannot be assigned (see firmware's DMAR table)")
            }
            Self::BadUnit { index } => write!(f, "there is no IOMMU number {index}"),
            Self::DuplicateUnit { unit } => write!(f, "the VT-d unit at {unit} is named twice"),
            Self::Busy { token, operation } => {
                write!(f, "domain {token} is immutable while an upgrade is under way: {operation} refused; retry later")
            }
            Self::NotAdopted => f.write_str("the IOMMUs are not adopted yet; finish the adoption first"),
            Self::NotFrozen { token } => write!(f, "domain {token} is not frozen"),
            Self::DomainExists { token } => write!(f, "there is a domain {token} already"),
            Self::NoDomain { token } => write!(f, "there is no domain {token}"),
            Self::DomainInUse { token, device } => {
                write!(f, "device {device} is attached to domain {token}; detach it first")
            }
            Self::DeviceClaimed { device, owner, token } => {
                write!(f, "requester id {device} belongs to device {owner}, which is attached to domain {token}")
            }
            Self::NoCommonFormat { token } => write!(
                f,
                "domain {token}: the IOMMUs it is for have no kind of I/O page table in common; use devices behind IOMMUs of one kind, or force legacy mode"
            ),
            Self::Format { unit, token, what } => write!(
                f,
                "domain {token}: the VT-d unit at {unit} {what}; attach the device to a domain made for that unit"
            ),
            Self::WrongStage { token, what } => write!(f, "domain {token} is {what}"),
            Self::ParentInUse { token, child } => {
                write!(f, "domain {token} translates for the nested domain {child}; remove that first")
            }
            Self::PasidAttached { device, pasid } => {
                write!(f, "PASID {pasid:#x} of device {device} is attached to a domain; detach it first")
            }
            Self::PasidClaimed { device, pasid, token } => {
                write!(f, "PASID {pasid:#x} of device {device} is attached to domain {token} already")
            }
            Self::NoPasid { device, pasid } => {
                write!(f, "PASID {pasid:#x} of device {device} is not attached to any domain")
            }
            Self::PasidRange { device, pasid, limit } => {
                write!(
                    f,
                    "PASID {pasid:#x} of device {device} cannot be attached; 1 to {:#x} can",
                    limit.saturating_sub(1)
                )
            }
            Self::NotAttached { device } => {
                write!(f, "device {device} is not attached to any domain")
            }
            Self::AliasElsewhere { device, alias } => write!(
                f,
                "device {device} also sends as {}, which is behind another IOMMU; it cannot be assigned",
                Bdf::from_requester_id(device.segment(), alias)
            ),
            Self::Paging { token, cause } => write!(f, "domain {token}: {cause}"),
            Self::AddressTooWide { token, end, bits } => {
                write!(f, "domain {token}: the range ends at {end:#x}, devices here reach only {bits} address bits")
            }
            Self::WriteOnly { token } => {
                write!(f, "domain {token}: an IOMMU here cannot map for writes only (CAP.ZLR); allow reads as well")
            }
            Self::NoSuchInterrupt { unit, index } => {
                write!(f, "interrupt remapping entry {index} of the VT-d unit at {unit} is not allocated")
            }
            Self::NoSuchDescriptor { place } => write!(f, "there is no posted interrupt descriptor at {place}"),
            Self::DescriptorInUse { unit, index } => {
                write!(
                    f,
                    "interrupt remapping entry {index} of the VT-d unit at {unit} still posts there; free it first"
                )
            }
            Self::Destination { unit, apic_id } => {
                write!(f, "APIC id {apic_id:#x} does not fit the VT-d unit at {unit}, which remaps to 8-bit APIC ids")
            }
            Self::Mismatch { unit, register, expected, found } => write!(
                f,
                "the VT-d unit at {unit} is not as recorded: {register} is {found:#x}, expected {expected:#x}; handover refused"
            ),
            Self::Entry { unit, what, index, expected, found } => write!(
                f,
                "the VT-d unit at {unit} is not as recorded: {what} {index:#x} is {:#x} {:#x}, expected {:#x} {:#x}; handover refused",
                found[0], found[1], expected[0], expected[1]
            ),
            Self::UnknownUnit { unit } => {
                write!(f, "the record does not mention the VT-d unit at {unit}; handover refused")
            }
            Self::MissingUnit { unit } => {
                write!(f, "the record has a VT-d unit at {unit} that this machine has not; handover refused")
            }
            Self::Consumed { what, name } => write!(f, "{what} {name:#x} was adopted before"),
            Self::Duplicate { what, name } => write!(f, "the record has {what} {name:#x} twice"),
            Self::DomainIdClaimed { unit, did, token } => write!(
                f,
                "domain id {did} of the VT-d unit at {unit} is claimed by domain {token} and by another; handover refused"
            ),
            Self::Dangling { what, name } => {
                write!(f, "the record refers to {what} {name:#x}, which it does not contain")
            }
            Self::ForeignFrame { what, frame } => {
                write!(f, "{what} at {frame} is not a frame of the IOMMU's own, or it is used twice; handover refused")
            }
            Self::UnsupportedDevice { device, what } => {
                write!(f, "device {device} cannot be taken over: {what}; handover refused")
            }
            Self::BadRecord { what, value } => write!(f, "the record's {what} is {value:#x}, which means nothing here"),
        }
    }
}

impl core::error::Error for Error {}
