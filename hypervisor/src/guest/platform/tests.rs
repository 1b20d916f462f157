//! A whole guest on the host: what its vCPUs do reaches the right device, and survives an upgrade.

use machine::pci::Bdf;

use super::*;
use crate::guest::clock::ClockState;
use crate::guest::cpuid::CpuidConfig;
use crate::guest::message::MsiMessage;
use crate::guest::message::{DeliveryMode, Destination, InterruptMessage, IpiSink};
use crate::guest::pci::access::{InterruptRouter, RouteError};
use crate::vcpu::bus::{Bus, CpuView, GeneralProtection};
use proptest::prelude::*;

struct NoRoutes;
impl InterruptRouter for NoRoutes {
    fn route(&mut self, _: Bdf, _: u16, _: MsiMessage) -> Result<MsiMessage, RouteError> {
        Err(RouteError::Exhausted)
    }
    fn release(&mut self, _: Bdf, _: u16) {}
}

#[derive(Clone, Default)]
struct Recorder(Arc<SpinMutex<Vec<u8>>>);
impl ConsoleSink for Recorder {
    fn write(&mut self, byte: u8) {
        self.0.lock().push(byte);
    }
}

#[derive(Clone, Default)]
struct Kicks(Arc<SpinMutex<Vec<u32>>>);
impl IpiSink for Kicks {
    fn kick(&self, vcpu: u32) {
        self.0.lock().push(vcpu);
    }
}

/// 64 KiB of RAM at 0.
#[derive(Clone)]
struct Ram(Arc<SpinMutex<Vec<u8>>>);
impl GuestRam for Ram {
    fn read(&self, address: GuestPhys, buffer: &mut [u8]) -> Result<(), NotMemory> {
        let start = usize::try_from(address.get()).map_err(|_| NotMemory)?;
        let end = start.checked_add(buffer.len()).ok_or(NotMemory)?;
        buffer.copy_from_slice(self.0.lock().get(start..end).ok_or(NotMemory)?);
        Ok(())
    }
    fn write(&self, address: GuestPhys, bytes: &[u8]) -> Result<(), NotMemory> {
        let start = usize::try_from(address.get()).map_err(|_| NotMemory)?;
        let end = start.checked_add(bytes.len()).ok_or(NotMemory)?;
        self.0.lock().get_mut(start..end).ok_or(NotMemory)?.copy_from_slice(bytes);
        Ok(())
    }
}

struct Time(u64);
impl TimeSource for Time {
    fn tsc(&self) -> u64 {
        self.0
    }
    fn wall_clock_ns(&self) -> u64 {
        1_772_323_198_000_000_000
    }
}

struct Bed {
    guest: GuestPlatform,
    vcpus: [VcpuPlatform; 2],
    console: Recorder,
    kicks: Kicks,
    ram: Ram,
}

fn parts(clock: ClockState, cpuid: CpuidTable) -> (GuestParts, Recorder, Kicks, Ram) {
    let (console, kicks) = (Recorder::default(), Kicks::default());
    let ram = Ram(Arc::new(SpinMutex::new(alloc::vec![0; 0x1_0000])));
    let parts = GuestParts {
        fabric: Arc::new(InterruptFabric::new(2, Box::new(kicks.clone()))),
        ram: Box::new(ram.clone()),
        console: Box::new(console.clone()),
        pci: PciBus::new(Box::new(NoRoutes), Vec::new(), 40),
        cpuid,
        clock: GuestClock::new(clock).expect("a frequency"),
        microcode: 0,
    };
    (parts, console, kicks, ram)
}

fn bed_of(clock: ClockState, cpuid: CpuidTable) -> Bed {
    let (parts, console, kicks, ram) = parts(clock, cpuid);
    let guest = GuestPlatform::new(parts);
    let vcpus = [0, 1].map(|index| guest.vcpu(index).expect("two vCPUs"));
    Bed { guest, vcpus, console, kicks, ram }
}

fn bed() -> Bed {
    let config = CpuidConfig {
        vcpus: 2,
        physical_bits: 40,
        xcr0: 7,
        tsc_khz: 2_000_000,
        speculation_control: false,
        hide_xsavec: false,
    };
    let cpuid = CpuidTable::new(&config, &|_, _| [0; 4]);
    bed_of(ClockState { tsc_khz: 2_000_000, ..ClockState::default() }, cpuid)
}

impl Bed {
    fn on<R>(&mut self, vcpu: usize, work: impl FnOnce(&mut VcpuBus<'_>) -> R) -> R {
        work(&mut VcpuBus::new(&self.guest, &mut self.vcpus[vcpu], &Time(1_000)))
    }
}

#[test]
fn console_output_and_interrupt() {
    let mut bed = bed();
    bed.on(0, |bus| {
        for byte in *b"ok" {
            bus.port_write(0x3F8, 1, u32::from(byte));
        }
        assert_eq!(bus.port_read(0x3FD, 1), 0x60);
        // LAPIC on, IOAPIC pin 4 to vector 0x24 of CPU 0, UART: OUT2, received data.
        assert_eq!(bus.msr_write(0x80F, 0x1FF), Ok(()));
        bus.mmio_write(GuestPhys(0xFEC0_0000), 4, 0x18);
        bus.mmio_write(GuestPhys(0xFEC0_0010), 4, 0x24);
        bus.port_write(0x3FC, 1, 0x0B);
        bus.port_write(0x3F9, 1, 0x01);
        assert_eq!(bus.pending_interrupt(), None);
    });
    assert_eq!(*bed.console.0.lock(), b"ok");
    assert_eq!(bed.guest.push_input(b"y"), 1);
    assert_eq!(*bed.kicks.0.lock(), [0]);
    bed.on(0, |bus| {
        assert_eq!(bus.pending_interrupt(), Some(0x24));
        bus.interrupt_accepted(0x24);
        // Without FIFOs one byte is received data.
        assert_eq!(bus.port_read(0x3FA, 1), 0x04);
        assert_eq!(bus.port_read(0x3F8, 1), u32::from(b'y'));
        assert_eq!(bus.msr_write(0x80B, 0), Ok(()));
        assert_eq!(bus.pending_interrupt(), None);
    });
}

#[test]
fn interprocessor_interrupts_start_and_reach_other_cpus() {
    let mut bed = bed();
    bed.on(0, |bus| {
        assert_eq!(bus.msr_write(0x830, 0x0000_0001_0000_C500), Ok(()));
        assert_eq!(bus.msr_write(0x830, 0x0000_0001_0000_069A), Ok(()));
    });
    assert_eq!(*bed.kicks.0.lock(), [1, 1]);
    assert!(bed.on(1, |bus| bus.needs_attention()) && !bed.on(0, |bus| bus.needs_attention()));
    assert_eq!(bed.vcpus[1].take_startup(), Some(StartupEvent::Init));
    assert_eq!(bed.vcpus[1].take_startup(), Some(StartupEvent::Startup { page: 0x9A }));
    assert_eq!(bed.on(1, |bus| bus.msr_write(0x80F, 0x1FF)), Ok(()));
    assert_eq!(bed.on(0, |bus| bus.msr_write(0x830, 0x000C_00FD)), Ok(()));
    assert_eq!(bed.on(1, |bus| bus.pending_interrupt()), Some(0xFD));
    assert_eq!(bed.on(0, |bus| bus.pending_interrupt()), None);
}

#[test]
fn a_host_interrupt_reaches_the_guest() {
    let mut bed = bed();
    assert_eq!(bed.on(1, |bus| bus.msr_write(0x80F, 0x1FF)), Ok(()));
    let fabric = bed.guest.fabric().clone();
    let message = InterruptMessage::from_msi(MsiMessage { address: 0xFEE0_1000, data: 0x55 }).expect("valid");
    fabric.deliver(message);
    assert_eq!(*bed.kicks.0.lock(), [1]);
    assert!(bed.vcpus[1].lapic.mailbox().is_anything_posted());
    assert_eq!(bed.on(1, |bus| bus.pending_interrupt()), Some(0x55));
}

#[test]
fn level_interrupts_end_at_the_ioapic() {
    let mut bed = bed();
    assert_eq!(bed.on(0, |bus| bus.msr_write(0x80F, 0x1FF)), Ok(()));
    bed.on(0, |bus| {
        bus.mmio_write(GuestPhys(0xFEC0_0000), 4, 0x18);
        bus.mmio_write(GuestPhys(0xFEC0_0010), 4, 0x8034);
        bus.port_write(0x3FC, 1, 0x0B);
        bus.port_write(0x3F9, 1, 0x01);
    });
    bed.guest.push_input(b"ab");
    bed.on(0, |bus| {
        for _ in 0..2 {
            assert_eq!(bus.pending_interrupt(), Some(0x34));
            bus.interrupt_accepted(0x34);
            bus.port_read(0x3F8, 1);
            // Still asserted after the first byte: the EOI brings it back.
            assert_eq!(bus.msr_write(0x80B, 0), Ok(()));
        }
        assert_eq!(bus.pending_interrupt(), None);
    });
}

/// A guest that sets its timer and goes on without a halt: whoever runs it must hear of it, or nobody looks in time.
#[test]
fn a_timer_that_is_set_asks_for_attention() {
    let mut bed = bed();
    let set = |bed: &mut Bed, count: u64| {
        bed.on(0, |bus| assert_eq!(bus.msr_write(0x838, count), Ok(())));
        bed.on(0, |bus| bus.needs_attention())
    };
    bed.on(0, |bus| {
        assert_eq!(bus.msr_write(0x80F, 0x1FF), Ok(()));
        assert_eq!(bus.msr_write(0x83E, 0xB), Ok(()));
        assert_eq!(bus.msr_write(0x832, 0x40), Ok(()));
    });
    assert!(bed.on(0, |bus| bus.is_quiet()), "the timer is off");
    assert!(set(&mut bed, 1_000));
    assert!(!bed.on(0, |bus| bus.is_quiet()));
    let due = bed.vcpus[0].arm();
    assert!(due.is_some() && !bed.on(0, |bus| bus.needs_attention()));
    assert!(!set(&mut bed, 2_000), "somebody looks earlier anyway");
    assert!(bed.on(0, |bus| bus.is_quiet()));
    assert!(set(&mut bed, 500));
    assert!(!set(&mut bed, 0), "it is off");
}

#[test]
fn power_events() {
    let mut bed = bed();
    assert!(!bed.guest.has_events());
    bed.on(0, |bus| bus.port_write(0x600, 1, 0x34));
    assert!(bed.guest.has_events() && bed.on(0, |bus| bus.needs_attention() && !bus.is_quiet()));
    bed.on(0, |bus| bus.port_write(0xCF9, 1, 6));
    assert_eq!(bed.guest.take_events(), GuestEvents { power: Some(PowerEvent::Off), bars: Vec::new() });
    assert!(!bed.guest.has_events());
    // A dword at 0xCF8 is PCI's even though it covers 0xCF9.
    bed.on(0, |bus| {
        bus.port_write(0xCF8, 4, 0x8000_0600);
        assert_eq!(bus.port_read(0xCF8, 4), 0x8000_0600);
    });
    assert!(!bed.guest.has_events());
}

#[test]
fn empty_bus() {
    let mut bed = bed();
    bed.on(0, |bus| {
        assert_eq!(bus.port_read(0x1234, 4), 0xFFFF_FFFF);
        assert_eq!(bus.port_read(0x1234, 1), 0xFF);
        assert_eq!(bus.port_read(0xFFFF, 4), 0xFFFF_FFFF);
        assert_eq!(bus.mmio_read(GuestPhys(0xFEE0_0020), 4), 0xFFFF_FFFF);
        assert_eq!(bus.mmio_read(GuestPhys(u64::MAX), 8), u64::MAX);
        assert_eq!(bus.mmio_read(GuestPhys(0xE000_0000), 4), 0x0008_1B36);
        assert_eq!(bus.mmio_read(GuestPhys(0xE000_8000), 2), 0xFFFF);
        assert_eq!(bus.hypercall(5, [0; 4]) as i64, -1000);
        assert_eq!(bus.msr_read(0xDEAD), Err(GeneralProtection));
        assert_eq!(bus.cpuid(1, 0, CpuView::default())[1] >> 24, 0);
    });
    assert_eq!(bed.on(1, |bus| bus.cpuid(1, 0, CpuView::default()))[1] >> 24, 1);
}

#[test]
fn clock_page_is_written_to_ram() {
    let mut bed = bed();
    assert_eq!(bed.on(0, |bus| bus.msr_write(0x4B56_4D01, 0x2001)), Ok(()));
    let ram = bed.ram.0.lock();
    assert_eq!(ram[0x2000..0x2004], [2, 0, 0, 0]);
    assert_eq!(ram[0x2018..0x201E], [0, 0, 0, 0x80, 0, 1]);
}

#[test]
fn deadline_timer_through_the_bus() {
    let mut bed = bed();
    for (msr, value) in [(0x80F, 0x1FF), (0x832, 0x4_00EC), (0x6E0, 9_000)] {
        assert_eq!(bed.on(0, |bus| bus.msr_write(msr, value)), Ok(()));
    }
    assert_eq!(bed.vcpus[0].arm(), Some(9_000));
    assert!(bed.vcpus[0].expire(9_000));
    assert_eq!(bed.on(0, |bus| bus.pending_interrupt()), Some(0xEC));
}

#[test]
fn an_upgrade_changes_nothing() {
    let mut old = bed();
    old.on(0, |bus| {
        for (msr, value) in [(0x80F, 0x1FF), (0x832, 0x4_00EC), (0x6E0, 9_000), (0x4B56_4D01, 0x2001), (0x200, 6)] {
            assert_eq!(bus.msr_write(msr, value), Ok(()));
        }
        bus.port_write(0x3FC, 1, 0x0B);
        bus.port_write(0x3F9, 1, 0x05);
        bus.port_write(0x70, 1, 0x0D);
        bus.port_write(0x604, 1, 1);
    });
    old.guest.push_input(b"left over");
    old.guest.fabric().deliver(InterruptMessage {
        vector: 0x99,
        mode: DeliveryMode::Fixed,
        destination: Destination::All,
        level: false,
    });
    let state = old.guest.save();
    let cpus = [old.vcpus[0].save(), old.vcpus[1].save()];

    let cpuid = CpuidTable::restore(state.cpuid.clone()).expect("in order");
    let mut new = bed_of(state.clock, cpuid);
    assert_eq!(new.guest.restore(&state), Ok(()));
    for (vcpu, state) in new.vcpus.iter_mut().zip(&cpus) {
        assert_eq!(vcpu.restore(state), Ok(()));
    }
    assert_eq!(new.guest.save(), state);
    assert_eq!([new.vcpus[0].save(), new.vcpus[1].save()], cpus);
    assert_eq!(new.on(0, |bus| bus.pending_interrupt()), Some(0x99));
    assert_eq!(new.on(0, |bus| bus.port_read(0x3F8, 1)), u32::from(b'l'));
    assert_eq!(new.on(0, |bus| bus.port_read(0x71, 1)), 0x80);
    assert_eq!(new.on(0, |bus| bus.msr_read(0x4B56_4D01)), Ok(0x2001));
    assert_eq!(new.on(0, |bus| bus.cpuid(0x4000_0000, 0, CpuView::default())[1]), 0x4B4D_564B);
    assert_eq!(new.guest.take_events().power, Some(PowerEvent::Reset));
    assert!(new.kicks.0.lock().is_empty());

    let damaged = PlatformState { power: 3, ..state };
    assert_eq!(new.guest.restore(&damaged), Err(RestoreError::Power(3)));
    assert!(matches!(new.vcpus[1].restore(&cpus[0]), Err(RestoreError::Lapic(_))));
}

proptest! {
    #[test]
    fn no_access_panics(
        accesses in proptest::collection::vec((0u8..8, any::<u64>(), 0u32..4, any::<u64>()), 1..200)
    ) {
        let mut bed = bed();
        for (kind, address, width, value) in accesses {
            let width = 1u8 << width;
            let port_width = width.min(4);
            let near = [0xFEC0_0000, 0xE000_0000, 0xFEE0_0000, 0xC000_0000][address as usize & 3] + (address >> 2 & 0x1FFF);
            let msr = [value as u32, 0x4B56_4D00 + (value as u32 & 1), 0x800 + (value as u32 & 63), 0x200 + (value as u32 & 255)][address as usize & 3];
            bed.on((value & 1) as usize, |bus| match kind {
                0 => { bus.port_read(address as u16, port_width); }
                1 => bus.port_write(address as u16, port_width, value as u32),
                2 => { bus.mmio_read(GuestPhys(near), width); bus.mmio_read(GuestPhys(address), width); }
                3 => { bus.mmio_write(GuestPhys(near), width, value); bus.mmio_write(GuestPhys(address), width, value); }
                4 => { let _ = bus.msr_write(msr, address); }
                5 => { let _ = bus.msr_read(msr); }
                6 => { bus.cpuid(address as u32, value as u32, CpuView { cr4: value, xcr0: address }); }
                _ => if let Some(vector) = bus.pending_interrupt() { bus.interrupt_accepted(vector) },
            });
            bed.vcpus[0].take_startup();
            bed.guest.push_input(&[value as u8]);
        }
        let state = bed.guest.save();
        prop_assert_eq!(bed.guest.restore(&state), Ok(()));
        let vcpu = bed.vcpus[0].save();
        prop_assert_eq!(bed.vcpus[0].restore(&vcpu), Ok(()));
    }
}
