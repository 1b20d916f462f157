//! The PCI Express capability: PCIe 7.5.3.

use super::bdf::Bdf;
use super::capability::{find, id};
use super::config::ConfigSpace;

/// Offsets from the capability.
mod at {
    pub const FLAGS: u16 = 0x02;
    pub const DEVICE_CAPABILITIES: u16 = 0x04;
    pub const DEVICE_CONTROL: u16 = 0x08;
    pub const DEVICE_STATUS: u16 = 0x0a;
    pub const LINK_CAPABILITIES: u16 = 0x0c;
    pub const LINK_CONTROL: u16 = 0x10;
    pub const LINK_STATUS: u16 = 0x12;
    pub const DEVICE_CAPABILITIES_2: u16 = 0x24;
    pub const DEVICE_CONTROL_2: u16 = 0x28;
}

/// Device capabilities: function level reset.
const FLR_CAPABLE: u32 = 1 << 28;
/// Device capabilities: bits of the function number that can be tags, from bit 3.
const PHANTOM_SHIFT: u32 = 3;
/// Device control: phantom functions.
const PHANTOM_ENABLE: u16 = 1 << 9;
/// Device control: initiate function level reset.
const INITIATE_FLR: u16 = 1 << 15;
/// Device status: transactions pending.
const PENDING: u16 = 1 << 5;

/// Link control: power states, read completion boundary, common clock, extended sync, clock power management. Not: disable,
/// retrain.
const LINK_KEPT: u16 = 0x01cb;
/// Link capabilities: the port tells whether the link is up.
const LINK_TELLS: u32 = 1 << 20;
/// Link status: it is.
const LINK_UP: u16 = 1 << 13;
/// Device capabilities 2 and device control 2 of a port: ARI forwarding.
const ARI_FORWARDING: u16 = 1 << 5;

/// What a function is on a PCI Express link, bits 7:4 of the flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortType(pub u8);

impl PortType {
    /// An endpoint.
    pub const ENDPOINT: Self = Self(0);
    /// A legacy endpoint.
    pub const LEGACY_ENDPOINT: Self = Self(1);
    /// A root port.
    pub const ROOT_PORT: Self = Self(4);
    /// The upstream port of a switch.
    pub const UPSTREAM: Self = Self(5);
    /// A downstream port of a switch.
    pub const DOWNSTREAM: Self = Self(6);
    /// A bridge from PCI Express to conventional PCI.
    pub const TO_PCI: Self = Self(7);
    /// A bridge from conventional PCI to PCI Express.
    pub const FROM_PCI: Self = Self(8);
    /// An endpoint in the root complex.
    pub const INTEGRATED: Self = Self(9);
    /// A root complex event collector.
    pub const EVENT_COLLECTOR: Self = Self(10);
}

/// The PCI Express capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Express {
    bdf: Bdf,
    /// Where the capability stands.
    pub offset: u16,
    /// Its version.
    pub version: u8,
    /// What the function is.
    pub port_type: PortType,
    /// Whether the function can be reset alone.
    pub flr: bool,
}

impl Express {
    /// The capability of `bdf`, if it has one that is whole.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        let offset = find(config, bdf, id::EXPRESS, 0x0c)?;
        let flags = config.read16(bdf, offset + at::FLAGS);
        let flr = config.read32(bdf, offset + at::DEVICE_CAPABILITIES) & FLR_CAPABLE != 0;
        Some(Self { bdf, offset, version: (flags & 0xf) as u8, port_type: PortType((flags >> 4 & 0xf) as u8), flr })
    }

    /// How many upper bits of the function number (0 to 3) in its requests are tags now: phantom functions.
    #[must_use]
    pub fn phantom_bits(&self, config: &(impl ConfigSpace + ?Sized)) -> u8 {
        let enabled = config.read16(self.bdf, self.offset + at::DEVICE_CONTROL) & PHANTOM_ENABLE != 0;
        let bits = config.read32(self.bdf, self.offset + at::DEVICE_CAPABILITIES) >> PHANTOM_SHIFT & 3;
        if enabled { bits as u8 } else { 0 }
    }

    /// Whether requests of the function still wait for completion.
    #[must_use]
    pub fn is_pending(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        config.read16(self.bdf, self.offset + at::DEVICE_STATUS) & PENDING != 0
    }

    /// Starts the function level reset (PCIe 6.6.2): the function is not to be spoken to for 100 ms.
    pub(super) fn initiate_reset(&self, config: &(impl ConfigSpace + ?Sized)) {
        let control = self.offset + at::DEVICE_CONTROL;
        config.write16(self.bdf, control, config.read16(self.bdf, control) | INITIATE_FLR);
    }

    /// Registers that a reset clears, with the bits worth keeping: payload sizes and timeouts, then the link's power states.
    pub(super) fn kept(&self) -> impl Iterator<Item = (u16, u16)> + use<> {
        let two = if self.has_two() { u16::MAX } else { 0 };
        let has_link = matches!(self.port_type, PortType::ENDPOINT | PortType::LEGACY_ENDPOINT);
        let link = if has_link { LINK_KEPT } else { 0 };
        let first = (at::DEVICE_CONTROL, !(INITIATE_FLR | PHANTOM_ENABLE));
        let all = [first, (at::DEVICE_CONTROL_2, two), (at::LINK_CONTROL, link)];
        let offset = self.offset;
        all.into_iter().filter(|(_, mask)| *mask != 0).map(move |(register, mask)| (offset + register, mask))
    }

    /// Whether the link behind the port is up; none if the port does not tell.
    pub(super) fn link_is_up(&self, config: &(impl ConfigSpace + ?Sized)) -> Option<bool> {
        let tells = self.offset + at::LINK_STATUS < 0xff
            && config.read32(self.bdf, self.offset + at::LINK_CAPABILITIES) & LINK_TELLS != 0;
        tells.then(|| config.read16(self.bdf, self.offset + at::LINK_STATUS) & LINK_UP != 0)
    }

    /// Lets function numbers beyond 7 through the port (PCIe 6.13). Returns whether they are.
    pub(super) fn forward_ari(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        let can = self.is_downstream()
            && config.read32(self.bdf, self.offset + at::DEVICE_CAPABILITIES_2) & u32::from(ARI_FORWARDING) != 0;
        if can && !self.forwards_ari(config) {
            let control = self.offset + at::DEVICE_CONTROL_2;
            config.write16(self.bdf, control, config.read16(self.bdf, control) | ARI_FORWARDING);
        }
        can && self.forwards_ari(config)
    }

    /// Whether function numbers beyond 7 get through the port.
    pub(super) fn forwards_ari(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        self.is_downstream() && config.read16(self.bdf, self.offset + at::DEVICE_CONTROL_2) & ARI_FORWARDING != 0
    }

    /// Whether there is a link behind it, and the registers that it needs for ARI.
    fn is_downstream(&self) -> bool {
        matches!(self.port_type, PortType::ROOT_PORT | PortType::DOWNSTREAM) && self.has_two()
    }

    /// Whether the second set of device registers is there.
    const fn has_two(&self) -> bool {
        self.version >= 2 && self.offset + at::DEVICE_CONTROL_2 + 4 <= 0x100
    }
}
