//! The two lists of capabilities: PCI 6.7, PCIe 7.6 and 7.7. A list that leaves its
//! space, or is longer than the space could hold, ends there.

use super::bdf::Bdf;
use super::config::ConfigSpace;
use super::header::register;

/// Ids of capabilities.
pub mod id {
    /// Message signaled interrupts.
    pub const MSI: u8 = 0x05;
    /// PCI Express.
    pub const EXPRESS: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
    /// Advanced features of conventional PCI: function level reset.
    pub const ADVANCED_FEATURES: u8 = 0x13;
    /// Extended: access control services.
    pub const ACS: u16 = 0x0d;
    /// Extended: alternative routing id.
    pub const ARI: u16 = 0x0e;
    /// Extended: address translation services.
    pub const ATS: u16 = 0x0f;
    /// Extended: single root I/O virtualization.
    pub const SRIOV: u16 = 0x10;
    /// Extended: page requests.
    pub const PRI: u16 = 0x13;
    /// Extended: BARs of several sizes.
    pub const RESIZABLE_BAR: u16 = 0x15;
    /// Extended: latency tolerance reporting.
    pub const LATENCY: u16 = 0x18;
    /// Extended: process address space ids.
    pub const PASID: u16 = 0x1b;
    /// Extended: substates of a link's L1.
    pub const L1_SUBSTATES: u16 = 0x1e;
}

/// Status register: there is a list.
const HAS_LIST: u16 = 1 << 4;
/// (256 - 64) / 4: no list of 4-byte headers is longer.
const HOPS: u16 = 48;
/// (4096 - 256) / 8, likewise: no extended capability is shorter than 8 bytes.
const EXTENDED_HOPS: u16 = 480;

/// A capability that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is; see [`id`].
    pub id: u16,
    /// The version of an extended capability; 0 for others.
    pub version: u8,
    /// Where its header stands.
    pub offset: u16,
}

/// The capabilities in the first 256 bytes.
#[derive(Debug)]
pub struct Capabilities<'a, C: ?Sized> {
    config: &'a C,
    bdf: Bdf,
    next: u8,
    hops: u16,
}

/// Walks the capabilities of `bdf`.
pub fn capabilities<C: ConfigSpace + ?Sized>(config: &C, bdf: Bdf) -> Capabilities<'_, C> {
    // Not by the vendor: a virtual function has none (PCIe 9.3.4.1.1).
    let status = config.read16(bdf, register::STATUS);
    let has_list = status & HAS_LIST != 0 && status != u16::MAX;
    // Header type 2 (CardBus) has its pointer elsewhere and nothing we want.
    let known = config.read8(bdf, register::HEADER_TYPE) & 0x7f < 2;
    let next = if has_list && known { config.read8(bdf, register::CAPABILITIES) } else { 0 };
    Capabilities { config, bdf, next, hops: 0 }
}

impl<C: ConfigSpace + ?Sized> Iterator for Capabilities<'_, C> {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        // The two low bits are reserved; software masks them.
        let offset = u16::from(self.next & 0xfc);
        if offset < 0x40 || self.hops == HOPS {
            return None;
        }
        self.hops += 1;
        let [id, next] = self.config.read16(self.bdf, offset).to_le_bytes();
        if id == 0xff {
            return None;
        }
        self.next = next;
        Some(Capability { id: id.into(), version: 0, offset })
    }
}

/// The capabilities from byte 256 on.
#[derive(Debug)]
pub struct ExtendedCapabilities<'a, C: ?Sized> {
    config: &'a C,
    bdf: Bdf,
    next: u16,
    hops: u16,
}

/// Walks the extended capabilities of `bdf`.
pub fn extended_capabilities<C: ConfigSpace + ?Sized>(config: &C, bdf: Bdf) -> ExtendedCapabilities<'_, C> {
    ExtendedCapabilities { config, bdf, next: 0x100, hops: 0 }
}

impl<C: ConfigSpace + ?Sized> Iterator for ExtendedCapabilities<'_, C> {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        let offset = self.next & 0xffc;
        if offset < 0x100 || self.hops == EXTENDED_HOPS {
            return None;
        }
        self.hops += 1;
        let header = self.config.read32(self.bdf, offset);
        if header == 0 || header == u32::MAX {
            return None;
        }
        self.next = (header >> 20) as u16;
        Some(Capability { id: header as u16, version: (header >> 16 & 0xf) as u8, offset })
    }
}

/// The offset of the first capability `id`, such that `bytes` fit behind it.
#[must_use]
pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf, id: u8, bytes: u16) -> Option<u16> {
    let found = capabilities(config, bdf).find(|capability| capability.id == u16::from(id))?;
    (found.offset + bytes <= 0x100).then_some(found.offset)
}

/// The offset of the first extended capability `id`, such that `bytes` fit behind it.
#[must_use]
pub fn find_extended(config: &(impl ConfigSpace + ?Sized), bdf: Bdf, id: u16, bytes: u16) -> Option<u16> {
    let found = extended_capabilities(config, bdf).find(|capability| capability.id == id)?;
    (found.offset + bytes <= 0x1000).then_some(found.offset)
}
