//! The virtual machine control block: APM2 appendix B, as data.

use core::mem::{offset_of, size_of};

/// `intercept_misc1`, offset 0x0C (APM2 table B-1).
pub mod misc1 {
    #![allow(missing_docs, reason = "each constant is the event it names")]
    pub const INTR: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const SMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const VINTR: u32 = 1 << 4;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const IRET: u32 = 1 << 20;
    pub const INVD: u32 = 1 << 22;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const IOIO: u32 = 1 << 27;
    pub const MSR: u32 = 1 << 28;
    pub const TASK_SWITCH: u32 = 1 << 29;
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// `intercept_misc2`, offset 0x10.
pub mod misc2 {
    #![allow(missing_docs, reason = "each constant is the instruction it names")]
    pub const VMRUN: u32 = 1 << 0;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const XSETBV: u32 = 1 << 13;
}

/// `intercept_misc3`, offset 0x14.
pub mod misc3 {
    #![allow(missing_docs, reason = "each constant is the instruction it names")]
    pub const INVLPGB: u32 = 1 << 0;
    pub const INVLPGB_ILLEGAL: u32 = 1 << 1;
    pub const TLBSYNC: u32 = 1 << 4;
}

/// `intercept_cr`: writes are in the upper half.
pub const INTERCEPT_CR8_WRITE: u32 = 1 << (16 + 8);

/// `int_ctl`, offset 0x60.
pub mod int_ctl {
    #![allow(missing_docs, reason = "each constant is the field it names")]
    pub const V_TPR: u64 = 0xff;
    pub const V_IRQ: u64 = 1 << 8;
    pub const V_INTR_PRIO: u64 = 0xf << 16;
    pub const V_IGN_TPR: u64 = 1 << 20;
    pub const V_INTR_MASKING: u64 = 1 << 24;
    pub const V_VECTOR_SHIFT: u32 = 32;
    pub const V_VECTOR: u64 = 0xff << V_VECTOR_SHIFT;
    /// A virtual interrupt of the highest priority, whatever V_TPR says.
    pub const WINDOW: u64 = V_IRQ | V_INTR_PRIO | V_IGN_TPR;
}

/// `interrupt_shadow`, offset 0x68: the guest is in an interrupt shadow.
pub const INTERRUPT_SHADOW: u64 = 1;
/// `np_enable`, offset 0x90: nested paging.
pub const NP_ENABLE: u64 = 1;
/// `tlb_control`: flush all of this CPU's TLB entries (APM2 15.16.1).
pub const TLB_FLUSH_ALL: u32 = 1;
/// `tlb_control`: flush this guest's entries; needs FlushByAsid.
pub const TLB_FLUSH_ASID: u32 = 3;

/// Fields of EVENTINJ and EXITINTINFO (APM2 15.20, 15.7.2).
pub mod event {
    #![allow(missing_docs, reason = "each constant is the field it names")]
    pub const TYPE_SHIFT: u32 = 8;
    pub const TYPE_INTERRUPT: u64 = 0;
    pub const TYPE_NMI: u64 = 2;
    pub const TYPE_EXCEPTION: u64 = 3;
    pub const TYPE_SOFTWARE: u64 = 4;
    pub const ERROR_CODE_VALID: u64 = 1 << 11;
    pub const VALID: u64 = 1 << 31;
}

/// Bits of `clean`, offset 0xC0 (APM2 15.15.3).
pub mod clean {
    #![allow(missing_docs, reason = "each constant is the group it names")]
    pub const INTERCEPTS: u32 = 1 << 0;
    pub const IOPM: u32 = 1 << 1;
    pub const ASID: u32 = 1 << 2;
    pub const TPR: u32 = 1 << 3;
    pub const NP: u32 = 1 << 4;
    pub const CRX: u32 = 1 << 5;
    pub const DRX: u32 = 1 << 6;
    pub const DT: u32 = 1 << 7;
    pub const SEG: u32 = 1 << 8;
    pub const CR2: u32 = 1 << 9;
    pub const LBR: u32 = 1 << 10;
    pub const ALL: u32 = 0x7ff;
}

/// Exit codes (APM2 appendix C).
pub mod code {
    #![allow(missing_docs, reason = "each constant is the event it names")]
    pub const CR_READ: u64 = 0x00;
    pub const CR_WRITE: u64 = 0x10;
    pub const CR_WRITE_LAST: u64 = 0x1f;
    pub const EXCEPTION: u64 = 0x40;
    pub const EXCEPTION_LAST: u64 = 0x5f;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const TASK_SWITCH: u64 = 0x7d;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const VMSAVE: u64 = 0x83;
    pub const STGI: u64 = 0x84;
    pub const CLGI: u64 = 0x85;
    pub const SKINIT: u64 = 0x86;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const MWAIT_CONDITIONAL: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const INVLPGB: u64 = 0xa0;
    pub const INVLPGB_ILLEGAL: u64 = 0xa1;
    pub const TLBSYNC: u64 = 0xa4;
    pub const NPF: u64 = 0x400;
    /// VMEXIT_INVALID, as 32 bits: some implementations do not extend the sign.
    pub const INVALID_LOW: u32 = 0xffff_ffff;
}

/// Attributes of CS: 64-bit code (APM2 15.5.1: the descriptor's bits 55:52 and 47:40).
pub const CS_LONG: u16 = 1 << 9;

/// A segment register in the state save area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct VmcbSegment {
    /// The selector.
    pub selector: u16,
    /// Attributes: bits 7:0 as in bits 47:40 of a descriptor, bits 11:8 as in bits 55:52.
    pub attributes: u16,
    /// The limit, in bytes.
    pub limit: u32,
    /// The base.
    pub base: u64,
}

/// The control area, bytes 0 to 0x3FF (APM2 table B-1).
#[derive(Clone, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub struct Control {
    pub intercept_cr: u32,
    pub intercept_dr: u32,
    pub intercept_exceptions: u32,
    pub intercept_misc1: u32,
    pub intercept_misc2: u32,
    pub intercept_misc3: u32,
    reserved_018: [u8; 0x3c - 0x18],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    pub iopm_base: u64,
    pub msrpm_base: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u32,
    pub int_ctl: u64,
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_int_info: u64,
    pub np_enable: u64,
    reserved_098: [u8; 0xa8 - 0x98],
    pub event_inj: u64,
    pub nested_cr3: u64,
    pub lbr_control: u64,
    pub clean: u32,
    reserved_0c4: u32,
    pub next_rip: u64,
    pub bytes_fetched: u8,
    pub instruction_bytes: [u8; 15],
    reserved_0e0: [u8; 0x400 - 0xe0],
}

/// The state save area, from byte 0x400 (APM2 table B-2).
#[derive(Clone, Debug)]
#[repr(C)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub struct Save {
    pub es: VmcbSegment,
    pub cs: VmcbSegment,
    pub ss: VmcbSegment,
    pub ds: VmcbSegment,
    pub fs: VmcbSegment,
    pub gs: VmcbSegment,
    pub gdtr: VmcbSegment,
    pub ldtr: VmcbSegment,
    pub idtr: VmcbSegment,
    pub tr: VmcbSegment,
    reserved_0a0: [u8; 0xcb - 0xa0],
    pub cpl: u8,
    reserved_0cc: u32,
    pub efer: u64,
    reserved_0d8: [u8; 0x148 - 0xd8],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved_180: [u8; 0x1d8 - 0x180],
    pub rsp: u64,
    reserved_1e0: [u8; 0x1f8 - 0x1e0],
    pub rax: u64,
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved_248: [u8; 0x268 - 0x248],
    pub g_pat: u64,
    pub dbgctl: u64,
    pub br_from: u64,
    pub br_to: u64,
    pub last_excp_from: u64,
    pub last_excp_to: u64,
    reserved_298: [u8; 0xc00 - 0x298],
}

/// A VMCB: one 4 KiB frame.
#[derive(Clone, Debug)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// The control area.
    pub control: Control,
    /// The state save area.
    pub save: Save,
}

impl Control {
    /// What no virtual CPU may do to the host by itself, a guest's or a sandbox's (APM2 15.9). `invlpgb`: the CPU has that instruction.
    pub fn intercept_what_reaches_the_host(&mut self, invlpgb: bool) {
        self.intercept_misc1 = misc1::INTR
            | misc1::NMI
            | misc1::INIT
            | misc1::RDPMC
            | misc1::INVD
            | misc1::HLT
            | misc1::INVLPGA
            | misc1::IOIO
            | misc1::MSR
            | misc1::TASK_SWITCH
            | misc1::SHUTDOWN;
        self.intercept_misc2 = misc2::VMRUN
            | misc2::VMMCALL
            | misc2::VMLOAD
            | misc2::VMSAVE
            | misc2::STGI
            | misc2::CLGI
            | misc2::SKINIT
            | misc2::WBINVD
            | misc2::MONITOR
            | misc2::MWAIT
            | misc2::XSETBV;
        if invlpgb {
            self.intercept_misc3 = misc3::INVLPGB | misc3::INVLPGB_ILLEGAL | misc3::TLBSYNC;
        }
    }
}

impl Vmcb {
    /// A VMCB of zeros: the only right content of what is reserved.
    #[must_use]
    #[expect(unsafe_code, reason = "there is no safe zero of a large structure in core")]
    pub const fn zeroed() -> Self {
        // SAFETY: every field is an integer or an array of integers, for which zero is a value.
        unsafe { core::mem::zeroed() }
    }
}

const _: () = {
    assert!(size_of::<Vmcb>() == 0x1000);
    assert!(size_of::<Control>() == 0x400);
    assert!(size_of::<VmcbSegment>() == 16);
    assert!(offset_of!(Vmcb, save) == 0x400);
    assert!(offset_of!(Control, intercept_misc1) == 0x0c);
    assert!(offset_of!(Control, pause_filter_threshold) == 0x3c);
    assert!(offset_of!(Control, iopm_base) == 0x40);
    assert!(offset_of!(Control, msrpm_base) == 0x48);
    assert!(offset_of!(Control, tsc_offset) == 0x50);
    assert!(offset_of!(Control, asid) == 0x58);
    assert!(offset_of!(Control, tlb_control) == 0x5c);
    assert!(offset_of!(Control, int_ctl) == 0x60);
    assert!(offset_of!(Control, interrupt_shadow) == 0x68);
    assert!(offset_of!(Control, exit_code) == 0x70);
    assert!(offset_of!(Control, exit_info1) == 0x78);
    assert!(offset_of!(Control, exit_info2) == 0x80);
    assert!(offset_of!(Control, exit_int_info) == 0x88);
    assert!(offset_of!(Control, np_enable) == 0x90);
    assert!(offset_of!(Control, event_inj) == 0xa8);
    assert!(offset_of!(Control, nested_cr3) == 0xb0);
    assert!(offset_of!(Control, lbr_control) == 0xb8);
    assert!(offset_of!(Control, clean) == 0xc0);
    assert!(offset_of!(Control, next_rip) == 0xc8);
    assert!(offset_of!(Control, bytes_fetched) == 0xd0);
    assert!(offset_of!(Save, gdtr) == 0x60);
    assert!(offset_of!(Save, ldtr) == 0x70);
    assert!(offset_of!(Save, idtr) == 0x80);
    assert!(offset_of!(Save, tr) == 0x90);
    assert!(offset_of!(Save, cpl) == 0xcb);
    assert!(offset_of!(Save, efer) == 0xd0);
    assert!(offset_of!(Save, cr4) == 0x148);
    assert!(offset_of!(Save, cr3) == 0x150);
    assert!(offset_of!(Save, cr0) == 0x158);
    assert!(offset_of!(Save, dr7) == 0x160);
    assert!(offset_of!(Save, dr6) == 0x168);
    assert!(offset_of!(Save, rflags) == 0x170);
    assert!(offset_of!(Save, rip) == 0x178);
    assert!(offset_of!(Save, rsp) == 0x1d8);
    assert!(offset_of!(Save, rax) == 0x1f8);
    assert!(offset_of!(Save, star) == 0x200);
    assert!(offset_of!(Save, sfmask) == 0x218);
    assert!(offset_of!(Save, kernel_gs_base) == 0x220);
    assert!(offset_of!(Save, sysenter_cs) == 0x228);
    assert!(offset_of!(Save, sysenter_eip) == 0x238);
    assert!(offset_of!(Save, cr2) == 0x240);
    assert!(offset_of!(Save, g_pat) == 0x268);
    assert!(offset_of!(Save, dbgctl) == 0x270);
    assert!(offset_of!(Save, last_excp_to) == 0x290);
};
