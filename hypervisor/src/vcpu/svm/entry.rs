//! The world switch (APM2 15.5, 15.6).
#![expect(unsafe_code, reason = "assembly that leaves and re-enters the host")]

use machine::addr::HostPhys;

core::arch::global_asm!(
    ".pushsection .text.baton_svm_enter, \"ax\"",
    ".global baton_svm_enter",
    ".balign 64",
    ".type baton_svm_enter, @function",
    "baton_svm_enter:",
    // rdi: general registers, rsi: the guest's VMCB, rdx: the frame for the host's own VMSAVE state.
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "push rdx",
    // From here to STGI nothing arrives, not even an NMI: FS, GS, TR and the stack of the
    // host's handlers are the guest's in between (APM2 15.17).
    "clgi",
    "mov rax, rdx",
    "vmsave rax",
    // VMRUN keeps the host's RFLAGS; with V_INTR_MASKING its IF decides whether a physical
    // interrupt ends the guest's run (APM2 15.21.1). GIF holds it until then.
    "sti",
    "mov rax, rsi",
    "vmload rax",
    "mov rcx, [rdi + 1*8]",
    "mov rdx, [rdi + 2*8]",
    "mov rbx, [rdi + 3*8]",
    "mov rbp, [rdi + 5*8]",
    "mov rsi, [rdi + 6*8]",
    "mov r8,  [rdi + 8*8]",
    "mov r9,  [rdi + 9*8]",
    "mov r10, [rdi + 10*8]",
    "mov r11, [rdi + 11*8]",
    "mov r12, [rdi + 12*8]",
    "mov r13, [rdi + 13*8]",
    "mov r14, [rdi + 14*8]",
    "mov r15, [rdi + 15*8]",
    "mov rdi, [rdi + 7*8]",
    "vmrun rax",
    // RAX and RSP are the host's again, GIF is 0; all else in general registers is the guest's.
    "vmsave rax",
    "push rdi",
    "mov rdi, [rsp + 16]",
    "mov [rdi + 1*8], rcx",
    "mov [rdi + 2*8], rdx",
    "mov [rdi + 3*8], rbx",
    "mov [rdi + 5*8], rbp",
    "mov [rdi + 6*8], rsi",
    "mov [rdi + 8*8], r8",
    "mov [rdi + 9*8], r9",
    "mov [rdi + 10*8], r10",
    "mov [rdi + 11*8], r11",
    "mov [rdi + 12*8], r12",
    "mov [rdi + 13*8], r13",
    "mov [rdi + 14*8], r14",
    "mov [rdi + 15*8], r15",
    "pop rcx",
    "mov [rdi + 7*8], rcx",
    "pop rax",
    "vmload rax",
    // No value of the guest's stays where the host could speculate with it.
    "xor ecx, ecx",
    "xor edx, edx",
    "xor esi, esi",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor r11d, r11d",
    "cld",
    "cli",
    "stgi",
    "pop rdi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".size baton_svm_enter, . - baton_svm_enter",
    ".popsection",
);

unsafe extern "sysv64" {
    fn baton_svm_enter(gprs: *mut u64, vmcb: u64, host: u64);
}

/// Runs the guest until the next #VMEXIT. General registers but RAX and RSP (which the VMCB holds) are
/// taken from and put back to `gprs`, in the order of instruction encodings.
///
/// Returns with GIF = 1 and RFLAGS.IF = 0; a physical NMI that ended the run has been handled by then.
///
/// # Safety
/// CPL is 0, RFLAGS.IF is 0, GIF is 1, SVM is enabled on this pCPU. `vmcb` is a VMCB that passes the checks of VMRUN or
/// fails them in hardware; its maps and nested tables show the guest nothing but what it may touch, and it
/// intercepts VMRUN, VMLOAD, VMSAVE, CLGI, INVLPGA, SKINIT, physical interrupts and NMIs. `host` is a frame for VMSAVE. Nobody else
/// uses either frame or holds a reference into the VMCB meanwhile.
pub unsafe fn enter(gprs: &mut [u64; 16], vmcb: HostPhys, host: HostPhys) {
    // SAFETY: by contract; the assembly keeps the callee-saved registers of the System V ABI and leaves the stack as it was.
    unsafe { baton_svm_enter(gprs.as_mut_ptr(), vmcb.get(), host.get()) };
}
