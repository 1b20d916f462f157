//! Quarantine: a device that faults beyond `iommu.fault_limit` within a second is cut off. Its context entries are cleared, bus
//! mastering is off, and its guest finds nobody there, as after a surprise removal or a contained error of the link (PCIe 6.2.10):
//! drivers know that, and the guest runs on. The quarantine ends with the guest.

use core::sync::atomic::{AtomicU32, Ordering};

use machine::pci::Bdf;

use super::{inventory, units};
use crate::config::DEFAULT_FAULT_LIMIT;
use crate::host;
use crate::manage::nic;
use crate::vm;

static LIMIT: AtomicU32 = AtomicU32::new(DEFAULT_FAULT_LIMIT);

/// Faults of one device within a second that quarantine it; 0: none ever does.
pub fn limit() -> u32 {
    LIMIT.load(Ordering::Relaxed)
}

/// Sets it, from `baton.toml` or the image before this one.
pub fn set_limit(limit: u32) {
    LIMIT.store(limit, Ordering::Relaxed);
}

/// Whether a device is in quarantine.
pub fn holds(device: Bdf) -> bool {
    units::with(|units, _| units.is_quarantined(device)).unwrap_or(false)
}

/// Cuts off whoever has faulted too much since the last call. After faults were collected.
pub fn judge() {
    let beyond = units::with(|units, _| {
        let suspects = units.faults().suspects(limit().into());
        // The fault names a requester id: an alias, perhaps, of the device that is attached.
        let attached = suspects.filter_map(|suspect| units.owner(suspect));
        // Baton's own card is not cut off: it would take the way to this machine with it, and its faults are blocked as well.
        attached
            .filter(|(_, token)| *token != nic::token())
            .map(|(device, _)| device)
            .find(|device| !units.is_quarantined(*device))
    });
    if let Some(device) = beyond.flatten() {
        quarantine(device);
    }
}

fn quarantine(device: Bdf) {
    let whose = inventory::owner(device).unwrap_or_default();
    match units::with(|units, platform| units.quarantine(platform, device)) {
        None | Some(Ok(())) => {}
        // While an upgrade is under way the domain is immutable, and the device goes on being blocked fault by fault.
        Some(Err(iommu::Error::Busy { .. })) => return,
        Some(Err(error)) => log::error!("{device} of {whose} can't be cut off, only silenced: {error}"),
    }
    units::silence(&host::get().ecam, device);
    log::warn!(
        "{device} of {whose} is in quarantine: it faulted more than {} times in a second (iommu.fault_limit); {whose} sees \
         it removed, and gets it back when it is started again",
        limit()
    );
    if let Some(vm) = vm::all().into_iter().find(|vm| vm.devices().iter().any(|assigned| assigned.bdf == device)) {
        vm.platform.with_pci(|pci| pci.remove(device));
        vm.follow_bars();
    }
}
