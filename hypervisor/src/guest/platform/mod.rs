//! The machine of one guest, put together: what its vCPUs share and what each has for itself.
//!
//! - here: [`GuestPlatform`], [`VcpuPlatform`] and the traits to the host.
//! - `bus`: [`VcpuBus`], the machine as one vCPU sees it.
//! - `state`: all of it as numbers.

mod bus;
mod state;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use guest_loader::layout::{IOAPIC_ID, UART_GSI};
use hermit_sync::SpinMutex;
use machine::addr::GuestPhys;

pub use self::bus::VcpuBus;
pub use self::state::{PlatformState, RestoreError, VcpuPlatformState};
use super::clock::{GuestClock, VcpuClock};
use super::cpuid::CpuidTable;
use super::ioapic::Ioapic;
use super::lapic::{Lapic, StartupEvent};
use super::legacy::{Legacy, PowerEvent};
use super::message::InterruptFabric;
use super::msr::Msrs;
use super::pci::{BarChange, PciBus, PciCounters};
use super::uart::{ConsoleSink, Uart};
use crate::vcpu::bus::NotMemory;
use crate::vcpu::emulate::decode::Lengths;

/// A periodic LAPIC timer fires at most this often per millisecond of the guest's TSC.
const TIMER_RATE_PER_MS: u64 = 20;

/// The guest's RAM.
pub trait GuestRam: Send + Sync {
    /// Copies out of RAM.
    ///
    /// # Errors
    /// A byte of the range is not RAM of this guest; `buffer` is undefined then.
    fn read(&self, address: GuestPhys, buffer: &mut [u8]) -> Result<(), NotMemory>;
    /// Copies into RAM.
    ///
    /// # Errors
    /// A byte of the range is not RAM of this guest; nothing was written.
    fn write(&self, address: GuestPhys, bytes: &[u8]) -> Result<(), NotMemory>;
}

/// Time as one vCPU sees it.
pub trait TimeSource {
    /// The vCPU's TSC, offset included.
    fn tsc(&self) -> u64;
    /// Unix time in ns, 0 if unknown.
    fn wall_clock_ns(&self) -> u64;
}

/// Parts of a new guest, or of one that continues.
pub struct GuestParts {
    /// The way of interrupts to the vCPUs; host interrupt handlers hold it too.
    pub fabric: Arc<InterruptFabric>,
    /// RAM.
    pub ram: Box<dyn GuestRam>,
    /// Console output.
    pub console: Box<dyn ConsoleSink>,
    /// PCI with all assigned functions.
    pub pci: PciBus,
    /// CPUID, new or from [`PlatformState::cpuid`].
    pub cpuid: CpuidTable,
    /// The clock, new or from [`PlatformState::clock`].
    pub clock: GuestClock,
    /// The host's `IA32_BIOS_SIGN_ID` (0x8B).
    pub microcode: u64,
}

/// What must happen outside the platform because of what the guest did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestEvents {
    /// The guest ends.
    pub power: Option<PowerEvent>,
    /// The nested page table must follow, before the vCPU enters again.
    pub bars: Vec<BarChange>,
}

struct Devices {
    ioapic: Ioapic,
    uart: Uart,
    pci: PciBus,
    legacy: Legacy,
    power: Option<PowerEvent>,
}

/// What the vCPUs of a guest share.
///
/// The lock is taken by vCPU threads only, never in an interrupt handler: those use the
/// [`fabric`](Self::fabric).
pub struct GuestPlatform {
    devices: SpinMutex<Devices>,
    fabric: Arc<InterruptFabric>,
    ram: Box<dyn GuestRam>,
    cpuid: CpuidTable,
    clock: GuestClock,
    microcode: u64,
    /// [`take_events`](Self::take_events) has something to say.
    events: AtomicBool,
}

impl GuestPlatform {
    /// The platform after power-on. BARs are to be placed already ([`PciBus::assign_bars`]).
    #[must_use]
    pub fn new(parts: GuestParts) -> Self {
        Self {
            devices: SpinMutex::new(Devices {
                ioapic: Ioapic::new(IOAPIC_ID),
                uart: Uart::new(parts.console),
                pci: parts.pci,
                legacy: Legacy::default(),
                power: None,
            }),
            fabric: parts.fabric,
            ram: parts.ram,
            cpuid: parts.cpuid,
            clock: parts.clock,
            microcode: parts.microcode,
            events: AtomicBool::new(false),
        }
    }

    /// The private part of vCPU `index`, after power-on. `None` beyond the number of vCPUs. Made once per vCPU.
    #[must_use]
    pub fn vcpu(&self, index: u32) -> Option<VcpuPlatform> {
        let mailbox = self.fabric.mailbox(index)?.clone();
        let shortest_period = u64::from(self.clock.tsc_khz()) / TIMER_RATE_PER_MS;
        Some(VcpuPlatform {
            lapic: Lapic::new(index, shortest_period, mailbox),
            clock: VcpuClock::default(),
            msrs: Msrs::new(self.microcode),
            armed: None,
            unseen: false,
            lengths: Lengths::default(),
        })
    }

    /// The way of interrupts to the vCPUs; lock-free.
    #[must_use]
    pub const fn fabric(&self) -> &Arc<InterruptFabric> {
        &self.fabric
    }

    /// The clock.
    #[must_use]
    pub const fn clock(&self) -> &GuestClock {
        &self.clock
    }

    /// Types `bytes` on the console. Returns how many were taken.
    pub fn push_input(&self, bytes: &[u8]) -> usize {
        let mut devices = self.devices.lock();
        let taken = devices.uart.push_input(bytes);
        self.update_console_line(&mut devices);
        taken
    }

    /// Whether [`take_events`](Self::take_events) has something to say. Cheap: to be asked after every exit.
    #[must_use]
    pub fn has_events(&self) -> bool {
        self.events.load(Ordering::Acquire)
    }

    /// Takes what must happen outside.
    pub fn take_events(&self) -> GuestEvents {
        let mut devices = self.devices.lock();
        self.events.store(false, Ordering::Release);
        GuestEvents { power: devices.power.take(), bars: devices.pci.take_bar_changes() }
    }

    /// Takes what the nested page table must follow, and leaves the rest for [`take_events`](Self::take_events).
    pub fn take_bar_changes(&self) -> Vec<BarChange> {
        self.devices.lock().pci.take_bar_changes()
    }

    /// What went wrong on the PCI bus since power-on.
    #[must_use]
    pub fn pci_counters(&self) -> PciCounters {
        self.devices.lock().pci.counters()
    }

    /// Works on the PCI bus: `quiesce` at a guest's end, `retry_routes` after an upgrade.
    pub fn with_pci<R>(&self, work: impl FnOnce(&mut PciBus) -> R) -> R {
        let mut devices = self.devices.lock();
        let result = work(&mut devices.pci);
        self.note_events(&devices);
        result
    }

    /// Rises with whatever may alter a PCI function.
    #[must_use]
    pub fn pci_changes(&self) -> u64 {
        self.devices.lock().pci.changes()
    }

    /// Everything shared. The vCPUs stand still.
    #[must_use]
    pub fn save(&self) -> PlatformState {
        let mut state = PlatformState { cpuid: self.cpuid.entries().to_vec(), ..PlatformState::default() };
        self.save_into(&mut state);
        state
    }

    /// Likewise, into a state of this guest that was saved before: takes no memory but for console input that came since. The CPUID table,
    /// which does not change, is left as it is.
    pub fn save_into(&self, state: &mut PlatformState) {
        self.devices.lock().pci.save_into(&mut state.pci);
        self.save_unsettled_into(state);
    }

    /// Likewise, but for the PCI functions.
    pub fn save_unsettled_into(&self, state: &mut PlatformState) {
        let devices = self.devices.lock();
        state.pci.latch = devices.pci.latch();
        state.ioapic = devices.ioapic.save();
        devices.uart.save_into(&mut state.uart);
        state.legacy = devices.legacy.save();
        state.clock = self.clock.save();
        state.power = match devices.power {
            None => 0,
            Some(PowerEvent::Off) => 1,
            Some(PowerEvent::Reset) => 2,
        };
    }

    /// Continues from `state`, on a platform made with the clock and the CPUID table of that state and the
    /// same functions. Touches no hardware and sends no interrupt. After an error the platform is not to be used.
    ///
    /// # Errors
    /// The state is damaged or of another guest.
    pub fn restore(&self, state: &PlatformState) -> Result<(), RestoreError> {
        self.devices.lock().pci.restore(&state.pci).map_err(RestoreError::Pci)?;
        self.restore_unsettled(state)
    }

    /// Likewise, but for the PCI functions, which go on as they are.
    ///
    /// # Errors
    /// As [`restore`](Self::restore).
    pub fn restore_unsettled(&self, state: &PlatformState) -> Result<(), RestoreError> {
        let mut devices = self.devices.lock();
        devices.power = match state.power {
            0 => None,
            1 => Some(PowerEvent::Off),
            2 => Some(PowerEvent::Reset),
            other => return Err(RestoreError::Power(other)),
        };
        devices.ioapic.restore(&state.ioapic).map_err(RestoreError::Ioapic)?;
        devices.uart.restore(&state.uart).map_err(RestoreError::Uart)?;
        devices.pci.set_latch(state.pci.latch);
        devices.legacy.restore(&state.legacy);
        self.note_events(&devices);
        Ok(())
    }

    fn note_events(&self, devices: &Devices) {
        if devices.power.is_some() || devices.pci.has_bar_changes() {
            self.events.store(true, Ordering::Release);
        }
    }

    fn update_console_line(&self, devices: &mut Devices) {
        let asserted = devices.uart.is_interrupting();
        devices.ioapic.set_line(usize::from(UART_GSI), asserted, &mut |message| self.fabric.deliver(message));
    }
}

/// What one vCPU has for itself; owned by the thread that runs it.
#[derive(Debug)]
pub struct VcpuPlatform {
    /// The local APIC.
    pub lapic: Lapic,
    clock: VcpuClock,
    msrs: Msrs,
    /// Until when somebody looks at the timer.
    armed: Option<u64>,
    /// The timer was set to fire before that.
    unseen: bool,
    lengths: Lengths,
}

impl VcpuPlatform {
    /// The state of vCPU `index` after power-on, for the records of a dry run.
    #[must_use]
    pub fn initial(index: u32) -> VcpuPlatformState {
        let mailbox = Arc::new(super::lapic::PendingVectors::new());
        VcpuPlatform {
            lapic: Lapic::new(index, 1, mailbox),
            clock: VcpuClock::default(),
            msrs: Msrs::new(0),
            armed: None,
            unseen: false,
            lengths: Lengths::default(),
        }
        .save()
    }

    /// When the vCPU's timer fires next, in its TSC ticks. The caller promises to call [`expire`](Self::expire) then, whatever the vCPU
    /// does; it is told when the guest wants it earlier ([`Bus::needs_attention`](crate::vcpu::bus::Bus::needs_attention)).
    pub const fn arm(&mut self) -> Option<u64> {
        self.armed = self.lapic.next_deadline();
        self.unseen = false;
        self.armed
    }

    /// The guest has written to its LAPIC: notes whether the timer fires before somebody looks.
    fn timer_may_be_set(&mut self) {
        let next = self.lapic.next_deadline();
        self.unseen = next.is_some_and(|next| self.armed.is_none_or(|armed| next < armed));
    }

    /// Lets the timer fire if it is due. To be called before every entry and when a halt ends.
    pub fn expire(&mut self, now: u64) -> bool {
        self.lapic.expire(now)
    }

    /// Takes an INIT or startup message, INIT first. The LAPIC is reset here; the registers are the caller's.
    pub fn take_startup(&mut self) -> Option<StartupEvent> {
        let event = self.lapic.mailbox().take_startup();
        if event == Some(StartupEvent::Init) {
            self.lapic.reset();
        }
        event
    }

    /// Everything, with what was posted but not collected.
    #[must_use]
    pub fn save(&mut self) -> VcpuPlatformState {
        VcpuPlatformState { lapic: self.lapic.save(), clock: self.clock.save(), msrs: self.msrs.save() }
    }

    /// Continues from `state`; what was posted meanwhile stays.
    ///
    /// # Errors
    /// The state is damaged or of another vCPU; nothing was changed.
    pub fn restore(&mut self, state: &VcpuPlatformState) -> Result<(), RestoreError> {
        self.lapic.restore(&state.lapic).map_err(RestoreError::Lapic)?;
        self.clock.restore(&state.clock);
        self.msrs.restore(&state.msrs);
        self.timer_may_be_set();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
