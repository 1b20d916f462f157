//! The machine of one guest, put together: what its vCPUs share, and the bus each of them sees.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use guest_loader::layout::{
    ECAM, IOAPIC, IOAPIC_ID, PCI_CONFIG_PORT, RESET_PORT, UART_GSI, UART_PORT,
};
use hermit_sync::SpinMutex;
use machine::addr::GuestPhys;

use super::clock::{ClockState, GuestClock, VcpuClock, VcpuClockState};
use super::cpuid::{CpuidEntry, CpuidTable};
use super::ioapic::{Ioapic, IoapicState, IoapicStateError};
use super::lapic::{Effect, Lapic, LapicState, LapicStateError, StartupEvent};
use super::legacy::{Legacy, LegacyState, PowerEvent};
use super::message::InterruptFabric;
use super::msr::{MsrState, Msrs};
use super::pci::{BarChange, PciBus, PciCounters, PciError, PciState};
use super::uart::{ConsoleSink, Uart, UartState, UartStateError};
use crate::vcpu::bus::{Bus, CpuView, CpuidResult, GeneralProtection, NotMemory};

/// -KVM_ENOSYS: what a hypercall nobody knows returns.
const NO_SUCH_HYPERCALL: u64 = (-1000i64) as u64;
/// A periodic LAPIC timer fires at most this often per millisecond of the guest's TSC.
const TIMER_RATE_PER_MS: u64 = 20;
const UART_PORTS: u16 = 8;
const UART_LAST: u16 = UART_PORT + UART_PORTS - 1;
const PCI_CONFIG_LAST: u16 = PCI_CONFIG_PORT + 7;

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

/// What the vCPUs share. Numbers only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformState {
    /// IOAPIC.
    pub ioapic: IoapicState,
    /// Console.
    pub uart: UartState,
    /// PCI.
    pub pci: PciState,
    /// Legacy ports.
    pub legacy: LegacyState,
    /// Clock.
    pub clock: ClockState,
    /// CPUID table.
    pub cpuid: Vec<CpuidEntry>,
    /// A power event nobody took: 0 none, 1 off, 2 reset.
    pub power: u32,
}

/// What one vCPU has for itself. Numbers only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuPlatformState {
    /// Local APIC with all that was posted.
    pub lapic: LapicState,
    /// Clock registrations.
    pub clock: VcpuClockState,
    /// Emulated MSRs.
    pub msrs: MsrState,
}

/// A saved state was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreError {
    /// The IOAPIC's.
    Ioapic(IoapicStateError),
    /// The console's.
    Uart(UartStateError),
    /// PCI's.
    Pci(PciError),
    /// A LAPIC's.
    Lapic(LapicStateError),
    /// The power event is none.
    Power(u32),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ioapic(error) => error.fmt(f),
            Self::Uart(error) => error.fmt(f),
            Self::Pci(error) => error.fmt(f),
            Self::Lapic(error) => error.fmt(f),
            Self::Power(value) => write!(
                f,
                "guest record has power event {value}; the record is damaged"
            ),
        }
    }
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
        GuestEvents {
            power: devices.power.take(),
            bars: devices.pci.take_bar_changes(),
        }
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

    /// Everything shared. The vCPUs stand still.
    #[must_use]
    pub fn save(&self) -> PlatformState {
        let devices = self.devices.lock();
        PlatformState {
            ioapic: devices.ioapic.save(),
            uart: devices.uart.save(),
            pci: devices.pci.save(),
            legacy: devices.legacy.save(),
            clock: self.clock.save(),
            cpuid: self.cpuid.entries().to_vec(),
            power: match devices.power {
                None => 0,
                Some(PowerEvent::Off) => 1,
                Some(PowerEvent::Reset) => 2,
            },
        }
    }

    /// Continues from `state`, on a platform made with the clock and the CPUID table of that state and the
    /// same functions. Touches no hardware and sends no interrupt. After an error the platform is not to be used.
    ///
    /// # Errors
    /// The state is damaged or of another guest.
    pub fn restore(&self, state: &PlatformState) -> Result<(), RestoreError> {
        let mut devices = self.devices.lock();
        devices.power = match state.power {
            0 => None,
            1 => Some(PowerEvent::Off),
            2 => Some(PowerEvent::Reset),
            other => return Err(RestoreError::Power(other)),
        };
        devices
            .ioapic
            .restore(&state.ioapic)
            .map_err(RestoreError::Ioapic)?;
        devices
            .uart
            .restore(&state.uart)
            .map_err(RestoreError::Uart)?;
        devices.pci.restore(&state.pci).map_err(RestoreError::Pci)?;
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
        devices
            .ioapic
            .set_line(usize::from(UART_GSI), asserted, &mut |message| {
                self.fabric.deliver(message)
            });
    }
}

/// What one vCPU has for itself; owned by the thread that runs it.
#[derive(Debug)]
pub struct VcpuPlatform {
    /// The local APIC.
    pub lapic: Lapic,
    clock: VcpuClock,
    msrs: Msrs,
}

impl VcpuPlatform {
    /// When the vCPU's timer fires next, in its TSC ticks.
    #[must_use]
    pub const fn next_deadline(&self) -> Option<u64> {
        self.lapic.next_deadline()
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
        VcpuPlatformState {
            lapic: self.lapic.save(),
            clock: self.clock.save(),
            msrs: self.msrs.save(),
        }
    }

    /// Continues from `state`; what was posted meanwhile stays.
    ///
    /// # Errors
    /// The state is damaged or of another vCPU; nothing was changed.
    pub fn restore(&mut self, state: &VcpuPlatformState) -> Result<(), RestoreError> {
        self.lapic
            .restore(&state.lapic)
            .map_err(RestoreError::Lapic)?;
        self.clock.restore(&state.clock);
        self.msrs.restore(&state.msrs);
        Ok(())
    }
}

/// The machine as one vCPU sees it, for the time of one exit or more.
pub struct VcpuBus<'a> {
    guest: &'a GuestPlatform,
    vcpu: &'a mut VcpuPlatform,
    time: &'a dyn TimeSource,
}

/// All ones in `width` bytes.
const fn ones(width: u8) -> u64 {
    match width {
        1 => 0xFF,
        2 => 0xFFFF,
        4 => 0xFFFF_FFFF,
        _ => u64::MAX,
    }
}

impl<'a> VcpuBus<'a> {
    /// The bus of `vcpu`.
    #[must_use]
    pub const fn new(
        guest: &'a GuestPlatform,
        vcpu: &'a mut VcpuPlatform,
        time: &'a dyn TimeSource,
    ) -> Self {
        Self { guest, vcpu, time }
    }

    fn apply(&self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Ipi(message) => self.guest.fabric.deliver(message),
            Effect::Eoi(vector) => {
                let mut devices = self.guest.devices.lock();
                devices
                    .ioapic
                    .end_of_interrupt(vector, &mut |message| self.guest.fabric.deliver(message));
            }
        }
    }

    /// Whether the access belongs to PCI configuration as a whole; single bytes of 0xCF9 do not.
    const fn is_pci(port: u16, width: u8) -> bool {
        port >= PCI_CONFIG_PORT && port <= PCI_CONFIG_LAST && !(port == RESET_PORT && width == 1)
    }

    fn byte_read(&self, devices: &mut Devices, port: u16) -> u8 {
        match port {
            UART_PORT..=UART_LAST => devices.uart.read(port - UART_PORT),
            _ if Legacy::owns_port(port) => {
                let now = self.guest.clock.system_time(self.time.tsc());
                devices.legacy.read(port, now, self.time.wall_clock_ns())
            }
            _ => 0xFF,
        }
    }

    fn byte_write(&self, devices: &mut Devices, port: u16, value: u8) {
        match port {
            UART_PORT..=UART_LAST => devices.uart.write(port - UART_PORT, value),
            _ if Legacy::owns_port(port) => {
                let now = self.guest.clock.system_time(self.time.tsc());
                // The first event stands: a guest that is off does not reset.
                devices.power = devices.power.or(devices.legacy.write(port, value, now));
            }
            _ => {}
        }
    }

    /// After an access to bytes from `port` on: the console's line, events.
    fn settle(&self, devices: &mut Devices, port: u16, width: u8) {
        if port <= UART_LAST && u32::from(port) + u32::from(width) > u32::from(UART_PORT) {
            self.guest.update_console_line(devices);
        }
        self.guest.note_events(devices);
    }
}

/// The ports a wide access reaches, as a bus splits it for byte devices.
fn ports(port: u16, width: u8) -> impl Iterator<Item = (u32, u16)> {
    (0..width.min(4))
        .map_while(move |byte| Some((u32::from(byte) * 8, port.checked_add(u16::from(byte))?)))
}

impl Bus for VcpuBus<'_> {
    fn port_read(&mut self, port: u16, width: u8) -> u32 {
        let mut devices = self.guest.devices.lock();
        if Self::is_pci(port, width) {
            return devices.pci.port_read(port, width);
        }
        let mut value = ones(width) as u32;
        for (shift, port) in ports(port, width) {
            value =
                value & !(0xFF << shift) | u32::from(self.byte_read(&mut devices, port)) << shift;
        }
        self.settle(&mut devices, port, width);
        value
    }

    fn port_write(&mut self, port: u16, width: u8, value: u32) {
        let mut devices = self.guest.devices.lock();
        if Self::is_pci(port, width) {
            devices.pci.port_write(port, width, value);
            self.guest.note_events(&devices);
            return;
        }
        for (shift, port) in ports(port, width) {
            self.byte_write(&mut devices, port, (value >> shift) as u8);
        }
        self.settle(&mut devices, port, width);
    }

    fn mmio_read(&mut self, address: GuestPhys, width: u8) -> u64 {
        let mut devices = self.guest.devices.lock();
        let bytes = u64::from(width);
        let value = if IOAPIC.contains(address, bytes) {
            u64::from(devices.ioapic.read(address.get() - IOAPIC.start.get()))
        } else if ECAM.contains(address, bytes) {
            devices
                .pci
                .ecam_read(address.get() - ECAM.start.get(), width)
        } else {
            devices
                .pci
                .mmio_read(address.get(), width)
                .unwrap_or(u64::MAX)
        };
        value & ones(width)
    }

    fn mmio_write(&mut self, address: GuestPhys, width: u8, value: u64) {
        let mut devices = self.guest.devices.lock();
        let bytes = u64::from(width);
        let value = value & ones(width);
        if IOAPIC.contains(address, bytes) {
            let offset = address.get() - IOAPIC.start.get();
            devices.ioapic.write(offset, value as u32, &mut |message| {
                self.guest.fabric.deliver(message)
            });
        } else if ECAM.contains(address, bytes) {
            devices
                .pci
                .ecam_write(address.get() - ECAM.start.get(), width, value);
            self.guest.note_events(&devices);
        } else {
            let _nobody = devices.pci.mmio_write(address.get(), width, value);
        }
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32, cpu: CpuView) -> CpuidResult {
        self.guest
            .cpuid
            .query(leaf, subleaf, self.vcpu.lapic.id(), cpu)
    }

    fn msr_read(&mut self, msr: u32) -> Result<u64, GeneralProtection> {
        if Lapic::owns_msr(msr) {
            self.vcpu.lapic.msr_read(msr, self.time.tsc())
        } else if VcpuClock::owns_msr(msr) {
            self.vcpu.clock.msr_read(msr)
        } else {
            self.vcpu.msrs.read(msr)
        }
    }

    fn msr_write(&mut self, msr: u32, value: u64) -> Result<(), GeneralProtection> {
        if Lapic::owns_msr(msr) {
            let effect = self.vcpu.lapic.msr_write(msr, value, self.time.tsc())?;
            self.apply(effect);
            Ok(())
        } else if VcpuClock::owns_msr(msr) {
            let ram = &*self.guest.ram;
            let mut write = |address: GuestPhys, bytes: &[u8]| ram.write(address, bytes);
            self.vcpu
                .clock
                .msr_write(msr, value, &self.guest.clock, &mut write)
        } else {
            self.vcpu.msrs.write(msr, value)
        }
    }

    fn hypercall(&mut self, _number: u64, _arguments: [u64; 4]) -> u64 {
        NO_SUCH_HYPERCALL
    }

    fn read_memory(&mut self, address: GuestPhys, buffer: &mut [u8]) -> Result<(), NotMemory> {
        self.guest.ram.read(address, buffer)
    }

    fn write_memory(&mut self, address: GuestPhys, bytes: &[u8]) -> Result<(), NotMemory> {
        self.guest.ram.write(address, bytes)
    }

    fn pending_interrupt(&mut self) -> Option<u8> {
        self.vcpu.lapic.pending_interrupt()
    }

    fn interrupt_accepted(&mut self, vector: u8) {
        self.vcpu.lapic.interrupt_accepted(vector);
    }

    fn take_nmi(&mut self) -> bool {
        self.vcpu.lapic.take_nmi()
    }

    fn set_task_priority(&mut self, cr8: u8) {
        self.vcpu.lapic.set_task_priority(cr8);
    }

    fn task_priority(&mut self) -> u8 {
        self.vcpu.lapic.task_priority()
    }
}

#[cfg(test)]
mod tests;
