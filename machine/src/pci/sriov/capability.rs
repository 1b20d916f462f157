//! The capability of a physical function.

use super::{at, control};
use crate::pci::capability::{find_extended, id};
use crate::pci::header;
use crate::pci::{Bdf, ConfigSpace, Function, HeaderKind, Ids};
use alloc::vec::Vec;

/// Single root I/O virtualization of a physical function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sriov {
    pub(super) bdf: Bdf,
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
    /// Their device id; the vendor is the physical function's.
    pub device: u16,
}

impl Sriov {
    /// The capability of `bdf`, if it has one.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        let offset = find_extended(config, bdf, id::SRIOV, at::BYTES)?;
        let read = |register| config.read16(bdf, offset + register);
        // They differ only with migration of virtual functions, which is not used.
        let total = read(at::TOTAL).min(read(at::INITIAL));
        Some(Self {
            bdf,
            offset,
            total,
            count: read(at::COUNT),
            enabled: read(at::CONTROL) & control::ENABLE != 0,
            first: read(at::FIRST),
            stride: read(at::STRIDE),
            device: read(at::DEVICE),
        })
    }

    /// The virtual function `index` (from 0), while they are enabled (PCIe 9.2.1.2).
    #[must_use]
    pub fn function(&self, index: u16) -> Option<Bdf> {
        if !self.enabled || index >= self.count.min(self.total) { None } else { self.name(index) }
    }

    /// What the virtual function `index` is called with the offset and stride that are set now. None, if that is impossible.
    pub(super) fn name(&self, index: u16) -> Option<Bdf> {
        if self.first == 0 || self.stride == 0 && index > 0 {
            return None;
        }
        let id = u32::from(self.bdf.requester_id()) + u32::from(self.first) + u32::from(self.stride) * u32::from(index);
        Some(Bdf::from_requester_id(self.bdf.segment(), u16::try_from(id).ok()?))
    }

    /// The virtual functions there are, of the physical function `physical`, as an enumeration lists them. Nothing is
    /// written.
    pub fn functions(&self, config: &(impl ConfigSpace + ?Sized), physical: &Function) -> Vec<Function> {
        let names = (0..self.total).map_while(|index| self.function(index));
        names.map(|bdf| self.describe(config, physical, bdf)).collect()
    }

    pub(super) fn describe(&self, config: &(impl ConfigSpace + ?Sized), physical: &Function, bdf: Bdf) -> Function {
        let (own, class, ..) = header::read(config, bdf);
        Function {
            bdf,
            // PCIe 9.3.4.1: vendor and device read as all ones, the subsystem's vendor is the physical function's.
            ids: Ids { device: self.device, subsystem: own.subsystem, ..physical.ids },
            class,
            header: HeaderKind::Endpoint,
            multifunction: false,
            path: physical.path.clone(),
            physical: Some(physical.bdf),
        }
    }
}
