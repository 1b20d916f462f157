//! The machine as one of its vCPUs sees it.

use guest_loader::layout::{ECAM, IOAPIC, PCI_CONFIG_PORT, RESET_PORT, UART_PORT};
use machine::addr::GuestPhys;

use super::{Devices, GuestPlatform, TimeSource, VcpuPlatform};
use crate::guest::clock::VcpuClock;
use crate::guest::lapic::{Effect, Lapic};
use crate::guest::legacy::Legacy;
use crate::vcpu::bus::{Bus, CpuView, CpuidResult, GeneralProtection, NotMemory};
use crate::vcpu::emulate::decode::Lengths;

/// -KVM_ENOSYS: what a hypercall nobody knows returns.
const NO_SUCH_HYPERCALL: u64 = (-1000i64) as u64;
const UART_PORTS: u16 = 8;
const UART_LAST: u16 = UART_PORT + UART_PORTS - 1;
const PCI_CONFIG_LAST: u16 = PCI_CONFIG_PORT + 7;

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
    pub const fn new(guest: &'a GuestPlatform, vcpu: &'a mut VcpuPlatform, time: &'a dyn TimeSource) -> Self {
        Self { guest, vcpu, time }
    }

    fn apply(&self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Ipi(message) => self.guest.fabric.deliver(message),
            Effect::Eoi(vector) => {
                let mut devices = self.guest.devices.lock();
                devices.ioapic.end_of_interrupt(vector, &mut |message| self.guest.fabric.deliver(message));
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
                let now = || self.guest.clock.system_time(self.time.tsc());
                devices.legacy.read(port, now, || self.time.wall_clock_ns())
            }
            _ => 0xFF,
        }
    }

    fn byte_write(&self, devices: &mut Devices, port: u16, value: u8) {
        match port {
            UART_PORT..=UART_LAST => devices.uart.write(port - UART_PORT, value),
            _ if Legacy::owns_port(port) => {
                let now = || self.guest.clock.system_time(self.time.tsc());
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
    (0..width.min(4)).map_while(move |byte| Some((u32::from(byte) * 8, port.checked_add(u16::from(byte))?)))
}

impl Bus for VcpuBus<'_> {
    fn port_read(&mut self, port: u16, width: u8) -> u32 {
        let mut devices = self.guest.devices.lock();
        if Self::is_pci(port, width) {
            return devices.pci.port_read(port, width);
        }
        let mut value = ones(width) as u32;
        for (shift, port) in ports(port, width) {
            value = value & !(0xFF << shift) | u32::from(self.byte_read(&mut devices, port)) << shift;
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
            devices.pci.ecam_read(address.get() - ECAM.start.get(), width)
        } else {
            devices.pci.mmio_read(address.get(), width).unwrap_or(u64::MAX)
        };
        value & ones(width)
    }

    fn mmio_write(&mut self, address: GuestPhys, width: u8, value: u64) {
        let mut devices = self.guest.devices.lock();
        let bytes = u64::from(width);
        let value = value & ones(width);
        if IOAPIC.contains(address, bytes) {
            let offset = address.get() - IOAPIC.start.get();
            devices.ioapic.write(offset, value as u32, &mut |message| self.guest.fabric.deliver(message));
        } else if ECAM.contains(address, bytes) {
            devices.pci.ecam_write(address.get() - ECAM.start.get(), width, value);
            self.guest.note_events(&devices);
        } else {
            let _nobody = devices.pci.mmio_write(address.get(), width, value);
        }
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32, cpu: CpuView) -> CpuidResult {
        self.guest.cpuid.query(leaf, subleaf, self.vcpu.lapic.id(), cpu)
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
            self.vcpu.timer_may_be_set();
            self.apply(effect);
            Ok(())
        } else if VcpuClock::owns_msr(msr) {
            let ram = &*self.guest.ram;
            let mut write = |address: GuestPhys, bytes: &[u8]| ram.write(address, bytes);
            self.vcpu.clock.msr_write(msr, value, &self.guest.clock, &mut write)
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

    fn lengths(&mut self) -> Option<&mut Lengths> {
        Some(&mut self.vcpu.lengths)
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

    #[inline]
    fn is_quiet(&self) -> bool {
        self.vcpu.lapic.is_quiet() && !self.guest.has_events() && !self.vcpu.unseen
    }

    fn needs_attention(&self) -> bool {
        self.guest.has_events() || self.vcpu.lapic.mailbox().startup_waits() || self.vcpu.unseen
    }
}
