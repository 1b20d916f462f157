//! Instructions that leave the guest.
#![expect(unsafe_code, reason = "port access and the instruction of the hypercall have no safe form")]

use core::arch::asm;
use core::hint::black_box;

use machine::cpu::ids::{self, Vendor};

/// CMOS index port: behind a hypervisor it is emulated or refused, never the machine's own; reading it changes nothing.
const PORT: u16 = 0x70;
/// No hypercall of anybody's.
const NO_CALL: u64 = 0x4241_544f;

/// CPUID.
pub fn cpuid() {
    black_box(ids::raw(black_box(0), 0));
}

/// IN.
pub fn port_read() {
    let value: u8;
    // SAFETY: reading this port changes nothing.
    unsafe { asm!("in al, dx", in("dx") PORT, out("al") value, options(nomem, nostack, preserves_flags)) };
    black_box(value);
}

/// VMCALL, or VMMCALL where the CPU is AMD's, with a number that nobody knows.
pub fn hypercall(vendor: Vendor) {
    let result: u64;
    // SAFETY: the hypervisor answers in RAX and touches nothing else (its convention is KVM's).
    unsafe {
        if vendor == Vendor::Amd {
            asm!("vmmcall", inout("rax") NO_CALL => result, options(nomem, nostack));
        } else {
            asm!("vmcall", inout("rax") NO_CALL => result, options(nomem, nostack));
        }
    }
    black_box(result);
}
