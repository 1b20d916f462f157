//! Why a virtual CPU stopped, in words of no vendor.

use machine::addr::GuestPhys;

/// A port access: IN, OUT, INS or OUTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// The port.
    pub port: u16,
    /// Bytes per element: 1, 2 or 4.
    pub width: u8,
    /// OUT or OUTS.
    pub write: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub rep: bool,
    /// Bytes of an effective address: 2, 4 or 8.
    pub address_size: u8,
}

/// A guest physical address that the nested tables do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NestedFault {
    /// The address.
    pub gpa: GuestPhys,
    /// The access was a write.
    pub write: bool,
    /// The access was an instruction fetch.
    pub fetch: bool,
    /// The access was the walk of the guest's own page tables.
    pub walk: bool,
    /// The nested tables map the address, with fewer rights.
    pub present: bool,
}

/// Why a virtual CPU stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A physical interrupt is pending on this pCPU.
    ExternalInterrupt,
    /// A physical NMI; the host's handler has run when `enter` returns.
    Nmi,
    /// A physical INIT is pending.
    Init,
    /// The guest can take an interrupt now, as was asked for.
    InterruptWindow,
    /// The guest leaves its NMI handler.
    NmiWindow,
    /// CPUID.
    Cpuid,
    /// HLT.
    Halt,
    /// PAUSE.
    Pause,
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// RDPMC.
    Rdpmc,
    /// MONITOR or MONITORX.
    Monitor,
    /// MWAIT or MWAITX.
    Mwait,
    /// XSETBV.
    Xsetbv,
    /// VMMCALL or VMCALL.
    Hypercall,
    /// IN, OUT, INS or OUTS.
    Port(PortAccess),
    /// RDMSR.
    MsrRead,
    /// WRMSR.
    MsrWrite,
    /// MOV from a control register.
    ControlRead {
        /// The control register.
        register: u8,
        /// The general register, where hardware says it.
        gpr: Option<u8>,
    },
    /// MOV to a control register.
    ControlWrite {
        /// The control register.
        register: u8,
        /// The general register, where hardware says it.
        gpr: Option<u8>,
    },
    /// An access the nested tables do not allow.
    NestedFault(NestedFault),
    /// An exception that was intercepted before its delivery.
    Exception {
        /// The vector.
        vector: u8,
        /// Its error code; meaningless where the exception has none.
        error_code: u32,
    },
    /// A task switch.
    TaskSwitch,
    /// An instruction of the virtualization extension itself (VMRUN, STGI, INVEPT, ...).
    VendorInstruction,
    /// A triple fault.
    Shutdown,
    /// Hardware refused the state of the guest.
    Invalid,
    /// An exit that nobody asked for.
    Unknown {
        /// The vendor's exit code.
        code: u64,
    },
}
