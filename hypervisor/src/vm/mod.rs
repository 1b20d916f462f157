//! Guests as wholes: memory, platform, virtual CPUs, devices.
//!
//! - `memory`: the memory object and the nested page tables
//! - `services`: what the platform asks of the hypervisor: console, time, memory, kicks
//! - `build`: from `baton.toml` and the modules to a guest that can run
//! - `runner`: one virtual CPU on its pCPU
//! - `bars`: BARs in the nested page tables

mod bars;
pub mod build;
pub mod memory;
pub mod runner;
pub mod services;

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use hermit_sync::SpinMutex;

use crate::config::OnUpgrade;
use crate::guest::message::InterruptFabric;
use crate::guest::platform::GuestPlatform;
use crate::passthrough::{Assigned, release};
use crate::smp::pcpu;
use crate::upgrade::pages::Place;
use crate::vcpu::counters::ExitCounters;
use memory::{AddressSpace, GuestRam};

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VmState {
    /// Its virtual CPUs run.
    Running = 0,
    /// It has ended.
    Stopped = 1,
}

/// A guest.
pub struct Vm {
    /// Its name across images.
    pub token: u64,
    /// Its number on this machine: the owner id of its frames.
    pub id: u16,
    /// Its name in `baton.toml`.
    pub name: String,
    /// The module its kernel came from.
    pub kernel: String,
    /// What an upgrade does with it.
    pub on_upgrade: OnUpgrade,
    /// Its RAM.
    pub ram: Arc<GuestRam>,
    /// What its virtual CPUs see of the machine's memory.
    pub space: SpinMutex<AddressSpace>,
    /// Counts changes of `space` that virtual CPUs must not miss.
    pub space_generation: Arc<AtomicU64>,
    /// Its LAPICs' mailboxes.
    pub fabric: Arc<InterruptFabric>,
    /// Its devices' front ends.
    pub platform: Arc<GuestPlatform>,
    /// Its virtual CPUs, by index.
    pub vcpus: Vec<VcpuShared>,
    devices: Vec<Assigned>,
    /// The devices were taken away from it, after its end.
    released: AtomicBool,
    /// `console` of `baton.toml`.
    pub console: crate::config::Console,
    state: AtomicU8,
    reason: SpinMutex<String>,
}

/// What others see of a virtual CPU.
pub struct VcpuShared {
    /// The pCPU it runs on.
    pub pcpu: u32,
    /// Its exits, copied here now and then.
    pub exits: SpinMutex<ExitCounters>,
    /// Whether it waits in HLT.
    pub halted: AtomicBool,
    /// Whether its pCPU is in the guest, or about to enter it.
    pub entered: AtomicBool,
    /// Where FREEZE leaves its state, in an upgrade.
    pub place: SpinMutex<Option<Place>>,
}

impl Vm {
    /// What it does.
    pub fn state(&self) -> VmState {
        if self.state.load(Ordering::SeqCst) == VmState::Running as u8 { VmState::Running } else { VmState::Stopped }
    }

    /// Why it stopped.
    pub fn reason(&self) -> String {
        self.reason.lock().clone()
    }

    /// Ends the guest. Its virtual CPUs do not run again.
    pub fn stop(&self, reason: String) {
        log::warn!("guest {} has stopped: {reason}", self.name);
        *self.reason.lock() = reason;
        self.state.store(VmState::Stopped as u8, Ordering::SeqCst);
        if !self.devices().is_empty() {
            release::due();
        }
    }

    /// Its devices; none once they were taken away after its end.
    pub fn devices(&self) -> &[Assigned] {
        if self.released.load(Ordering::Acquire) { &[] } else { &self.devices }
    }

    /// Whether a pCPU is in it, or about to enter it. Once it is not, after the guest's end, none ever is again.
    pub fn is_entered(&self) -> bool {
        self.vcpus.iter().any(|vcpu| vcpu.entered.load(Ordering::SeqCst))
    }

    /// Has its virtual CPUs look at what has changed.
    pub fn kick(&self) {
        self.vcpus.iter().for_each(|vcpu| pcpu::kick(vcpu.pcpu));
    }

    /// The devices are its own no more.
    pub fn forget_devices(&self) {
        self.released.store(true, Ordering::Release);
    }
}

/// Tokens of a guest and of what it has: names across images, all different, all from the guest's.
pub mod tokens {
    /// Of guest number `id` of a power-on.
    #[must_use]
    pub const fn guest(boot_nonce: u64, id: u16) -> u64 {
        boot_nonce.wrapping_add(8 + 8 * id as u64)
    }
    /// Of its RAM.
    #[must_use]
    pub const fn ram(guest: u64) -> u64 {
        guest.wrapping_add(1)
    }
    /// Of its address space.
    #[must_use]
    pub const fn space(guest: u64) -> u64 {
        guest.wrapping_add(2)
    }
    /// Of the domain of its devices.
    #[must_use]
    pub const fn domain(guest: u64) -> u64 {
        guest.wrapping_add(3)
    }
}

static ALL: SpinMutex<Vec<Arc<Vm>>> = SpinMutex::new(Vec::new());

/// All guests of this machine, in the order of `baton.toml`.
pub fn all() -> Vec<Arc<Vm>> {
    ALL.lock().clone()
}

/// Whether one of them runs.
pub fn any_runs() -> bool {
    ALL.lock().iter().any(|vm| vm.state() == VmState::Running)
}

/// Takes the memory for `more` guests now.
pub fn reserve(more: usize) {
    ALL.lock().reserve(more);
}

/// Adds a guest.
pub fn register(vm: Arc<Vm>) {
    ALL.lock().push(vm);
}

/// A guest that could not start, for the API.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Its name.
    pub name: String,
    /// Its kernel's module.
    pub kernel: String,
    /// Its memory in bytes.
    pub memory: u64,
    /// Why.
    pub reason: String,
}

static REFUSED: SpinMutex<Vec<Refused>> = SpinMutex::new(Vec::new());

/// Notes that `guest` could not start.
pub fn refused(guest: &crate::config::Guest, reason: String) {
    let refused =
        Refused { name: guest.name.clone(), kernel: guest.kernel.clone(), memory: guest.memory.memory_bytes(), reason };
    REFUSED.lock().push(refused);
}

/// The guests that could not start.
pub fn all_refused() -> Vec<Refused> {
    REFUSED.lock().clone()
}
