//! The arrival of the pCPUs behind the boot CPU: each waits for COMMIT, or goes back.
#![expect(unsafe_code, reason = "goes back to another image")]

use handover::jump::{CPU_ARRIVED, CPU_REFUSES, CPU_VERIFIED};

use super::block::Block;
use super::retire;
use crate::cpu;
use crate::mem::{guard, host_map};
use crate::sched;
use crate::smp::{lapic, pcpu};

/// pCPU `index` has entered this image, on its new stack and page tables.
pub fn arrive(index: u32) -> ! {
    let Some(block) = Block::current() else { cpu::halt_forever() };
    block.set_state(index, CPU_ARRIVED);
    host_map::adopt_control_registers();
    #[cfg(feature = "fault")]
    if block.is_last(index) {
        super::fault::at(super::fault::Place::Last);
    }
    if block.apic_id(index) == lapic::id() {
        block.set_state(index, CPU_VERIFIED);
    } else {
        block.set_reason("a pCPU has another LAPIC id than recorded");
        // Before this pCPU reports, nobody can have committed.
        let _ = block.abandon();
    }
    loop {
        if block.committed() {
            // What may be remembered of the arena is that it can't be written.
            host_map::forget_rights();
            guard::pause(index);
            let own = pcpu::enlist(index);
            retire::note_pending();
            sched::run(own)
        }
        if block.abandoned() {
            block.set_state(index, CPU_REFUSES);
            // SAFETY: before COMMIT; this pCPU has changed nothing of the old image's.
            unsafe { block.give_back(index) }
        }
        core::hint::spin_loop();
    }
}
