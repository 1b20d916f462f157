//! A guest's end, for its devices: quiet, reset, blocked, and nobody's again.
//!
//! Done by pCPU 0's management loop once every virtual CPU of the guest has left it for good. While an upgrade is
//! under way the guest's domain is immutable: its devices stay as they are until that has ended.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use iommu::Token;
use machine::pci::Bdf;

use super::{inventory, units};
use crate::guest::pci::PciBus;
use crate::smp::pcpu;
use crate::vm::{self, Vm, VmState};

/// A guest has ended, and its devices are still its own.
static DUE: AtomicBool = AtomicBool::new(false);

/// Whether [`run`] has something to do.
pub fn is_due() -> bool {
    DUE.load(Ordering::Acquire)
}

/// A guest has ended.
pub fn due() {
    DUE.store(true, Ordering::Release);
    pcpu::kick(0);
}

/// Takes the devices of all guests that have ended away from them. What could not be done yet is tried again by the next call.
pub fn run() {
    DUE.store(false, Ordering::Release);
    for vm in vm::all() {
        if vm.state() != VmState::Running && !vm.devices().is_empty() {
            release(&vm);
        }
    }
}

fn release(vm: &Vm) {
    let domain = Token(vm::tokens::domain(vm.token));
    let frozen = units::with(|units, _| units.domain(domain).is_some_and(|domain| domain.frozen() > 0));
    if frozen == Some(true) {
        return;
    }
    if vm.is_entered() {
        vm.kick();
        DUE.store(true, Ordering::Release);
        return;
    }
    if let Err(error) = take(vm) {
        // Tried again by the next call.
        log::error!("guest {}: {error}", vm.name);
    }
}

/// Takes its devices away from a guest that has ended and was left by every virtual CPU for good. What was done before is not done
/// again.
///
/// # Errors
/// A unit does not obey: the devices are quiet, but what a unit may still hold leads to the guest's memory.
pub fn take(vm: &Vm) -> Result<(), String> {
    if vm.devices().is_empty() {
        return Ok(());
    }
    // Out of the domain while the translation caches of trusted devices still answer; a reset switches them off.
    vm.platform.with_pci(PciBus::quiesce);
    detach(&vm.devices().iter().map(|device| device.bdf).collect::<Vec<_>>(), Token(vm::tokens::domain(vm.token)))
        .map_err(|error| format!("its devices are quiet, but not all of them blocked: {error}"))?;
    let broken = vm.platform.with_pci(PciBus::retire);
    for device in vm.devices() {
        match broken.iter().find(|(bdf, _)| *bdf == device.bdf) {
            None => {
                inventory::disclaim(device.bdf);
                log::info!("{} is nobody's again: quiet, reset, blocked", device.bdf);
            }
            // It keeps its owner, so that nobody gets what a guest may have left in it.
            Some((bdf, error)) => log::error!("{bdf} is blocked and given to nobody any more: {error}"),
        }
    }
    vm.forget_devices();
    Ok(())
}

/// Takes devices out of their domain, and the domain away. What was done before is not done again.
///
/// # Errors
/// A unit does not obey; the call may be repeated.
pub(super) fn detach(devices: &[Bdf], domain: Token) -> Result<(), iommu::Error> {
    let detached = units::with(|units, platform| {
        for device in devices {
            match units.detach(platform, *device) {
                // An earlier call came so far.
                Ok(()) | Err(iommu::Error::NotAttached { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match units.destroy_domain(platform, domain) {
            Ok(()) | Err(iommu::Error::NoDomain { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    });
    detached.unwrap_or(Ok(()))
}
