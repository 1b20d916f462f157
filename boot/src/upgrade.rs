//! The 64-bit entries that the image before this one jumps to.
//! The state at these entries is fixed by the handover format (`handover::jump`).
#![expect(unsafe_code, reason = "the entries are assembly")]

use core::arch::global_asm;

use hypervisor::boot_info::{BootInfo, Origin};
use hypervisor::upgrade::jump::{AP_STACKS, AP_TABLES};
use machine::addr::HostPhys;

// Both: IF = 0, DF = 0, the slot is mapped RWX at its physical address, rdi = physical address of the jump block.
// The boot CPU comes first, to an image as it was staged; the others come after COMMIT, with their index in rsi,
// to an image that has told them where its tables and their stacks are.
global_asm!(
    ".section .head.code, \"ax\"",
    ".code64",
    ".global baton_upgrade_entry",
    "baton_upgrade_entry:",
    "cli",
    "lea rbx, [rip + {main}]",
    "jmp baton_relocate",
    ".balign 16",
    ".global baton_follow_entry",
    "baton_follow_entry:",
    "cli",
    "mov rdx, [rip + {stacks}]",
    "mov rcx, [rip + {tables}]",
    "mov rsp, [rdx + rsi * 8]",
    "mov cr3, rcx",
    "xor ebp, ebp",
    "push rbp",
    "jmp {follow}",
    main = sym upgrade_main,
    follow = sym follow_main,
    stacks = sym AP_STACKS,
    tables = sym AP_TABLES,
);

extern "C" fn upgrade_main(jump_block: u64) -> ! {
    hypervisor::run(BootInfo {
        image: crate::image::layout(),
        ap_trampoline: crate::ap::trampoline(),
        note: crate::note::bytes(),
        build_name: crate::note::build_name(),
        fault: crate::note::fault(),
        origin: Origin::Upgrade(HostPhys(jump_block)),
    })
}

extern "C" fn follow_main(_jump_block: u64, index: u64) -> ! {
    hypervisor::upgrade::follow::arrive(index as u32)
}
