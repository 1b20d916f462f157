//! Waking the application processors at power-on (SDM 3A 8.4.4).
#![expect(unsafe_code, reason = "the trampoline is copied to low memory and filled in")]

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use super::{lapic, pcpu};
use crate::boot_info::ApTrampoline;
use crate::mem::host_map;
use crate::mem::layout::AP_TRAMPOLINE;
use crate::{cpu, time};

/// Stack of an application processor in bytes.
pub const STACK_BYTES: usize = 64 << 10;

static ARRIVED: AtomicU32 = AtomicU32::new(0);

/// Starts the CPUs with the x2APIC ids `others`; returns how many came.
///
/// They run [`crate::sched::run`], with indices in the order in which they arrive, from 1 on.
pub fn start(trampoline: &ApTrampoline, others: &[u32]) -> u32 {
    if others.is_empty() {
        return 0;
    }
    let mut stacks: Vec<u64> = vec![0];
    for _ in others {
        let stack = vec![0u8; STACK_BYTES].leak();
        stacks.push((stack.as_ptr() as u64 + STACK_BYTES as u64) & !15);
    }
    let stacks = stacks.leak();
    let mailbox = [host_map::root(), ap_entry as *const () as u64, stacks.as_ptr() as u64, 1];
    // SAFETY: the page at AP_TRAMPOLINE was claimed for this in the region map and is identity mapped writable;
    // the code is smaller than a page (asserted), the mailbox's four words lie inside it.
    unsafe {
        assert!(trampoline.code.len() <= 4096 && trampoline.mailbox + 32 <= trampoline.code.len());
        let page = AP_TRAMPOLINE as usize as *mut u8;
        page.copy_from_nonoverlapping(trampoline.code.as_ptr(), trampoline.code.len());
        page.add(trampoline.mailbox).cast::<[u64; 4]>().write_unaligned(mailbox);
    }
    host_map::make_trampoline_executable();
    for apic_id in others {
        lapic::send_init(*apic_id);
    }
    // SDM 3A 8.4.4.1: 10 ms after INIT, then two start-up IPIs 200 us apart.
    let _ = cpu::spin_until(time::ms_to_ticks(10), || false);
    for round in 0..2 {
        for apic_id in others {
            lapic::send_startup(*apic_id, AP_TRAMPOLINE);
        }
        let arrived = || ARRIVED.load(Ordering::Acquire) as usize == others.len();
        let patience = if round == 0 { time::ms_to_ticks(1) / 5 } else { time::ms_to_ticks(500) };
        if cpu::spin_until(patience, arrived) {
            break;
        }
    }
    ARRIVED.load(Ordering::Acquire)
}

/// The first Rust of an application processor; on the stack and page tables the mailbox named.
extern "C" fn ap_entry(index: u32) -> ! {
    host_map::adopt_control_registers();
    let own = pcpu::enlist(index);
    ARRIVED.fetch_add(1, Ordering::Release);
    crate::sched::run(own)
}
