//! The 64-bit entries that the image before this one jumps to.
//! The state at these entries is fixed by the handover format (`handover::jump`).
#![expect(unsafe_code, reason = "the entries are assembly")]

use core::arch::global_asm;

use hypervisor::boot_info::{BootInfo, Origin};
use hypervisor::mem::layout::SLOT_BYTES;
use hypervisor::upgrade::jump::{AP_STACKS, AP_TABLES};
use machine::addr::HostPhys;

// All: IF = 0, DF = 0, the slot is mapped RWX at its physical address, rdi = physical address of the jump block.
// In WARM the image is entered as it was staged, and gets ready in the sandbox; after SWITCH the boot CPU goes on
// with what is ready, on a stack that begins anew; the others follow, with their index in rsi.
global_asm!(
    ".section .head.code, \"ax\"",
    ".code64",
    ".global baton_upgrade_entry",
    "baton_upgrade_entry:",
    "cli",
    "lea rbx, [rip + {main}]",
    "jmp baton_relocate",
    ".balign 16",
    ".global baton_continue_entry",
    "baton_continue_entry:",
    "cli",
    "mov rcx, [rip + {tables}]",
    "mov cr3, rcx",
    "lea r8, [rip + __image_start]",
    "lea rsp, [r8 + {slot}]",
    "xor ebp, ebp",
    "push rbp",
    "jmp {arrive}",
    ".balign 16",
    ".global baton_warm_call",
    "baton_warm_call:",
    // VMCALL where there is VMX (CPUID 1, ECX 5), VMMCALL else: each is undefined on the other.
    "mov eax, 1",
    "cpuid",
    "mov rax, rdi",
    "mov rbx, rsi",
    "test ecx, 1 << 5",
    "jnz 2f",
    "vmmcall",
    "2:",
    "vmcall",
    "ud2",
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
    arrive = sym arrive_main,
    slot = const SLOT_BYTES,
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

extern "C" fn arrive_main() -> ! {
    hypervisor::upgrade::arrive::arrive()
}

extern "C" fn follow_main(_jump_block: u64, index: u64) -> ! {
    hypervisor::upgrade::follow::arrive(index as u32)
}
