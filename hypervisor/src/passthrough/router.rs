//! A device's interrupts on their way to a guest: a remapping entry that only this device may
//! use, a host vector on the pCPU of the virtual CPU, and behind the vector what the guest programmed.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hermit_sync::SpinMutex;
use iommu::{InterruptRange, InterruptTarget, msi_message};
use machine::pci::Bdf;
use machine::sorted::SortedMap;

use super::{entries, inventory, units};
use crate::guest::message::{InterruptFabric, InterruptMessage, MsiMessage};
use crate::guest::pci::access::{InterruptRouter, RouteError};
use crate::smp::pcpu;
use crate::trap::devices::{self, Target};

/// The way of one interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The remapping entry.
    pub range: InterruptRange,
    /// The vector on the host.
    pub vector: u8,
    /// The pCPU it goes to.
    pub pcpu: u32,
}

/// All ways of all guests' devices, by device and entry.
static WAYS: SpinMutex<SortedMap<(Bdf, u16), Way>> = SpinMutex::new(SortedMap::new());

/// Rises with every way that is made, altered or taken back, and what its remapping entry says.
static CHANGES: AtomicU64 = AtomicU64::new(0);

/// A number that rises with every change of a way.
pub fn changes() -> u64 {
    CHANGES.load(Ordering::Acquire)
}

fn changing() {
    CHANGES.fetch_add(1, Ordering::AcqRel);
}

/// Shows the ways of a device, for the records.
pub fn for_each_way(device: Bdf, mut show: impl FnMut(u16, &Way)) {
    WAYS.lock().range((device, 0)..=(device, u16::MAX)).for_each(|((_, entry), way)| show(*entry, way));
}

/// Takes the memory for `more` ways now.
pub fn reserve(more: usize) {
    WAYS.lock().reserve(more);
}

/// Gives a guest's devices their ways.
pub struct Router {
    fabric: Arc<InterruptFabric>,
    pcpus: Vec<u32>,
}

impl Router {
    /// For the guest with these LAPICs, whose virtual CPUs run on `pcpus`.
    pub fn new(fabric: Arc<InterruptFabric>, pcpus: Vec<u32>) -> Self {
        Self { fabric, pcpus }
    }

    /// The pCPU of the first virtual CPU that the message is for.
    fn pcpu_for(&self, message: &InterruptMessage) -> u32 {
        let vcpu = (0..self.fabric.vcpus()).find(|id| message.destination.matches(*id)).unwrap_or(0);
        self.pcpus.get(vcpu as usize).copied().unwrap_or(0)
    }

    fn target(&self, message: InterruptMessage) -> Target {
        Target { fabric: self.fabric.clone(), message }
    }

    /// Takes over a way of the image before this one: nothing is written to hardware. A way that was taken over before, in the
    /// sandbox, is replaced.
    ///
    /// # Errors
    /// The vector is not free here.
    pub fn restore(&self, device: Bdf, entry: u16, guest: MsiMessage, way: Way) -> Result<(), RouteError> {
        let message = InterruptMessage::from_msi(guest).ok_or(RouteError::InvalidMessage(guest))?;
        let known = WAYS.lock().get(&(device, entry)).copied();
        if let Some(known) = known {
            if known == way {
                devices::rebind(way.pcpu, way.vector, message);
                return Ok(());
            }
            devices::unbind(known.pcpu, known.vector);
        }
        if !devices::bind_exactly(way.pcpu, way.vector, self.target(message)) {
            return Err(RouteError::Exhausted);
        }
        WAYS.lock().insert((device, entry), way);
        Ok(())
    }

    /// Forgets the ways of `device` that were taken over in the sandbox and are not in `kept`.
    pub fn keep_only(device: Bdf, kept: impl Fn(u16) -> bool) {
        WAYS.lock().retain(|(of, entry), way| {
            let stays = *of != device || kept(*entry);
            if !stays {
                devices::unbind(way.pcpu, way.vector);
            }
            stays
        });
    }

    fn open(&self, bdf: Bdf, message: InterruptMessage) -> Result<Way, RouteError> {
        let pcpu = self.pcpu_for(&message);
        let vector = devices::bind(pcpu, self.target(message)).ok_or(RouteError::Exhausted)?;
        match entries::allocate(bdf, inventory::bridged_interrupts(bdf), 1) {
            Some(Ok(range)) => Ok(Way { range, vector, pcpu }),
            failed => {
                devices::unbind(pcpu, vector);
                if let Some(Err(error)) = failed {
                    log::warn!("{bdf}: no remapping entry: {error}");
                }
                Err(RouteError::Exhausted)
            }
        }
    }

    fn close(way: Way) {
        if let Some(Err(error)) = units::with(|units, platform| units.free_interrupts(platform, way.range)) {
            // It stays allocated and blocked: nobody else gets it.
            log::warn!("a remapping entry could not be freed: {error}");
        }
        devices::unbind(way.pcpu, way.vector);
    }
}

impl InterruptRouter for Router {
    fn route(&mut self, device: Bdf, entry: u16, guest: MsiMessage) -> Result<MsiMessage, RouteError> {
        changing();
        let message = InterruptMessage::from_msi(guest).ok_or(RouteError::InvalidMessage(guest))?;
        let key = (device, entry);
        let known = WAYS.lock().get(&key).copied();
        let way = match known {
            Some(way) if way.pcpu == self.pcpu_for(&message) => {
                devices::rebind(way.pcpu, way.vector, message);
                way
            }
            Some(old) => {
                // The virtual CPU is on another pCPU: a new vector there, the old entry pointed to it.
                let pcpu = self.pcpu_for(&message);
                let vector = devices::bind(pcpu, self.target(message)).ok_or(RouteError::Exhausted)?;
                devices::unbind(old.pcpu, old.vector);
                Way { range: old.range, vector, pcpu }
            }
            None => self.open(device, message)?,
        };
        let apic_id = pcpu::all().iter().find(|pcpu| pcpu.index == way.pcpu).map(|pcpu| pcpu.apic_id);
        let target = InterruptTarget::fixed(way.vector, apic_id.ok_or(RouteError::Exhausted)?);
        let set =
            units::with(|units, platform| units.set_interrupt(platform, way.range.unit, way.range.first, &target));
        match set {
            Some(Ok(())) => {
                WAYS.lock().insert(key, way);
                let (address, data) = msi_message(way.range.first, 0);
                Ok(MsiMessage { address, data })
            }
            failed => {
                if let Some(Err(error)) = failed {
                    log::warn!("{}: a remapping entry could not be set: {error}", device);
                }
                WAYS.lock().remove(&key);
                Self::close(way);
                Err(RouteError::Hardware)
            }
        }
    }

    fn release(&mut self, device: Bdf, entry: u16) {
        changing();
        if let Some(way) = WAYS.lock().remove(&(device, entry)) {
            Self::close(way);
        }
    }
}
