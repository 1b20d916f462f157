//! What an exception or interrupt does. Interrupts leave a mark and return: the work is
//! done by the pCPU's loop. An exception in the hypervisor is our own fault and ends the
//! image: before COMMIT in a rollback, later in a halt.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Frame, devices, probe};
use crate::cpu;
use crate::smp::lapic::{self, vector};
use crate::smp::pcpu;
use crate::vcpu::event::GP;

/// An IOMMU has a fault to report.
pub static IOMMU_FAULT: AtomicBool = AtomicBool::new(false);
/// The management NIC wants to be looked at.
pub static MANAGEMENT: AtomicBool = AtomicBool::new(false);

/// Non-maskable interrupts seen.
pub static NMIS: AtomicU64 = AtomicU64::new(0);

/// Called by the entry stubs with the saved registers.
pub extern "C" fn dispatch(frame: &mut Frame) {
    match frame.vector as u8 {
        // No lock may be taken here: an NMI comes whether or not somebody holds it.
        2 => {
            NMIS.fetch_add(1, Ordering::Relaxed);
        }
        exception @ 0..=31 => match probe::recover(frame.rip) {
            Some(next) if exception == GP => frame.rip = next,
            _ => fatal(exception, frame),
        },
        number => interrupt(number),
    }
}

/// An interrupt that was taken out of the LAPIC.
pub fn interrupt(number: u8) {
    match number {
        vector::SPURIOUS => return,
        vector::IOMMU_FAULT => IOMMU_FAULT.store(true, Ordering::Release),
        vector::MANAGEMENT => MANAGEMENT.store(true, Ordering::Release),
        vector::KICK | vector::TIMER => {}
        _ => devices::deliver(pcpu::this().index, number),
    }
    lapic::end_of_interrupt();
}

fn fatal(exception: u8, frame: &Frame) -> ! {
    panic!(
        "{} in the hypervisor: error {:#x} at {:#x}, address {:#x}, stack {:#x}, flags {:#x}",
        name(exception),
        frame.error,
        frame.rip,
        cpu::control::cr2(),
        frame.rsp,
        frame.rflags
    )
}

/// The exception's mnemonic (SDM 3A table 6-1).
pub fn name(exception: u8) -> &'static str {
    match exception {
        0 => "#DE (divide error)",
        1 => "#DB (debug)",
        3 => "#BP (breakpoint)",
        6 => "#UD (invalid opcode)",
        8 => "#DF (double fault)",
        10 => "#TS (invalid TSS)",
        11 => "#NP (segment not present)",
        12 => "#SS (stack fault)",
        13 => "#GP (general protection)",
        14 => "#PF (page fault)",
        17 => "#AC (alignment check)",
        18 => "#MC (machine check)",
        19 => "#XM (SIMD exception)",
        _ => "an exception",
    }
}
