//! Page requests of devices (PRI, PCIe 10.4): a device that has sent one waits for an answer. Baton gives none, so they are off
//! from the moment a guest has the device, and an upgrade looks again (HANDOVER.md, behaviour 10).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;

use machine::access::Clock;
use machine::pci::{Bdf, ConfigSpace, Pri};

use super::sriov;
use crate::host;
use crate::vm::Vm;

/// The interface that `device` uses: its own, or, of a virtual function, that of the `physical` one (PCIe 9.3.7.11).
fn interface(config: &(impl ConfigSpace + ?Sized), device: Bdf, physical: Option<Bdf>) -> Option<Pri> {
    Pri::find(config, physical.unwrap_or(device))
}

/// Switches them off, if firmware left them on.
///
/// # Errors
/// They stay on, or some that were sent stay open.
pub fn stop(
    config: &(impl ConfigSpace + ?Sized),
    clock: &(impl Clock + ?Sized),
    device: Bdf,
    physical: Option<Bdf>,
) -> Result<(), String> {
    match interface(config, device, physical).filter(|pri| pri.is_enabled(config)) {
        Some(pri) => pri.stop(config, clock).map_err(|error| error.to_string()),
        None => Ok(()),
    }
}

/// PLAN: those of every preserved device are off.
///
/// # Errors
/// One of them has them on, by name.
pub fn check(vms: &[Arc<Vm>]) -> Result<(), String> {
    let ecam = &*host::get().ecam;
    let mut devices = vms.iter().flat_map(|vm| vm.devices());
    devices.try_for_each(|device| must_be_off(ecam, device.bdf, sriov::physical_of(device.bdf)))
}

/// Makes sure that they are off. Only looks: in an upgrade nothing is written to a device.
///
/// # Errors
/// They are on.
fn must_be_off(config: &(impl ConfigSpace + ?Sized), device: Bdf, physical: Option<Bdf>) -> Result<(), String> {
    match interface(config, device, physical).filter(|pri| pri.is_enabled(config)) {
        Some(_) => Err(format!(
            "the device {device} has page requests (PRI) on, which nobody answers while the hypervisor is replaced: power \
             its guest off before the upgrade, report this line"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use core::cell::{Cell, RefCell};

    use machine::access::Width;

    use super::*;

    const DISK: Bdf = Bdf::from_requester_id(0, 0x0300);
    const VIRTUAL: Bdf = Bdf::from_requester_id(0, 0x0380);
    /// Where the capability stands; its control and its status register (PCIe 10.5.2).
    const AT: u16 = 0x100;
    const CONTROL: u16 = AT + 4;
    const STATUS: u16 = AT + 6;

    /// Configuration space of one function with page requests, and a count of the writes to it.
    struct Function {
        bytes: RefCell<[u8; 4096]>,
        writes: Cell<u32>,
        /// Bits of the control register that a write changes.
        writable: u16,
    }

    impl Function {
        fn new(control: u16, status: u16) -> Self {
            let mut bytes = [0; 4096];
            bytes[usize::from(AT)..][..4].copy_from_slice(&0x0001_0013u32.to_le_bytes());
            bytes[usize::from(CONTROL)..][..2].copy_from_slice(&control.to_le_bytes());
            bytes[usize::from(STATUS)..][..2].copy_from_slice(&status.to_le_bytes());
            Self { bytes: RefCell::new(bytes), writes: Cell::new(0), writable: 3 }
        }
    }

    impl ConfigSpace for Function {
        fn read(&self, bdf: Bdf, offset: u16, width: Width) -> u32 {
            if bdf != DISK {
                return width.all_ones();
            }
            let bytes = self.bytes.borrow();
            (0..usize::from(width.bytes()))
                .rev()
                .fold(0, |value, at| value << 8 | u32::from(bytes[usize::from(offset) + at]))
        }

        fn write(&self, bdf: Bdf, offset: u16, _: Width, value: u32) {
            self.writes.set(self.writes.get() + 1);
            if (bdf, offset) == (DISK, CONTROL) {
                let new = value as u16 & self.writable | self.read(DISK, CONTROL, Width::Word) as u16 & !self.writable;
                self.bytes.borrow_mut()[usize::from(offset)..][..2].copy_from_slice(&new.to_le_bytes());
            }
        }
    }

    #[derive(Default)]
    struct Ticker(Cell<u64>);

    impl Clock for Ticker {
        fn ticks(&self) -> u64 {
            self.0.set(self.0.get() + 1);
            self.0.get()
        }

        fn ticks_per_ms(&self) -> u64 {
            1
        }
    }

    #[test]
    fn law_10_a_preserved_device_with_page_requests_on_is_refused_by_name_and_not_written_to() {
        let on = Function::new(1, 0x100);
        for (device, physical) in [(DISK, None), (VIRTUAL, Some(DISK))] {
            let line = must_be_off(&on, device, physical).unwrap_err();
            assert!(line.contains(&device.to_string()) && line.contains("PRI") && line.contains("power"), "{line}");
        }
        assert_eq!(on.writes.get(), 0);
        for off in [Function::new(0, 0x100), Function::new(2, 0)] {
            assert_eq!(must_be_off(&off, DISK, None), Ok(()));
        }
        // Nobody there, and no such capability.
        assert_eq!(must_be_off(&on, VIRTUAL, None), Ok(()));
    }

    #[test]
    fn law_10_page_requests_are_off_when_a_guest_gets_the_device() {
        let left_on = Function::new(1, 0x100);
        stop(&left_on, &Ticker::default(), DISK, None).unwrap();
        assert_eq!(must_be_off(&left_on, DISK, None), Ok(()));
        let was_off = Function::new(0, 0x100);
        stop(&was_off, &Ticker::default(), DISK, None).unwrap();
        assert_eq!(was_off.writes.get(), 0, "what is off is left alone");
        // A switch that does not move, and requests that are never answered.
        let stuck = Function { writable: 0, ..Function::new(1, 0x100) };
        assert!(stop(&stuck, &Ticker::default(), DISK, None).unwrap_err().contains("page request"));
        let open = Function::new(1, 0);
        assert!(stop(&open, &Ticker::default(), DISK, None).unwrap_err().contains("unanswered"));
    }
}
