//! One virtual CPU on its pCPU: hardware's part, the platform's part, and the loop's view of both.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use super::services::VcpuTime;
use super::{Vm, VmState};
use crate::guest::lapic::StartupEvent;
use crate::guest::legacy::PowerEvent;
use crate::guest::platform::{VcpuBus, VcpuPlatform, VcpuPlatformState};
use crate::vcpu::cpu::VirtualCpu;
use crate::vcpu::handle::Reason;
use crate::vcpu::run::{RunStatistics, Why, run_until_event};
use crate::vcpu::state::{Activity, ArchState, RFLAGS_IF};
use crate::{cpu, host};

/// A vendor's virtual CPU with a run loop of its own: what an exit calls is known when Baton is compiled.
pub trait Engine: VirtualCpu + Send {
    /// [`run_until_event`].
    fn run(&mut self, bus: &mut VcpuBus<'_>, statistics: &mut RunStatistics) -> Why;
}

impl<C: VirtualCpu + Send> Engine for C {
    fn run(&mut self, bus: &mut VcpuBus<'_>, statistics: &mut RunStatistics) -> Why {
        run_until_event(self, bus, statistics)
    }
}

/// A virtual CPU.
pub struct Runner {
    /// Its guest.
    pub vm: Arc<Vm>,
    /// Its number in the guest.
    pub index: u32,
    cpu: Box<dyn Engine>,
    platform: VcpuPlatform,
    statistics: RunStatistics,
    entered: bool,
}

impl Runner {
    /// Puts one together.
    pub fn new(vm: Arc<Vm>, index: u32, cpu: Box<dyn Engine>, platform: VcpuPlatform) -> Self {
        Self { vm, index, cpu, platform, statistics: RunStatistics::default(), entered: false }
    }

    /// Continues where the image before stopped it. It is not loaded.
    ///
    /// # Errors
    /// The state is damaged, or not of this virtual CPU.
    pub fn continue_from(
        &mut self,
        registers: &ArchState,
        extended: &[u8],
        platform: &VcpuPlatformState,
    ) -> Result<(), String> {
        self.cpu.set_state(registers).map_err(|error| error.to_string())?;
        self.cpu.restore_extended(extended).map_err(|error| error.to_string())?;
        self.platform.restore(platform).map_err(|error| error.to_string())
    }

    /// When its timer fires next, in ticks of the host's TSC: [`wants_to_run`](Self::wants_to_run) is to be called then.
    pub fn arm(&mut self) -> Option<u64> {
        if self.vm.state() != VmState::Running {
            return None;
        }
        self.platform.arm().map(|guest| guest.wrapping_sub(self.cpu.tsc_offset()))
    }

    /// Whether there is something to do for it: lets its timer fire, takes start-up messages.
    pub fn wants_to_run(&mut self) -> bool {
        if self.vm.state() != VmState::Running {
            return false;
        }
        self.platform.expire(cpu::tsc().wrapping_add(self.cpu.tsc_offset()));
        // All of them: who sends INIT and a start-up message at once wakes this pCPU once.
        while let Some(event) = self.platform.take_startup() {
            match event {
                StartupEvent::Init if self.index != 0 => self.cpu.set_activity(Activity::WaitForSipi),
                StartupEvent::Startup { page } if self.cpu.activity() == Activity::WaitForSipi => {
                    if let Err(error) = self.cpu.set_state(&ArchState::startup(page)) {
                        self.vm.stop(format!("vCPU {} can't start: {error}", self.index));
                    }
                }
                _ => {}
            }
        }
        match self.cpu.activity() {
            Activity::Active => true,
            Activity::Halted => {
                let interruptible = self.cpu.rflags() & RFLAGS_IF != 0;
                self.cpu.pending_event().is_some()
                    || interruptible && self.platform.lapic.pending_interrupt().is_some()
                    || self.platform.lapic.mailbox().nmi_waits()
            }
            Activity::WaitForSipi => false,
        }
    }

    /// Brings its registers into this pCPU.
    pub fn load(&mut self) {
        self.cpu.load();
    }

    /// Takes them out.
    pub fn unload(&mut self) {
        self.cpu.unload();
    }

    /// Runs it until something concerns the pCPU.
    pub fn run(&mut self) -> Why {
        // Either the guest's end is seen here, or whoever ended it sees that it is entered (`passthrough::release`).
        self.set_entered(true);
        let why = if self.vm.state() == VmState::Running { self.enter() } else { Why::Halted };
        self.set_entered(false);
        why
    }

    fn set_entered(&self, inside: bool) {
        if let Some(shared) = self.vm.vcpus.get(self.index as usize) {
            shared.entered.store(inside, Ordering::SeqCst);
        }
    }

    fn enter(&mut self) -> Why {
        if !self.entered {
            self.entered = true;
            host::guest_entered(cpu::tsc());
        }
        let shared = self.vm.vcpus.get(self.index as usize);
        if let Some(shared) = shared {
            shared.halted.store(false, Ordering::Relaxed);
        }
        let time = VcpuTime { tsc_offset: self.cpu.tsc_offset() };
        let mut bus = VcpuBus::new(&self.vm.platform, &mut self.platform, &time);
        let why = self.cpu.run(&mut bus, &mut self.statistics);
        if let Some(shared) = shared {
            shared.halted.store(why == Why::Halted, Ordering::Relaxed);
        }
        if let Some((rip, bytes)) = self.statistics.last_refused.take() {
            log::warn!("guest {}: instruction at {rip:#x} is not emulated: {bytes:02x?}", self.vm.name);
        }
        if why == Why::Attention {
            self.attend();
        }
        why
    }

    /// Shows its counters where others look.
    pub fn publish(&self) {
        if let Some(shared) = self.vm.vcpus.get(self.index as usize) {
            *shared.exits.lock() = self.statistics.exits;
        }
    }

    /// Does what the platform can't do itself. That the guest has set its timer is the pCPU's affair.
    fn attend(&mut self) {
        if !self.vm.platform.has_events() {
            return;
        }
        let events = self.vm.platform.take_events();
        for change in events.bars {
            self.vm.move_bar(&change);
        }
        match events.power {
            Some(PowerEvent::Off) => self.vm.stop(String::from("it powered itself off")),
            Some(PowerEvent::Reset) => self.vm.stop(String::from("it reset itself")),
            None => {}
        }
    }

    /// The guest has ended.
    pub fn stopped(&mut self, reason: &str) {
        self.vm.stop(format!("vCPU {}: {reason} at {:#x}", self.index, self.cpu.rip()));
    }

    /// The virtual CPU can't go on.
    pub fn failed(&mut self, reason: &Reason) {
        self.vm.stop(format!("vCPU {}: {reason} at {:#x}", self.index, self.cpu.rip()));
    }

    /// Leaves its state in its place, while it is not loaded.
    pub fn snapshot(&mut self) {
        let Some(shared) = self.vm.vcpus.get(self.index as usize) else { return };
        let mut place = shared.place.lock();
        let Some(place) = place.as_mut() else { return };
        let Self { cpu, platform, .. } = self;
        // What has no place in the records leaves the place unsealed and not fresh, and FREEZE refuses it.
        let _filled = place.fill(&cpu.state(), &platform.save(), |area| cpu.save_extended(area));
    }
}
