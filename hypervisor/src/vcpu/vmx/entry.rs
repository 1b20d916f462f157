//! The world switch (SDM 3C 27, 28).
#![expect(unsafe_code, reason = "assembly that leaves and re-enters the host")]

use x86::vmx::vmcs::host;

core::arch::global_asm!(
    ".pushsection .text.baton_vmx_enter, \"ax\"",
    ".global baton_vmx_enter",
    ".balign 64",
    ".type baton_vmx_enter, @function",
    "baton_vmx_enter:",
    // rdi: general registers, rsi: whether this VMCS was launched.
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdi",
    "mov eax, {host_rsp}",
    "vmwrite rax, rsp",
    // The moves that follow keep ZF.
    "test rsi, rsi",
    "mov rax, [rdi]",
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
    "jz 2f",
    "vmresume",
    "jmp 3f",
    "2:",
    "vmlaunch",
    // Nothing was entered: CF or ZF says so. The registers that the ABI keeps are on the stack, the others are the guest's still.
    "3:",
    "setna al",
    "movzx eax, al",
    "jmp 4f",
    ".global baton_vmx_exit",
    "baton_vmx_exit:",
    "push rdi",
    "mov rdi, [rsp + 8]",
    "mov [rdi], rax",
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
    "xor eax, eax",
    "4:",
    // No value of the guest's stays where the host could speculate with it.
    "xor ecx, ecx",
    "xor edx, edx",
    "xor esi, esi",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "xor r10d, r10d",
    "xor r11d, r11d",
    "pop rdi",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".size baton_vmx_enter, . - baton_vmx_enter",
    ".popsection",
    host_rsp = const host::RSP,
);

unsafe extern "sysv64" {
    fn baton_vmx_enter(gprs: *mut u64, launched: u64) -> u64;
    fn baton_vmx_exit();
}

/// Where exits go on: the host's RIP in every VMCS.
pub fn exit_address() -> u64 {
    baton_vmx_exit as *const () as u64
}

/// Runs the guest of the current VMCS until the next exit; `false` if hardware refused to enter it. General registers but RSP (which
/// the VMCS holds) are taken from and put back to `gprs`, in the order of instruction encodings.
///
/// Returns with RFLAGS.IF = 0.
///
/// # Safety
/// CPL is 0, RFLAGS.IF is 0, VMX is on; the current VMCS has the host's part of this pCPU (`setup`), exits for
/// whatever reaches the host, and EPT that shows the guest nothing but what it may touch. `launched` says whether it was entered
/// since it was cleared.
pub unsafe fn enter(gprs: &mut [u64; 16], launched: bool) -> bool {
    // SAFETY: by contract; the assembly keeps the callee-saved registers of the System V ABI and leaves the stack as it was.
    unsafe { baton_vmx_enter(gprs.as_mut_ptr(), launched.into()) == 0 }
}
