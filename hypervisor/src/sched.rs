//! What each pCPU does all day.

use crate::cpu;
use crate::smp::pcpu::Pcpu;

/// The loop of a pCPU.
pub fn ap_main(own: &'static Pcpu) -> ! {
    log::info!("pCPU {} is up", own.index);
    loop {
        cpu::wait_for_interrupt();
    }
}
