//! A virtual CPU under VMX.
//!
//! A VMCS can be reached only where it is current, so it holds the guest's state while the virtual CPU is loaded, and [`ArchState`]
//! holds it otherwise.
#![expect(unsafe_code, reason = "entering the guest is not Rust, and its MSRs are in the CPU")]

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::Ordering;

use machine::addr::HostPhys;
use machine::cpu::control as registers;
use x86::msr;
use x86::vmx::vmcs::control::PrimaryControls;
use x86::vmx::vmcs::{control, guest, ro};

use super::super::cpu::{Control, CpuMsr, TlbGeneration, VirtualCpu};
use super::super::event::{AC, Combined, DB, Event, EventKind, MC, combine};
use super::super::exit::Exit;
use super::super::frames::{FrameSource, OutOfFrames};
use super::super::hw;
use super::super::limits::{InvalidState, Limits};
use super::super::state::{
    Activity, ArchState, CR0_CD, CR0_NW, CR0_PE, CR0_PG, DR6_BS, EFER_LMA, EFER_LME, RFLAGS_FIXED, RFLAGS_IF,
    RFLAGS_RF, RFLAGS_TF, Segment, SegmentName,
};
use super::super::xstate::{ExtendedState, InvalidExtendedState, XstateSupport};
use super::capabilities::VmxInfo;
use super::exits::{Information, reason};
use super::save::{NMI_BLOCKED, SHADOW};
use super::setup::{self, Controls};
use super::vmcs::{self, STEP};
use super::{convert, entry, exits, save};

/// The four page-directory-pointer entries at a guest's CR3.
pub type ReadPdptes = Box<dyn Fn(u64) -> [u64; 4] + Send>;

/// What a virtual CPU is made from.
pub struct VmxConfig {
    /// What the pCPUs have.
    pub info: VmxInfo,
    /// What guests may set on this machine.
    pub limits: Limits,
    /// The extended state of this machine.
    pub xstate: XstateSupport,
    /// The MSR bitmap shared by all virtual CPUs.
    pub msr_bitmap: HostPhys,
    /// Root of the guest's EPT (4 levels, physical).
    pub nested_root: HostPhys,
    /// The generation of those tables.
    pub tlb_generation: TlbGeneration,
    /// For a guest that pages with PAE when it comes from elsewhere.
    pub read_pdptes: ReadPdptes,
}

/// MSRs that are the guest's while it is loaded, in the order of [`VmxCpu::msrs`].
const LOADED: [u32; 5] = [msr::IA32_STAR, msr::IA32_LSTAR, msr::IA32_CSTAR, msr::IA32_FMASK, msr::IA32_KERNEL_GSBASE];
/// DR6 of a #DB: the breakpoints met, debug registers accessed, single step.
const DR6_CAUSES: u64 = 0x600f;
/// DR7.GD.
const DR7_GD: u64 = 1 << 13;
const INTERRUPT_WINDOW: u64 = PrimaryControls::INTERRUPT_WINDOW_EXITING.bits() as u64;
const NMI_WINDOW: u64 = PrimaryControls::NMI_WINDOW_EXITING.bits() as u64;
/// `Unknown` exit codes from here on: hardware refused the entry with this error (SDM 3C 31.4).
const REFUSED: u64 = 1 << 32;

/// A virtual CPU under VMX.
pub struct VmxCpu {
    vmcs: HostPhys,
    config: VmxConfig,
    /// The guest's state while it is not loaded; of it always: general registers but RSP, CR2, CR8.
    state: ArchState,
    extended: ExtendedState,
    loaded: bool,
    launched: bool,
    /// The state comes from elsewhere than from this VMCS.
    foreign: bool,
    window: bool,
    flush: bool,
    flushed: u64,
    pending: Option<Event>,
    shutdown: bool,
    next_rip: Option<u64>,
}

impl fmt::Debug for VmxCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VmxCpu").field("vmcs", &self.vmcs).finish_non_exhaustive()
    }
}

impl VmxCpu {
    /// A virtual CPU in the state after RESET.
    ///
    /// # Errors
    /// No memory.
    pub fn new(config: VmxConfig, frames: &mut dyn FrameSource) -> Result<Self, OutOfFrames> {
        let vmcs = frames.frame().ok_or(OutOfFrames)?;
        let extended = ExtendedState::new(config.xstate, frames)?;
        // SAFETY: the frame is ours alone and mapped writable at its address (contract of FrameSource).
        unsafe { core::ptr::with_exposed_provenance_mut::<u32>(vmcs.get() as usize).write(config.info.revision) };
        Ok(Self {
            vmcs,
            config,
            state: ArchState::reset(),
            extended,
            loaded: false,
            launched: false,
            foreign: true,
            window: false,
            flush: true,
            flushed: 0,
            pending: None,
            shutdown: false,
            next_rip: None,
        })
    }

    /// A field of the guest's: in the VMCS while it is loaded, in the state otherwise.
    fn field(&self, field: u32, unloaded: u64) -> u64 {
        if self.loaded { vmcs::read(field) } else { unloaded }
    }

    fn interruptibility(&self) -> u64 {
        let state =
            if self.state.interrupt_shadow { SHADOW } else { 0 } | if self.state.nmi_blocked { NMI_BLOCKED } else { 0 };
        self.field(guest::INTERRUPTIBILITY_STATE, state)
    }

    fn set_interruptibility(&mut self, clear: u64, set: u64) {
        let value = self.interruptibility() & !clear | set;
        if self.loaded {
            vmcs::write(guest::INTERRUPTIBILITY_STATE, value);
        } else {
            self.state.interrupt_shadow = value & SHADOW != 0;
            self.state.nmi_blocked = value & NMI_BLOCKED != 0;
        }
    }

    fn cr4_host(&self) -> u64 {
        self.config.info.fixed[1]
    }

    /// Fills the VMCS, which is current.
    fn write_guest(&mut self) {
        save::write(&self.state, self.cr4_host());
        if core::mem::take(&mut self.foreign) && save::has_pdptes(&self.state) {
            let entries = (self.config.read_pdptes)(self.state.cr3 & 0xffff_ffe0);
            for (at, entry) in (0..).step_by(STEP as usize).zip(entries) {
                vmcs::write(guest::PDPTE0_FULL + at, entry);
            }
        }
    }

    fn controls(&self) -> Controls {
        Controls {
            exceptions: 1 << DB | 1 << AC | 1 << MC,
            primary: 0,
            msr_bitmap: Some(self.config.msr_bitmap),
            nested_root: self.config.nested_root,
            // A bit that no guest may set exits, and stays clear.
            host_bits: [save::CR0_HOST, !self.config.limits.cr4 | self.cr4_host()],
        }
    }

    /// Fills the fields of the VMCS that are decided anew at each entry.
    fn prepare(&mut self) {
        let generation = self.config.tlb_generation.load(Ordering::Acquire);
        if core::mem::take(&mut self.flush) || generation != self.flushed {
            self.flushed = generation;
            vmcs::invalidate();
        }
        if let Some(event) = self.pending.take() {
            // Its delivery ends what STI or MOV SS have begun; and an entry with TF and that shadow wants a single step pending (SDM 3C 27.3.1.5).
            self.set_interruptibility(SHADOW, 0);
            let protected = vmcs::read(guest::CR0) & CR0_PE != 0;
            vmcs::write(control::VMENTRY_EXCEPTION_ERR_CODE, event.error_code.unwrap_or(0).into());
            vmcs::write(control::VMENTRY_INTERRUPTION_INFO_FIELD, convert::event_to_vmcs(&event, protected));
        }
        let blocked = self.interruptibility() & NMI_BLOCKED != 0;
        let windows = if self.window { INTERRUPT_WINDOW } else { 0 } | if blocked { NMI_WINDOW } else { 0 };
        let primary = vmcs::read(control::PRIMARY_PROCBASED_EXEC_CONTROLS);
        if primary & (INTERRUPT_WINDOW | NMI_WINDOW) != windows {
            vmcs::write(control::PRIMARY_PROCBASED_EXEC_CONTROLS, primary & !(INTERRUPT_WINDOW | NMI_WINDOW) | windows);
        }
    }

    /// Takes over what hardware left in the VMCS.
    fn collect(&mut self) -> Exit {
        let reason = vmcs::read(ro::EXIT_REASON) as u32;
        // Each field costs an instruction that is no quick one: only those are read that this exit has (SDM 3C 28.2).
        let read = |wanted: bool, field: u32| if wanted { vmcs::read(field) } else { 0 };
        let is_port = reason == reason::IO;
        let is_fault = reason == reason::EPT_VIOLATION;
        let is_event = reason == reason::EXCEPTION_OR_NMI;
        let qualified = is_port || is_fault || is_event || reason == reason::CR_ACCESS;
        let info = Information {
            reason,
            qualification: read(qualified, ro::EXIT_QUALIFICATION),
            interruption: read(is_event, ro::VMEXIT_INTERRUPTION_INFO),
            error_code: read(is_event, ro::VMEXIT_INTERRUPTION_ERR_CODE) as u32,
            gpa: read(is_fault, ro::GUEST_PHYSICAL_ADDR_FULL),
            instruction: (is_port && self.config.info.string_info)
                .then(|| vmcs::read(ro::VMEXIT_INSTRUCTION_INFO) as u32),
            code_bits: if is_port { self.code_bits() } else { 0 },
        };
        let exit = exits::translate(&info);
        if exit == Exit::Invalid {
            return exit;
        }
        self.launched = true;
        let vectoring = vmcs::read(ro::IDT_VECTORING_INFO);
        let vectored = vectoring & convert::VALID != 0;
        self.pending = convert::event_from_vmcs(vectoring, read(vectored, ro::IDT_VECTORING_ERR_CODE));
        if self.pending.is_some_and(|event| event.kind == EventKind::Nmi) {
            // Not delivered yet, hence nothing is blocked by it.
            self.set_interruptibility(NMI_BLOCKED, 0);
        }
        // An IRET that faults has unblocked NMIs, and is executed again (SDM 3C 28.2.3).
        let unblocked = match exit {
            Exit::Exception { .. } => info.interruption,
            Exit::NestedFault(_) => info.qualification,
            _ => 0,
        };
        if unblocked & convert::UNBLOCKED_NMI != 0 && !vectored {
            self.set_interruptibility(0, NMI_BLOCKED);
        }
        if exit == (Exit::Exception { vector: DB, error_code: info.error_code }) {
            self.note_debug(info.qualification);
            if convert::kind(info.interruption) == convert::TYPE_PRIVILEGED_SOFTWARE {
                // INT1 is a trap, and RIP is still at it (SDM 3C 28.3.3).
                vmcs::write(guest::RIP, self.rip().wrapping_add(vmcs::read(ro::VMEXIT_INSTRUCTION_LEN)));
            }
        }
        let is_instruction = !matches!(
            exit,
            Exit::ExternalInterrupt
                | Exit::Nmi
                | Exit::Init
                | Exit::InterruptWindow
                | Exit::NmiWindow
                | Exit::NestedFault(_)
                | Exit::Exception { .. }
                | Exit::Shutdown
                | Exit::Unknown { .. }
        );
        self.next_rip = is_instruction.then(|| {
            let next = self.rip().wrapping_add(vmcs::read(ro::VMEXIT_INSTRUCTION_LEN));
            if self.is_64bit() { next } else { next & 0xffff_ffff }
        });
        exit
    }

    /// A #DB exits before DR6 and DR7 tell of it (SDM 3C 28.1).
    fn note_debug(&mut self, qualification: u64) {
        // SAFETY: this is loaded, so DR6 is the guest's; the bits are ones of DR6.
        unsafe { hw::write_dr6(hw::read_dr6() & !0xf | qualification & DR6_CAUSES) };
        vmcs::write(guest::DR7, vmcs::read(guest::DR7) & !DR7_GD);
    }

    /// What only VMX lets exit: writes to CR0 that change what is the host's, writes to CR4 that no guest may make. `true`: the guest goes on.
    fn answer(&mut self, exit: Exit) -> bool {
        let Exit::ControlWrite { register: register @ (0 | 4), gpr } = exit else { return false };
        let value = self.gpr(gpr.unwrap_or(0));
        if register == 0 && (value & CR0_NW == 0 || value & CR0_CD != 0) {
            // With the host's bits as the guest wants to see them, the instruction does not exit when it is executed again.
            vmcs::write(control::CR0_READ_SHADOW, value);
        } else {
            self.inject(Event::general_protection());
        }
        true
    }

    fn msrs(state: &mut ArchState) -> [&mut u64; 5] {
        [&mut state.star, &mut state.lstar, &mut state.cstar, &mut state.sfmask, &mut state.kernel_gs_base]
    }

    fn load_registers(&mut self) {
        // SAFETY: CPL 0 where this is loaded (contract of the trait), DR7 is clear on the host; the values were checked or come from the
        // guest's own writes; the host uses neither SYSCALL nor SWAPGS.
        unsafe {
            hw::write_dr(self.state.dr);
            hw::write_dr6(self.state.dr6);
            for (number, value) in LOADED.into_iter().zip(Self::msrs(&mut self.state)) {
                hw::wrmsr(number, *value);
            }
        }
        self.load_tsc_aux();
    }

    fn store_registers(state: &mut ArchState) {
        // SAFETY: CPL 0 where this is loaded (contract of the trait); these MSRs come with long mode.
        unsafe {
            state.dr = hw::read_dr();
            state.dr6 = hw::read_dr6();
            for (number, value) in LOADED.into_iter().zip(Self::msrs(state)) {
                *value = hw::rdmsr(number);
            }
        }
    }

    fn load_tsc_aux(&self) {
        if self.config.info.tsc_aux {
            // SAFETY: CPUID announces the MSR, the host does not use it, and its upper half is 0.
            unsafe { hw::wrmsr(msr::IA32_TSC_AUX, self.state.tsc_aux & 0xffff_ffff) };
        }
    }
}

impl VirtualCpu for VmxCpu {
    fn enter(&mut self) -> Exit {
        debug_assert!(self.loaded, "a virtual CPU is entered where it is loaded");
        loop {
            if core::mem::take(&mut self.shutdown) {
                return Exit::Shutdown;
            }
            self.prepare();
            // SAFETY: VMX is on where this is loaded and interrupts are off (contract of the trait), so nothing uses CR2; `load` has filled the
            // current VMCS with all that protects the host.
            let entered = unsafe {
                registers::set_cr2(self.state.cr2);
                let entered = entry::enter(&mut self.state.gprs, self.launched);
                self.state.cr2 = registers::cr2();
                entered
            };
            if !entered {
                return Exit::Unknown { code: REFUSED | vmcs::read(ro::VM_INSTRUCTION_ERROR) };
            }
            let exit = self.collect();
            if exit == Exit::Nmi {
                vmcs::take_nmi();
            }
            if !self.answer(exit) {
                return exit;
            }
        }
    }

    fn load(&mut self) {
        if self.loaded {
            return;
        }
        // SAFETY: CPL 0 with VMX and XSAVE on at this pCPU (contract of the trait). A VMCS that can't be made current shows at the entry, which
        // fails with none.
        unsafe {
            self.extended.restore();
            let _current = vmcs::clear(self.vmcs) && vmcs::load(self.vmcs);
        }
        self.load_registers();
        setup::write_controls(&self.config.info, &self.controls());
        setup::write_host();
        self.write_guest();
        self.loaded = true;
        self.launched = false;
        self.flush = true;
    }

    fn unload(&mut self) {
        if !self.loaded {
            return;
        }
        let cr4_host = self.cr4_host();
        save::read(&mut self.state, cr4_host);
        Self::store_registers(&mut self.state);
        // SAFETY: CPL 0, this pCPU's registers hold this guest's state, and the VMCS is current here: it is loaded.
        unsafe {
            self.extended.save();
            let _inactive = vmcs::clear(self.vmcs);
        }
        self.loaded = false;
    }

    fn gpr(&self, index: u8) -> u64 {
        match index {
            4 => self.field(guest::RSP, self.state.gprs[4]),
            _ => self.state.gprs.get(usize::from(index)).copied().unwrap_or(0),
        }
    }

    fn set_gpr(&mut self, index: u8, value: u64) {
        if index == 4 && self.loaded {
            vmcs::write(guest::RSP, value);
        } else if let Some(gpr) = self.state.gprs.get_mut(usize::from(index)) {
            *gpr = value;
        }
    }

    fn rip(&self) -> u64 {
        self.field(guest::RIP, self.state.rip)
    }

    fn rflags(&self) -> u64 {
        self.field(guest::RFLAGS, self.state.rflags)
    }

    fn set_rflags(&mut self, value: u64) {
        let value = value | RFLAGS_FIXED;
        if self.loaded { vmcs::write(guest::RFLAGS, value) } else { self.state.rflags = value }
    }

    fn control(&self, register: Control) -> u64 {
        let state = &self.state;
        match register {
            Control::Cr0 if self.loaded => save::cr0(),
            Control::Cr0 => state.cr0,
            Control::Cr2 => state.cr2,
            Control::Cr3 => self.field(guest::CR3, state.cr3),
            Control::Cr4 => self.field(guest::CR4, state.cr4) & !self.cr4_host(),
            Control::Cr8 => state.cr8,
            Control::Efer => self.field(guest::IA32_EFER_FULL, state.efer),
            Control::Xcr0 if self.loaded && self.config.xstate.mask != 0 => {
                // SAFETY: XSAVE is enabled where this is loaded (contract of the trait).
                unsafe { hw::xgetbv0() }
            }
            Control::Xcr0 => self.extended.xcr0,
        }
    }

    fn set_control(&mut self, register: Control, value: u64) {
        let long = self.control(Control::Cr0) & CR0_PG != 0;
        // LMA follows LME and PG whatever the caller says: an entry would refuse anything else.
        let efer = value & !EFER_LMA | if long && value & EFER_LME != 0 { EFER_LMA } else { 0 };
        let (loaded, state) = (self.loaded, &mut self.state);
        match register {
            Control::Cr0 if loaded => save::set_cr0(value),
            Control::Cr0 => state.cr0 = value,
            Control::Cr2 => state.cr2 = value,
            Control::Cr3 if loaded => vmcs::write(guest::CR3, value),
            Control::Cr3 => state.cr3 = value,
            Control::Cr4 if loaded => vmcs::write(guest::CR4, value | self.config.info.fixed[1]),
            Control::Cr4 => state.cr4 = value,
            Control::Cr8 => state.cr8 = value & 0xf,
            Control::Efer if loaded => save::set_efer(efer),
            Control::Efer => state.efer = efer,
            Control::Xcr0 => {
                let valid = self.config.limits.xcr0_is_valid(value);
                debug_assert!(valid, "XCR0 was not checked");
                if !valid {
                    return;
                }
                self.extended.xcr0 = value;
                if loaded && self.config.xstate.mask != 0 {
                    // SAFETY: XSAVE is enabled where this is loaded, and the value was checked just now.
                    unsafe { hw::xsetbv0(value) };
                }
            }
        }
        self.flush |= matches!(register, Control::Cr0 | Control::Cr3 | Control::Cr4 | Control::Efer);
    }

    fn segment(&self, name: SegmentName) -> Segment {
        if self.loaded { save::segment(name as u32) } else { self.state.segment(name) }
    }

    fn cpl(&self) -> u8 {
        self.segment(SegmentName::Ss).dpl()
    }

    fn msr(&self, msr: CpuMsr) -> u64 {
        let mut state = self.state.clone();
        if self.loaded {
            Self::store_registers(&mut state);
        }
        match msr {
            CpuMsr::Pat => self.field(guest::IA32_PAT_FULL, state.pat),
            CpuMsr::Star => state.star,
            CpuMsr::Lstar => state.lstar,
            CpuMsr::Cstar => state.cstar,
            CpuMsr::Sfmask => state.sfmask,
            CpuMsr::FsBase => self.segment(SegmentName::Fs).base,
            CpuMsr::GsBase => self.segment(SegmentName::Gs).base,
            CpuMsr::KernelGsBase => state.kernel_gs_base,
            CpuMsr::SysenterCs => self.field(guest::IA32_SYSENTER_CS, state.sysenter_cs),
            CpuMsr::SysenterEsp => self.field(guest::IA32_SYSENTER_ESP, state.sysenter_esp),
            CpuMsr::SysenterEip => self.field(guest::IA32_SYSENTER_EIP, state.sysenter_eip),
            CpuMsr::TscAux => state.tsc_aux,
        }
    }

    fn set_msr(&mut self, msr: CpuMsr, value: u64) {
        if self.loaded {
            Self::store_registers(&mut self.state);
        }
        let state = &mut self.state;
        let (field, place) = match msr {
            CpuMsr::Pat => (guest::IA32_PAT_FULL, &mut state.pat),
            CpuMsr::FsBase => (guest::FS_BASE, &mut state.segments[SegmentName::Fs as usize].base),
            CpuMsr::GsBase => (guest::GS_BASE, &mut state.segments[SegmentName::Gs as usize].base),
            CpuMsr::SysenterCs => (guest::IA32_SYSENTER_CS, &mut state.sysenter_cs),
            CpuMsr::SysenterEsp => (guest::IA32_SYSENTER_ESP, &mut state.sysenter_esp),
            CpuMsr::SysenterEip => (guest::IA32_SYSENTER_EIP, &mut state.sysenter_eip),
            CpuMsr::Star => (0, &mut state.star),
            CpuMsr::Lstar => (0, &mut state.lstar),
            CpuMsr::Cstar => (0, &mut state.cstar),
            CpuMsr::Sfmask => (0, &mut state.sfmask),
            CpuMsr::KernelGsBase => (0, &mut state.kernel_gs_base),
            CpuMsr::TscAux => (0, &mut state.tsc_aux),
        };
        *place = value;
        match (self.loaded, field) {
            (true, 0) => self.load_registers(),
            (true, field) => vmcs::write(field, value),
            (false, _) => {}
        }
    }

    fn tsc(&self) -> u64 {
        hw::rdtsc().wrapping_add(self.tsc_offset())
    }

    fn tsc_offset(&self) -> u64 {
        self.field(control::TSC_OFFSET_FULL, self.state.tsc_offset)
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.state.tsc_offset = offset;
        if self.loaded {
            vmcs::write(control::TSC_OFFSET_FULL, offset);
        }
    }

    fn limits(&self) -> &Limits {
        &self.config.limits
    }

    fn next_rip(&self) -> Option<u64> {
        self.next_rip
    }

    fn advance_to(&mut self, rip: u64) {
        self.next_rip = None;
        if self.loaded {
            vmcs::write(guest::RIP, rip)
        } else {
            self.state.rip = rip
        }
        self.set_interruptibility(SHADOW, 0);
        let flags = self.rflags();
        if flags & RFLAGS_RF != 0 {
            // It lasts for one instruction (SDM 3B 18.3.1.1), which was this one.
            self.set_rflags(flags & !RFLAGS_RF);
        }
        if flags & RFLAGS_TF != 0 {
            // The guest single-steps: the trap after an instruction that hardware did not execute is ours.
            if self.loaded {
                // SAFETY: DR6 is the guest's where this is loaded.
                unsafe { hw::write_dr6(hw::read_dr6() | DR6_BS) };
            } else {
                self.state.dr6 |= DR6_BS;
            }
            self.inject(Event::exception(DB));
        }
    }

    fn inject(&mut self, event: Event) {
        debug_assert!(event.is_valid(), "{event:?}");
        match combine(self.pending, event) {
            Combined::Deliver(event) => self.pending = Some(event),
            Combined::TripleFault => {
                self.pending = None;
                self.shutdown = true;
            }
        }
    }

    fn pending_event(&self) -> Option<Event> {
        self.pending
    }

    fn can_take_interrupt(&self) -> bool {
        self.pending.is_none()
            && !self.shutdown
            && self.rflags() & RFLAGS_IF != 0
            && self.interruptibility() & SHADOW == 0
    }

    fn can_take_nmi(&self) -> bool {
        self.pending.is_none() && !self.shutdown && self.interruptibility() & (SHADOW | NMI_BLOCKED) == 0
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        self.window = wanted;
    }

    fn activity(&self) -> Activity {
        self.state.activity
    }

    fn set_activity(&mut self, activity: Activity) {
        self.state.activity = activity;
    }

    fn state(&self) -> ArchState {
        let mut state = self.state.clone();
        if self.loaded {
            save::read(&mut state, self.cr4_host());
            Self::store_registers(&mut state);
        }
        state.xcr0 = self.control(Control::Xcr0);
        state.pending = self.pending;
        state
    }

    fn set_state(&mut self, state: &ArchState) -> Result<(), InvalidState> {
        self.config.limits.check(state)?;
        self.state = state.clone();
        self.extended.xcr0 = state.xcr0;
        self.pending = state.pending;
        self.shutdown = false;
        self.next_rip = None;
        self.foreign = true;
        self.flush = true;
        if self.loaded {
            self.load_registers();
            self.write_guest();
            if self.config.xstate.mask != 0 {
                // SAFETY: XSAVE is enabled where this is loaded, and the state was checked.
                unsafe { hw::xsetbv0(state.xcr0 | 1) };
            }
        }
        Ok(())
    }

    fn extended_state_size(&self) -> usize {
        self.config.xstate.size
    }

    fn save_extended(&mut self, area: &mut [u8]) -> usize {
        if self.loaded {
            // SAFETY: CPL 0 on the pCPU where this is loaded (contract of the trait).
            unsafe { self.extended.save_keeping_xcr0() };
        }
        self.extended.copy_to(area)
    }

    fn restore_extended(&mut self, area: &[u8]) -> Result<(), InvalidExtendedState> {
        let xcr0 = self.control(Control::Xcr0);
        self.extended.set_bytes(area)?;
        self.extended.xcr0 = xcr0;
        if self.loaded {
            // SAFETY: CPL 0 on the pCPU where this is loaded (contract of the trait); the area was checked.
            unsafe { self.extended.restore() };
        }
        Ok(())
    }

    fn flush_guest_tlb(&mut self) {
        self.flush = true;
    }
}

#[cfg(test)]
#[path = "cpu_tests.rs"]
mod tests;
