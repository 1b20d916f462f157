//! The 64-bit entry that the image before this one jumps to.
//! The state at this entry is fixed by the handover format (`handover::jump`).
#![expect(unsafe_code, reason = "the entry is assembly")]

use core::arch::global_asm;

use hypervisor::boot_info::{BootInfo, Origin};
use machine::addr::HostPhys;

// In: rdi = physical address of the jump block. IF = 0, DF = 0, the slot is mapped RWX at its physical address.
global_asm!(
    ".section .head.code, \"ax\"",
    ".code64",
    ".global baton_upgrade_entry",
    "baton_upgrade_entry:",
    "cli",
    "lea rbx, [rip + {main}]",
    "jmp baton_relocate",
    main = sym upgrade_main,
);

unsafe extern "C" {
    fn baton_upgrade_entry();
}

/// The address of the entry, for the image note.
pub fn entry() -> u64 {
    baton_upgrade_entry as *const () as u64
}

extern "C" fn upgrade_main(jump_block: u64) -> ! {
    hypervisor::run(BootInfo {
        image: crate::image::layout(),
        ap_trampoline: crate::ap::trampoline(),
        note: crate::note::bytes(),
        origin: Origin::Upgrade(HostPhys(jump_block)),
    })
}
