//! Everything architectural about a virtual CPU, in one plain struct: what a
//! handover carries, and what a guest starts with.

use super::event::Event;

/// CR0.PE.
pub const CR0_PE: u64 = 1 << 0;
/// CR0.ET.
pub const CR0_ET: u64 = 1 << 4;
/// CR0.NE.
pub const CR0_NE: u64 = 1 << 5;
/// CR0.WP.
pub const CR0_WP: u64 = 1 << 16;
/// CR0.NW.
pub const CR0_NW: u64 = 1 << 29;
/// CR0.CD.
pub const CR0_CD: u64 = 1 << 30;
/// CR0.PG.
pub const CR0_PG: u64 = 1 << 31;
/// CR4.PSE.
pub const CR4_PSE: u64 = 1 << 4;
/// CR4.PAE.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4.LA57.
pub const CR4_LA57: u64 = 1 << 12;
/// CR4.OSXSAVE.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// EFER.LME.
pub const EFER_LME: u64 = 1 << 8;
/// EFER.LMA.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER.NXE.
pub const EFER_NXE: u64 = 1 << 11;
/// EFER.SVME.
pub const EFER_SVME: u64 = 1 << 12;
/// RFLAGS bit 1, which is always set.
pub const RFLAGS_FIXED: u64 = 1 << 1;
/// DR6.BS: a single step.
pub const DR6_BS: u64 = 1 << 14;
/// RFLAGS.TF.
pub const RFLAGS_TF: u64 = 1 << 8;
/// RFLAGS.IF.
pub const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS.DF.
pub const RFLAGS_DF: u64 = 1 << 10;
/// RFLAGS.RF.
pub const RFLAGS_RF: u64 = 1 << 16;
/// RFLAGS.VM.
pub const RFLAGS_VM: u64 = 1 << 17;

/// PAT at reset (APM2 7.8.2).
pub const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// A segment register with its hidden part.
///
/// `attributes` are access rights in the form of the VMX (SDM 3C 25.4.1): bits 3:0 type, 4 S, 6:5 DPL, 7 P,
/// 12 AVL, 13 L, 14 D/B, 15 G, 16 unusable. Everything else is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Segment {
    /// The selector.
    pub selector: u16,
    /// The access rights.
    pub attributes: u32,
    /// The last valid offset, in bytes whatever G says.
    pub limit: u32,
    /// The linear address of offset 0.
    pub base: u64,
}

impl Segment {
    /// Access rights: present.
    pub const PRESENT: u32 = 1 << 7;
    /// Access rights: 64-bit code.
    pub const LONG: u32 = 1 << 13;
    /// Access rights: 32-bit default size.
    pub const DEFAULT_BIG: u32 = 1 << 14;
    /// Access rights: no segment is loaded.
    pub const UNUSABLE: u32 = 1 << 16;
    /// All bits that access rights may have.
    pub const ALL: u32 = 0x1_f0ff;

    /// A register that holds the null selector.
    pub const NULL: Self = Self { selector: 0, attributes: Self::UNUSABLE, limit: 0, base: 0 };

    const fn new(selector: u16, attributes: u32, limit: u32) -> Self {
        Self { selector, attributes, limit, base: 0 }
    }

    /// The descriptor privilege level.
    #[must_use]
    pub const fn dpl(&self) -> u8 {
        ((self.attributes >> 5) & 3) as u8
    }
}

/// The index of a segment register in [`ArchState::segments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentName {
    /// Extra data.
    Es = 0,
    /// Code.
    Cs = 1,
    /// Stack.
    Ss = 2,
    /// Data.
    Ds = 3,
    /// Data, base by MSR.
    Fs = 4,
    /// Data, base by MSR.
    Gs = 5,
    /// Local descriptor table.
    Ldtr = 6,
    /// Task.
    Tr = 7,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TableRegister {
    /// The last valid offset.
    pub limit: u16,
    /// The linear address.
    pub base: u64,
}

/// What a virtual CPU is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activity {
    /// Executing instructions.
    #[default]
    Active,
    /// In HLT, until an interrupt that it can take.
    Halted,
    /// After INIT, until a start-up IPI.
    WaitForSipi,
}

/// Everything architectural about a virtual CPU but its extended state (x87, SSE, AVX, ...),
/// which is an XSAVE area of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchState {
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gprs: [u64; 16],
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// CR0.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// CR8: the task priority, 0 to 15.
    pub cr8: u64,
    /// EFER as the guest sees it (SVME is clear).
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// ES, CS, SS, DS, FS, GS, LDTR, TR: see [`SegmentName`]. CPL is the DPL of SS.
    pub segments: [Segment; 8],
    /// GDTR.
    pub gdtr: TableRegister,
    /// IDTR.
    pub idtr: TableRegister,
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
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// Guest TSC minus host TSC.
    pub tsc_offset: u64,
    /// TSC_AUX.
    pub tsc_aux: u64,
    /// The next instruction runs before any interrupt (after STI, MOV SS).
    pub interrupt_shadow: bool,
    /// NMIs are blocked until IRET.
    pub nmi_blocked: bool,
    /// An event that must be delivered before the next instruction.
    pub pending: Option<Event>,
    /// What the virtual CPU is doing.
    pub activity: Activity,
}

/// Code, execute and read, accessed, present, 64-bit, 4 KiB granular.
const CODE64: u32 = 0xa09b;
/// Code, execute and read, accessed, present, 32-bit, 4 KiB granular.
const CODE32: u32 = 0xc09b;
/// Data, read and write, accessed, present, 32-bit, 4 KiB granular.
const DATA32: u32 = 0xc093;
/// Busy 64-bit (or 32-bit) TSS, present.
const TSS_BUSY: u32 = 0x8b;
/// LDT, present.
const LDT: u32 = 0x82;

impl ArchState {
    /// The state after RESET (APM2 14.1.3, SDM 3A table 10-1).
    #[must_use]
    pub fn reset() -> Self {
        let data = Segment::new(0, 0x93, 0xffff);
        let mut segments = [data; 8];
        segments[SegmentName::Cs as usize] =
            Segment { selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: 0xffff_0000 };
        segments[SegmentName::Ldtr as usize] = Segment::new(0, LDT, 0xffff);
        segments[SegmentName::Tr as usize] = Segment::new(0, TSS_BUSY, 0xffff);
        Self {
            gprs: [0; 16],
            rip: 0xfff0,
            rflags: RFLAGS_FIXED,
            cr0: CR0_CD | CR0_NW | CR0_ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            xcr0: 1,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            segments,
            gdtr: TableRegister { limit: 0xffff, base: 0 },
            idtr: TableRegister { limit: 0xffff, base: 0 },
            pat: PAT_RESET,
            star: 0,
            lstar: 0,
            cstar: 0,
            sfmask: 0,
            kernel_gs_base: 0,
            sysenter_cs: 0,
            sysenter_esp: 0,
            sysenter_eip: 0,
            tsc_offset: 0,
            tsc_aux: 0,
            interrupt_shadow: false,
            nmi_blocked: false,
            pending: None,
            activity: Activity::Active,
        }
    }

    /// The state after INIT and a start-up IPI with `vector`: real mode at `vector << 12` (SDM 3A 9.4.4).
    #[must_use]
    pub fn startup(vector: u8) -> Self {
        let mut state = Self::reset();
        state.rip = 0;
        state.segments[SegmentName::Cs as usize] = Segment {
            selector: u16::from(vector) << 8,
            attributes: 0x9b,
            limit: 0xffff,
            base: u64::from(vector) << 12,
        };
        state
    }

    /// The entry of the Linux 64-bit boot protocol (Documentation/arch/x86/boot.rst): long mode with the
    /// page tables at `cr3`, flat CS 0x10 and DS/ES/SS 0x18 (which the GDT must hold), interrupts off, RSI = boot parameters.
    #[must_use]
    pub fn linux64(rip: u64, rsp: u64, rsi: u64, cr3: u64, gdt_base: u64, gdt_limit: u16) -> Self {
        let mut state = Self::reset();
        state.rip = rip;
        state.gprs[4] = rsp;
        state.gprs[6] = rsi;
        state.cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
        state.cr3 = cr3;
        state.cr4 = CR4_PAE;
        state.efer = EFER_LME | EFER_LMA;
        state.flat(Segment::new(0x10, CODE64, u32::MAX), Segment::new(0x18, DATA32, u32::MAX));
        state.gdtr = TableRegister { limit: gdt_limit, base: gdt_base };
        state.idtr = TableRegister::default();
        state
    }

    /// The entry of the PVH protocol (xen/include/public/arch-x86/hvm/start_info.h): 32-bit protected mode without
    /// paging, flat segments, EBX = the start info.
    #[must_use]
    pub fn pvh32(rip: u32, start_info: u32, gdt_base: u64, gdt_limit: u16) -> Self {
        let mut state = Self::reset();
        state.rip = u64::from(rip);
        state.gprs[3] = u64::from(start_info);
        state.cr0 = CR0_PE | CR0_ET;
        state.flat(Segment::new(0x10, CODE32, u32::MAX), Segment::new(0x18, DATA32, u32::MAX));
        state.gdtr = TableRegister { limit: gdt_limit, base: gdt_base };
        state.idtr = TableRegister::default();
        state
    }

    /// Real mode at `code`:`ip` with everything else in segment `data` and the stack at `sp`, as firmware starts a loader:
    /// caches on, interrupt vectors at 0.
    #[must_use]
    pub fn real16(code: u16, ip: u16, data: u16, sp: u16) -> Self {
        let segment = |selector: u16, attributes| Segment {
            base: u64::from(selector) << 4,
            ..Segment::new(selector, attributes, 0xffff)
        };
        let mut state = Self::reset();
        state.rip = u64::from(ip);
        state.gprs[4] = u64::from(sp);
        state.cr0 = CR0_ET;
        for name in [SegmentName::Es, SegmentName::Ss, SegmentName::Ds, SegmentName::Fs, SegmentName::Gs] {
            state.segments[name as usize] = segment(data, 0x93);
        }
        state.segments[SegmentName::Cs as usize] = segment(code, 0x9b);
        state.idtr.limit = 0x3ff;
        state
    }

    fn flat(&mut self, code: Segment, data: Segment) {
        self.segments = [data; 8];
        self.segments[SegmentName::Cs as usize] = code;
        self.segments[SegmentName::Ldtr as usize] = Segment::new(0, LDT, 0);
        self.segments[SegmentName::Tr as usize] = Segment::new(0, TSS_BUSY, 0x67);
    }

    /// One segment register.
    #[must_use]
    pub fn segment(&self, name: SegmentName) -> Segment {
        self.segments[name as usize]
    }
}
