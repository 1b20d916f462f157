//! A virtual processor: registers in the architecture's terms, in no vendor's.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A segment register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SegmentV1 {
    /// Base.
    pub base: u64,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Selector.
    pub selector: u16,
    /// Descriptor bits 47:40 in bits 7:0, bits 55:52 in bits 11:8 (APM2 15.5); bit 12: unusable.
    pub attributes: u16,
}

const _: () = assert!(size_of::<SegmentV1>() == 16);

/// [`SegmentV1::attributes`]: the segment is unusable (SDM 3C 25.4.1).
pub const SEGMENT_UNUSABLE: u16 = 1 << 12;

record! {
    /// A virtual processor at FREEZE, numbered from zero within its guest.
    VcpuV1 [0x0603, "vCPU", Freeze, true, 568] key |record| [record.guest, record.index.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
        pub registers: [u64; 16],
        /// RIP.
        pub rip: u64,
        /// RFLAGS.
        pub rflags: u64,
        /// CR0 as the guest sees it.
        pub cr0: u64,
        /// CR2.
        pub cr2: u64,
        /// CR3.
        pub cr3: u64,
        /// CR4 as the guest sees it.
        pub cr4: u64,
        /// CR8.
        pub cr8: u64,
        /// EFER as the guest sees it.
        pub efer: u64,
        /// XCR0.
        pub xcr0: u64,
        /// IA32_XSS.
        pub xss: u64,
        /// DR0 to DR3.
        pub debug: [u64; 4],
        /// DR6.
        pub dr6: u64,
        /// DR7.
        pub dr7: u64,
        /// ES, CS, SS, DS, FS, GS, LDTR, TR.
        pub segments: [SegmentV1; 8],
        /// Base of the GDT.
        pub gdt_base: u64,
        /// Base of the IDT.
        pub idt_base: u64,
        /// IA32_PAT.
        pub pat: u64,
        /// STAR.
        pub star: u64,
        /// LSTAR.
        pub lstar: u64,
        /// CSTAR.
        pub cstar: u64,
        /// SFMASK.
        pub sfmask: u64,
        /// KERNEL_GS_BASE.
        pub kernel_gs_base: u64,
        /// IA32_SYSENTER_CS.
        pub sysenter_cs: u64,
        /// IA32_SYSENTER_ESP.
        pub sysenter_esp: u64,
        /// IA32_SYSENTER_EIP.
        pub sysenter_eip: u64,
        /// What is added to the host's TSC.
        pub tsc_offset: u64,
        /// TSC_AUX.
        pub tsc_aux: u64,
        /// IA32_DEBUGCTL.
        pub debugctl: u64,
        /// IA32_SPEC_CTRL.
        pub spec_ctrl: u64,
        /// Limit of the GDT.
        pub gdt_limit: u32,
        /// Limit of the IDT.
        pub idt_limit: u32,
        /// Number within the guest.
        pub index: u32,
        /// pCPU it runs on.
        pub pcpu: u32,
        /// `ACTIVITY_*`.
        pub activity: u32,
        /// `SHADOW_*`.
        pub shadow: u32,
        /// `EVENT_*`: an event whose delivery the freeze interrupted; it is injected first.
        pub event: u32,
        /// Vector of that event.
        pub event_vector: u32,
        /// Its error code, with [`EVENT_HAS_ERROR`] in [`VcpuV1::event`].
        pub event_error: u32,
        /// Bytes of the instruction, for software interrupts and exceptions.
        pub event_instruction_bytes: u32,
        /// `NMI_*`.
        pub nmi: u32,
        /// Bytes of its XSAVE area, standard format (SDM 1 13.4).
        pub xsave_bytes: u32,
        /// Records of [`XsaveV1`]; pieces that were not written are zero.
        pub xsave_pieces: u32,
        reserved: [u8; 4],
    }
}

/// [`VcpuV1::activity`]: running.
pub const ACTIVITY_RUNNING: u32 = 1;
/// [`VcpuV1::activity`]: in HLT.
pub const ACTIVITY_HALTED: u32 = 2;
/// [`VcpuV1::activity`]: waits for INIT or SIPI.
pub const ACTIVITY_WAIT_FOR_SIPI: u32 = 3;
/// [`VcpuV1::shadow`]: after STI.
pub const SHADOW_STI: u32 = 1;
/// [`VcpuV1::shadow`]: after MOV SS or POP SS.
pub const SHADOW_MOV_SS: u32 = 2;
/// [`VcpuV1::event`]: none.
pub const EVENT_NONE: u32 = 0;
/// [`VcpuV1::event`]: external interrupt.
pub const EVENT_INTERRUPT: u32 = 1;
/// [`VcpuV1::event`]: NMI.
pub const EVENT_NMI: u32 = 2;
/// [`VcpuV1::event`]: hardware exception.
pub const EVENT_EXCEPTION: u32 = 3;
/// [`VcpuV1::event`]: INT n.
pub const EVENT_SOFTWARE_INTERRUPT: u32 = 4;
/// [`VcpuV1::event`]: INT3, INTO, INT1.
pub const EVENT_SOFTWARE_EXCEPTION: u32 = 5;
/// [`VcpuV1::event`], or'ed in: with an error code.
pub const EVENT_HAS_ERROR: u32 = 1 << 31;
/// [`VcpuV1::nmi`]: they are blocked until IRET. Pending ones are the LAPIC's.
pub const NMI_BLOCKED: u32 = 2;

/// Bytes of extended state in one record.
pub const XSAVE_PIECE: usize = 256;
/// The largest XSAVE area a vCPU can have: more than AVX-512 and AMX need.
pub const XSAVE_MAX: u32 = 16 << 10;

record! {
    /// A piece of a vCPU's XSAVE area.
    XsaveV1 [0x0604, "XSAVE piece", Freeze, true, 272] key |record| [record.guest, u64::from(record.vcpu) << 32 | u64::from(record.offset)];
    {
        /// Token of the guest.
        pub guest: u64,
        /// Number of the vCPU.
        pub vcpu: u32,
        /// Offset of the piece in the area, a multiple of [`XSAVE_PIECE`].
        pub offset: u32,
        /// The bytes; zero past the end of the area.
        pub bytes: [u8; XSAVE_PIECE],
    }
}

record! {
    /// MSRs of a vCPU that are emulated in software. One per vCPU.
    VcpuMsrsV1 [0x0608, "vCPU MSRs", Freeze, true, 264] key |record| [record.guest, record.vcpu.into()];
    {
        /// Token of the guest.
        pub guest: u64,
        /// IA32_BIOS_SIGN_ID as the guest reads it.
        pub microcode: u64,
        /// IA32_MISC_ENABLE.
        pub misc_enable: u64,
        /// HWCR.
        pub hwcr: u64,
        /// IA32_MTRR_DEF_TYPE.
        pub mtrr_default: u64,
        /// The fixed-range MTRRs in ascending order.
        pub mtrr_fixed: [u64; 11],
        /// Base and mask of each variable-range MTRR.
        pub mtrr_variable: [u64; 16],
        /// Number of the vCPU.
        pub vcpu: u32,
        reserved: [u8; 4],
    }
}
