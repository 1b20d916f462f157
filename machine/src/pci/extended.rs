//! Extended capabilities that say where requests go and who a function is: ACS (PCIe 7.7.11), ARI (7.8.8).

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
