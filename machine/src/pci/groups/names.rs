//! The requester ids that a function's requests can carry.

use crate::pci::{Bdf, ConfigSpace, Express, Function, HeaderKind, Ids, PortType};
use alloc::vec;
use alloc::vec::Vec;

/// Functions that make requests under the id of another function of their device, whether that one is there or not:
/// vendor, device, function. Errata of the makers; known from those who met them.
const POSERS: [(u16, u16, u8); 22] = [
    // Ricoh card readers: everything comes from function 0.
    (0x1180, 0xe476, 0),
    (0x1180, 0xe832, 0),
    // Glenfly sound.
    (0x6766, 0x3d40, 0),
    (0x6766, 0x3d41, 0),
    // Marvell SATA controllers (also sold as HighPoint, and a JMicron): the disks' requests come from function 1.
    (0x1b4b, 0x9120, 1),
    (0x1b4b, 0x9123, 1),
    (0x1b4b, 0x9125, 1),
    (0x1b4b, 0x9128, 1),
    (0x1b4b, 0x9130, 1),
    (0x1b4b, 0x9170, 1),
    (0x1b4b, 0x9172, 1),
    (0x1b4b, 0x917a, 1),
    (0x1b4b, 0x9182, 1),
    (0x1b4b, 0x9183, 1),
    (0x1b4b, 0x91a0, 1),
    (0x1b4b, 0x9215, 1),
    (0x1b4b, 0x9220, 1),
    (0x1b4b, 0x9230, 1),
    (0x1b4b, 0x9235, 1),
    (0x1103, 0x0642, 1),
    (0x1103, 0x0645, 1),
    (0x197b, 0x2392, 1),
];

/// Under which requester ids the IOMMU sees a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// Its own, then others that its requests can carry.
    pub ids: Vec<u16>,
    /// The first and last that its interrupts can carry, if a bridge takes them over.
    pub interrupts: Option<(u16, u16)>,
}

/// Where a bridge is between PCI Express and conventional PCI.
pub(super) enum Link {
    /// All PCI Express.
    Express(PortType),
    /// PCI Express above, PCI below.
    ToPci,
    /// PCI above.
    FromPci,
}

/// What the bridge `bdf` is. One without a PCI Express capability is on a conventional bus.
pub(super) fn link(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Link {
    match Express::find(config, bdf).map(|express| express.port_type) {
        Some(kind @ (PortType::ROOT_PORT | PortType::UPSTREAM | PortType::DOWNSTREAM)) => Link::Express(kind),
        Some(PortType::TO_PCI) => Link::ToPci,
        _ => Link::FromPci,
    }
}

/// The names of a function.
///
/// - A bridge from PCI Express to PCI makes requests of what is behind it its own: as device 0, function 0 of its
///   secondary bus, some as themselves; PCI-X requests may keep their id (PCIe to PCI/PCI-X Bridge 2.3). A bridge on a
///   PCI bus: as itself.
/// - Phantom functions, while enabled: the upper bits of the function number are tags (PCIe 7.5.3.3).
/// - Devices that get it wrong.
///
/// Devices behind a volume management device (Intel VMD) make requests under its id, too. They are in no segment
/// that firmware names, so they are never listed here: whoever has the VMD has them.
pub(super) fn names(config: &(impl ConfigSpace + ?Sized), function: &Function) -> Names {
    let bdf = function.bdf;
    let mut ids = vec![bdf.requester_id()];
    let mut interrupts = None;
    for &bridge in function.path.iter().rev() {
        match link(config, bridge) {
            Link::Express(_) => {}
            Link::ToPci => {
                if let HeaderKind::Bridge { secondary, subordinate } = HeaderKind::read(config, bridge) {
                    add(&mut ids, u16::from(secondary) << 8);
                    interrupts = Some((u16::from(secondary) << 8, u16::from(subordinate) << 8 | 0xff));
                }
                add(&mut ids, bridge.requester_id());
            }
            Link::FromPci => {
                add(&mut ids, bridge.requester_id());
                interrupts = Some((bridge.requester_id(), bridge.requester_id()));
            }
        }
    }
    let bits = Express::find(config, bdf).map_or(0, |express| express.phantom_bits(config));
    for tag in 1..1u8 << bits {
        add(&mut ids, bdf.sibling(bdf.function() ^ tag << (3 - bits)).requester_id());
    }
    let Ids { vendor, device, .. } = function.ids;
    for (_, _, poses) in POSERS.iter().filter(|poser| (poser.0, poser.1) == (vendor, device)) {
        add(&mut ids, bdf.sibling(*poses).requester_id());
    }
    Names { ids, interrupts }
}

fn add(ids: &mut Vec<u16>, id: u16) {
    if !ids.contains(&id) {
        ids.push(id);
    }
}
