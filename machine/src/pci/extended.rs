//! Extended capabilities that matter for assignment: ACS (PCIe 7.7.11), ARI (7.8.8),
//! ATS (10.5.1), SR-IOV (9.3.3).

use super::bdf::Bdf;
use super::capability::{find_extended, id};
use super::config::ConfigSpace;
use bitflags::bitflags;

bitflags! {
    /// Access control services: what a port or function can, or does, enforce.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Acs: u16 {
        /// Requests carry a source on the buses behind the port.
        const SOURCE_VALIDATION = 1 << 0;
        /// Requests with translated addresses are blocked.
        const TRANSLATION_BLOCKING = 1 << 1;
        /// Requests to peers go up to the root complex instead.
        const REQUEST_REDIRECT = 1 << 2;
        /// Completions to peers likewise.
        const COMPLETION_REDIRECT = 1 << 3;
        /// Requests that came up from behind are not turned back down.
        const UPSTREAM_FORWARDING = 1 << 4;
        /// Peers may be blocked one by one.
        const EGRESS_CONTROL = 1 << 5;
        /// Translated requests may go to peers.
        const DIRECT_TRANSLATED = 1 << 6;
    }
}

impl Acs {
    /// The offset of the capability and what it can do.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<(u16, Self)> {
        let offset = find_extended(config, bdf, id::ACS, 8)?;
        Some((offset, Self::from_bits_truncate(config.read16(bdf, offset + 4))))
    }

    /// What is switched on.
    #[must_use]
    pub fn control(config: &(impl ConfigSpace + ?Sized), bdf: Bdf, offset: u16) -> Self {
        Self::from_bits_retain(config.read16(bdf, offset + 6))
    }

    /// Switches exactly these on.
    pub fn set_control(self, config: &(impl ConfigSpace + ?Sized), bdf: Bdf, offset: u16) {
        config.write16(bdf, offset + 6, self.bits());
    }
}

/// Alternative routing id: up to 256 functions in one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ari {
    /// Where the capability stands.
    pub offset: u16,
    /// The next function number, 0 at the end.
    pub next_function: u8,
}

impl Ari {
    /// The capability of `bdf`, if it has one.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        let offset = find_extended(config, bdf, id::ARI, 8)?;
        Some(Self { offset, next_function: config.read8(bdf, offset + 5) })
    }
}

/// Address translation services: the device caches translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ats {
    bdf: Bdf,
    /// Where the capability stands.
    pub offset: u16,
    /// Invalidations it can queue, 1 to 32.
    pub queue_depth: u8,
    /// Whether untranslated addresses of its invalidations are page-aligned.
    pub page_aligned: bool,
}

/// ATS control: enabled.
const ATS_ENABLE: u16 = 1 << 15;

impl Ats {
    /// The capability of `bdf`, if it has one.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        let offset = find_extended(config, bdf, id::ATS, 8)?;
        let capability = config.read16(bdf, offset + 4);
        // Zero means 32.
        let queue_depth = match (capability & 0x1f) as u8 {
            0 => 32,
            depth => depth,
        };
        Some(Self { bdf, offset, queue_depth, page_aligned: capability & 1 << 5 != 0 })
    }

    /// Whether it is enabled.
    #[must_use]
    pub fn is_enabled(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        config.read16(self.bdf, self.offset + 6) & ATS_ENABLE != 0
    }

    /// Enables with a smallest translation unit of 4 KiB, or disables.
    pub fn set_enabled(&self, config: &(impl ConfigSpace + ?Sized), enabled: bool) {
        config.write16(self.bdf, self.offset + 6, if enabled { ATS_ENABLE } else { 0 });
    }
}

/// Single root I/O virtualization of a physical function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sriov {
    bdf: Bdf,
    /// Where the capability stands.
    pub offset: u16,
    /// Virtual functions there can be.
    pub total: u16,
    /// Virtual functions there are (valid while enabled).
    pub count: u16,
    /// Whether they are enabled.
    pub enabled: bool,
    /// From the physical function's requester id to the first.
    pub first: u16,
    /// From each to the next.
    pub stride: u16,
    /// Their device id; vendor and class are the physical function's.
    pub device: u16,
}

impl Sriov {
    /// The capability of `bdf`, if it has one.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        let offset = find_extended(config, bdf, id::SRIOV, 0x40)?;
        Some(Self {
            bdf,
            offset,
            total: config.read16(bdf, offset + 0x0e),
            count: config.read16(bdf, offset + 0x10),
            enabled: config.read16(bdf, offset + 0x08) & 1 != 0,
            first: config.read16(bdf, offset + 0x14),
            stride: config.read16(bdf, offset + 0x16),
            device: config.read16(bdf, offset + 0x1a),
        })
    }

    /// The virtual function `index` (from 0), while they are enabled.
    #[must_use]
    pub fn function(&self, index: u16) -> Option<Bdf> {
        let alone = self.stride == 0 && index > 0;
        if !self.enabled || index >= self.count.min(self.total) || self.first == 0 || alone {
            return None;
        }
        let id = u32::from(self.bdf.requester_id()) + u32::from(self.first) + u32::from(self.stride) * u32::from(index);
        Some(Bdf::from_requester_id(self.bdf.segment(), u16::try_from(id).ok()?))
    }
}
