//! A virtual CPU under SVM.
#![expect(unsafe_code, reason = "the VMCB is shared with hardware, and entering the guest is not Rust")]

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use machine::addr::HostPhys;

use super::super::cpu::{Control, CpuMsr, TlbGeneration, VirtualCpu};
use super::super::event::{AC, Combined, DB, Event, EventKind, MC, combine};
use super::super::exit::Exit;
use super::super::frames::{FrameSource, OutOfFrames};
use super::super::hw;
use super::super::limits::{InvalidState, Limits};
use super::super::state::{
    Activity, ArchState, CR0_PG, DR6_BS, EFER_LMA, EFER_LME, EFER_SVME, RFLAGS_FIXED, RFLAGS_IF, RFLAGS_RF, RFLAGS_TF,
    Segment, SegmentName,
};
use super::super::xstate::{ExtendedState, InvalidExtendedState, XstateSupport};
use super::convert::{event_from_vmcb, event_to_vmcb, segment_from_vmcb};
use super::features::{SvmFeatures, SvmInfo};
use super::permissions::Permissions;
use super::vmcb::{
    CS_LONG, INTERCEPT_CR8_WRITE, INTERRUPT_SHADOW, NP_ENABLE, TLB_FLUSH_ALL, TLB_FLUSH_ASID, Vmcb, clean, code, event,
    int_ctl, misc1,
};
use super::{entry, exits, save};

/// Beside the groups of [`clean`]: what an entry wants is not what the VMCB says, or will not be after it.
const UNSETTLED: u32 = 1 << 31;

/// What a virtual CPU is made from.
#[derive(Clone, Debug)]
pub struct SvmConfig {
    /// What the pCPUs have (see [`super::enable`]).
    pub info: SvmInfo,
    /// What guests may set on this machine.
    pub limits: Limits,
    /// The extended state of this machine.
    pub xstate: XstateSupport,
    /// The maps shared by all virtual CPUs.
    pub permissions: Permissions,
    /// Root of the guest's nested page tables (4 levels, physical).
    pub nested_root: HostPhys,
    /// The generation of those tables.
    pub tlb_generation: TlbGeneration,
}

/// A virtual CPU under SVM.
pub struct SvmCpu {
    /// A frame of this object alone, except while the guest runs.
    vmcb: NonNull<Vmcb>,
    /// The frame for the host's FS, GS, TR, LDTR and syscall MSRs while the guest runs.
    host: HostPhys,
    /// General registers but RAX and RSP.
    gprs: [u64; 16],
    /// Groups of the VMCB that have changed since the last entry, or [`UNSETTLED`]. 0: the VMCB is as the next entry wants it, but for what
    /// others change (the address space) and what the guest itself has (its task priority).
    dirty: u32,
    config: SvmConfig,
    extended: ExtendedState,
    dr: [u64; 4],
    tsc_aux: u64,
    loaded: bool,
    flush: bool,
    flushed: u64,
    pending: Option<Event>,
    /// The interrupt that the entry under way delivers as a virtual one.
    virtual_event: Option<Event>,
    shutdown: bool,
    nmi_blocked: bool,
    /// NMIs are unblocked once the IRET at this address is done.
    iret_at: Option<u64>,
    activity: Activity,
    /// Where the instruction that exited ends; 0 where hardware does not say it.
    next_rip: u64,
}

// SAFETY: the frames belong to this object alone; nothing is tied to a thread (load and unload are the caller's duty).
unsafe impl Send for SvmCpu {}

impl fmt::Debug for SvmCpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SvmCpu").field("vmcb", &self.vmcb).field("rip", &self.rip()).finish_non_exhaustive()
    }
}

impl SvmCpu {
    /// A virtual CPU in the state after RESET.
    ///
    /// # Errors
    /// No memory.
    pub fn new(config: SvmConfig, frames: &mut dyn FrameSource) -> Result<Self, OutOfFrames> {
        let frame = frames.frame().ok_or(OutOfFrames)?;
        let host = frames.frame().ok_or(OutOfFrames)?;
        let extended = ExtendedState::new(config.xstate, frames)?;
        let vmcb =
            NonNull::new(core::ptr::with_exposed_provenance_mut::<Vmcb>(frame.get() as usize)).ok_or(OutOfFrames)?;
        // SAFETY: the frames are ours alone and mapped writable at their addresses (contract of FrameSource).
        unsafe {
            vmcb.write(Vmcb::zeroed());
            core::ptr::with_exposed_provenance_mut::<Vmcb>(host.get() as usize).write(Vmcb::zeroed());
        }
        let mut cpu = Self {
            vmcb,
            host,
            gprs: [0; 16],
            dirty: clean::ALL,
            config,
            extended,
            dr: [0; 4],
            tsc_aux: 0,
            loaded: false,
            flush: true,
            flushed: 0,
            pending: None,
            virtual_event: None,
            shutdown: false,
            nmi_blocked: false,
            iret_at: None,
            activity: Activity::Active,
            next_rip: 0,
        };
        cpu.init_control();
        cpu.apply(&ArchState::reset());
        Ok(cpu)
    }

    fn init_control(&mut self) {
        let config = self.config.clone();
        let control = &mut self.vmcb_mut().control;
        control.intercept_exceptions = 1 << DB | 1 << AC | 1 << MC;
        control.intercept_what_reaches_the_host(config.info.invlpgb);
        control.intercept_misc1 |= misc1::CPUID;
        control.iopm_base = config.permissions.iopm.get();
        control.msrpm_base = config.permissions.msrpm.get();
        // Every virtual CPU has the same id: load() flushes what another one left behind.
        control.asid = 1;
        control.int_ctl = int_ctl::V_INTR_MASKING;
        control.np_enable = NP_ENABLE;
        control.nested_cr3 = config.nested_root.get();
    }

    #[inline(always)]
    fn vmcb(&self) -> &Vmcb {
        // SAFETY: initialized by `new`; hardware writes only inside `enter`, which borrows `self` mutably.
        unsafe { self.vmcb.as_ref() }
    }

    #[inline(always)]
    fn vmcb_mut(&mut self) -> &mut Vmcb {
        // SAFETY: as for `vmcb`, and the borrow is exclusive.
        unsafe { self.vmcb.as_mut() }
    }

    /// The vendor's view of the last exit, for a report: exit code, EXITINFO1, EXITINFO2, EXITINTINFO.
    #[must_use]
    pub fn last_exit(&self) -> [u64; 4] {
        let c = &self.vmcb().control;
        [c.exit_code, c.exit_info1, c.exit_info2, c.exit_int_info]
    }

    /// Takes other nested page tables.
    pub fn set_nested_root(&mut self, root: HostPhys) {
        self.vmcb_mut().control.nested_cr3 = root.get();
        self.config.nested_root = root;
        self.dirty |= clean::NP;
        self.flush = true;
    }

    /// Fills the fields of the VMCB that are decided anew at each entry: most exits change nothing but registers.
    #[inline(always)]
    fn prepare(&mut self) {
        let generation = self.config.tlb_generation.load(Ordering::Acquire);
        let control = &self.vmcb().control;
        let watched = if control.int_ctl & int_ctl::V_TPR == 0 { 0 } else { INTERCEPT_CR8_WRITE };
        if self.dirty != 0 || generation != self.flushed || control.intercept_cr != watched {
            self.prepare_anew(generation);
        }
    }

    #[inline(never)]
    fn prepare_anew(&mut self, generation: u64) {
        let flush = self.flush || generation != self.flushed;
        self.flush = false;
        self.flushed = generation;
        let features = self.config.info.features;
        let inject = self.pending.take();
        if inject.is_some_and(|event| event.kind == EventKind::Nmi) {
            self.nmi_blocked = true;
            self.iret_at = None;
        }
        let watch_iret = self.nmi_blocked && self.iret_at.is_none();
        // On a CPU that saves no next RIP an interrupt goes in as a virtual one, which the CPU takes before the guest's next
        // instruction (it was asked for when the guest could take it): QEMU 10, which is such a CPU, delivers an injected one a second time,
        // as an exception, when its loop is interrupted before the next exit. A window that was asked for besides, for an interrupt that
        // came later and is more urgent, has to wait: it is asked for again after the next exit, the end of this interrupt at the latest.
        // Not so elsewhere: Bochs 2.7 takes a virtual one only after the guest has cleared IF and set it again.
        let virtually = !features.contains(SvmFeatures::NEXT_RIP);
        self.virtual_event = inject.filter(|event| event.kind == EventKind::Interrupt && virtually);
        let mut dirty = core::mem::take(&mut self.dirty);
        let virtual_event = self.virtual_event;
        let control = &mut self.vmcb_mut().control;
        if let Some(event) = virtual_event {
            control.int_ctl |= int_ctl::WINDOW | u64::from(event.vector) << int_ctl::V_VECTOR_SHIFT;
            control.intercept_misc1 &= !misc1::VINTR;
            dirty |= clean::TPR | clean::INTERCEPTS;
        }
        let injected = inject.filter(|_| virtual_event.is_none());
        control.event_inj = injected.as_ref().map_or(0, event_to_vmcb);
        control.tlb_control = match flush {
            false => 0,
            true if features.contains(SvmFeatures::FLUSH_BY_ASID) => TLB_FLUSH_ASID,
            true => TLB_FLUSH_ALL,
        };
        let misc1 =
            if watch_iret { control.intercept_misc1 | misc1::IRET } else { control.intercept_misc1 & !misc1::IRET };
        // A lowered task priority may let an interrupt through; a raised one is seen at the next exit.
        let cr = if control.int_ctl & int_ctl::V_TPR != 0 { INTERCEPT_CR8_WRITE } else { 0 };
        let changed =
            if (misc1, cr) == (control.intercept_misc1, control.intercept_cr) { 0 } else { clean::INTERCEPTS };
        control.intercept_misc1 = misc1;
        control.intercept_cr = cr;
        let has_clean_bits = features.contains(SvmFeatures::CLEAN_BITS);
        control.clean = if has_clean_bits { clean::ALL & !(dirty | changed) } else { 0 };
        let steady = !flush && (control.clean == clean::ALL || !has_clean_bits);
        self.dirty = if steady && !self.nmi_blocked { 0 } else { UNSETTLED };
    }

    /// Takes over what hardware left in the VMCB.
    #[inline(always)]
    fn collect(&mut self) -> Exit {
        let features = self.config.info.features;
        let control = &self.vmcb().control;
        let exit = exits::translate(control, features);
        let next_rip = match exit {
            Exit::Port(_) => control.exit_info2,
            _ if features.contains(SvmFeatures::NEXT_RIP) => control.next_rip,
            _ => 0,
        };
        let delivered = control.event_inj != 0 || self.virtual_event.is_some();
        let interrupted = control.exit_int_info & event::VALID != 0;
        if delivered || interrupted || self.iret_at.is_some() || control.exit_code == code::IRET {
            self.collect_events(exit);
        }
        self.next_rip = next_rip;
        exit
    }

    /// What became of events on their way, and of the NMI handler.
    #[inline(never)]
    fn collect_events(&mut self, exit: Exit) {
        let virtual_event = self.virtual_event.take();
        if virtual_event.is_some() && self.config.info.features.contains(SvmFeatures::CLEAN_BITS) {
            self.dirty |= clean::TPR;
        }
        let control = &mut self.vmcb_mut().control;
        let interrupted = control.exit_int_info;
        control.event_inj = 0;
        let mut waiting = None;
        if let Some(event) = virtual_event {
            // Still requested: a physical interrupt came first, and the guest has not run.
            waiting = Some(event).filter(|_| control.int_ctl & int_ctl::V_IRQ != 0);
            control.int_ctl &= !(int_ctl::WINDOW | int_ctl::V_VECTOR);
        }
        let exit_code = control.exit_code;
        if exit != Exit::Invalid {
            self.pending = event_from_vmcb(interrupted).or(waiting);
            if self.pending.is_some() {
                self.dirty |= UNSETTLED;
            }
            if self.pending.is_some_and(|event| event.kind == EventKind::Nmi) {
                // Not delivered yet, hence nothing is blocked by it.
                self.nmi_blocked = false;
            }
        }
        let rip = self.rip();
        if exit_code == code::IRET {
            self.iret_at = Some(rip);
        } else if self.iret_at.is_some_and(|at| at != rip) {
            self.iret_at = None;
            self.nmi_blocked = false;
        }
    }

    fn apply(&mut self, s: &ArchState) {
        self.gprs = s.gprs;
        self.dr = s.dr;
        self.tsc_aux = s.tsc_aux;
        self.extended.xcr0 = s.xcr0;
        self.pending = s.pending;
        self.nmi_blocked = s.nmi_blocked;
        self.iret_at = None;
        self.shutdown = false;
        self.activity = s.activity;
        self.next_rip = 0;
        self.dirty = clean::ALL;
        self.flush = true;
        save::write(self.vmcb_mut(), s);
    }

    /// The guest single-steps: the trap after an instruction that hardware did not execute is ours.
    #[inline(never)]
    fn trap_single_step(&mut self) {
        self.vmcb_mut().save.dr6 |= DR6_BS;
        self.dirty |= clean::DRX;
        self.inject(Event::exception(DB));
    }

    fn set_tsc_aux(&mut self, value: u64) {
        self.tsc_aux = value;
        if self.loaded && self.config.info.tsc_aux {
            // SAFETY: CPUID announces the MSR, the host does not use it, and its upper half is 0.
            unsafe { hw::wrmsr(x86::msr::IA32_TSC_AUX, value & 0xffff_ffff) };
        }
    }
}

impl VirtualCpu for SvmCpu {
    #[inline(always)]
    fn enter(&mut self) -> Exit {
        debug_assert!(self.loaded, "a virtual CPU is entered where it is loaded");
        if core::mem::take(&mut self.shutdown) {
            return Exit::Shutdown;
        }
        self.prepare();
        let vmcb = HostPhys(self.vmcb.as_ptr().expose_provenance() as u64);
        // SAFETY: SVM is enabled where this is loaded and interrupts are off (contract of the trait); the VMCB was built
        // by `init_control` with all the intercepts that protect the host, and no reference into it is alive.
        unsafe { entry::enter(&mut self.gprs, vmcb, self.host) };
        self.collect()
    }

    fn load(&mut self) {
        if self.loaded {
            return;
        }
        // SAFETY: CPL 0 with SVM and XSAVE enabled on this pCPU (contract of the trait); DR7 is clear on the host.
        unsafe {
            self.extended.restore();
            hw::write_dr(self.dr);
        }
        self.loaded = true;
        let aux = self.tsc_aux;
        self.set_tsc_aux(aux);
        // The VMCB may be new to this pCPU's caches, and the TLB may hold another guest's entries under our id.
        self.dirty = clean::ALL;
        self.flush = true;
    }

    fn unload(&mut self) {
        if !self.loaded {
            return;
        }
        // SAFETY: CPL 0, and this pCPU's registers hold this guest's state: it is loaded here.
        unsafe {
            self.extended.save();
            self.dr = hw::read_dr();
        }
        self.loaded = false;
    }

    #[inline(always)]
    fn gpr(&self, index: u8) -> u64 {
        match index {
            0 => self.vmcb().save.rax,
            4 => self.vmcb().save.rsp,
            _ => self.gprs.get(usize::from(index)).copied().unwrap_or(0),
        }
    }

    #[inline(always)]
    fn set_gpr(&mut self, index: u8, value: u64) {
        match index {
            0 => self.vmcb_mut().save.rax = value,
            4 => self.vmcb_mut().save.rsp = value,
            _ => {
                if let Some(gpr) = self.gprs.get_mut(usize::from(index)) {
                    *gpr = value;
                }
            }
        }
    }

    #[inline(always)]
    fn rip(&self) -> u64 {
        self.vmcb().save.rip
    }

    fn rflags(&self) -> u64 {
        self.vmcb().save.rflags
    }

    fn set_rflags(&mut self, value: u64) {
        self.vmcb_mut().save.rflags = value | RFLAGS_FIXED;
    }

    #[inline(always)]
    fn control(&self, register: Control) -> u64 {
        let vmcb = self.vmcb();
        match register {
            Control::Cr0 => vmcb.save.cr0,
            Control::Cr2 => vmcb.save.cr2,
            Control::Cr3 => vmcb.save.cr3,
            Control::Cr4 => vmcb.save.cr4,
            Control::Cr8 => vmcb.control.int_ctl & 0xf,
            Control::Efer => vmcb.save.efer & !EFER_SVME,
            Control::Xcr0 if self.loaded && self.config.xstate.mask != 0 => {
                // SAFETY: XSTATE is enabled where this is loaded (contract of the trait).
                unsafe { hw::xgetbv0() }
            }
            Control::Xcr0 => self.extended.xcr0,
        }
    }

    fn set_control(&mut self, register: Control, value: u64) {
        let loaded = self.loaded;
        self.dirty |= match register {
            Control::Cr2 => clean::CR2,
            Control::Cr8 => clean::TPR,
            Control::Xcr0 => 0,
            _ => clean::CRX,
        };
        let vmcb = self.vmcb_mut();
        match register {
            Control::Cr0 => {
                vmcb.save.cr0 = value;
                self.flush = true;
            }
            Control::Cr2 => vmcb.save.cr2 = value,
            Control::Cr3 => {
                vmcb.save.cr3 = value;
                self.flush = true;
            }
            Control::Cr4 => {
                vmcb.save.cr4 = value;
                self.flush = true;
            }
            Control::Cr8 => vmcb.control.int_ctl = vmcb.control.int_ctl & !int_ctl::V_TPR | value & 0xf,
            Control::Efer => {
                // LMA follows LME and PG whatever the caller says: VMRUN would refuse anything else.
                let long = value & EFER_LME != 0 && vmcb.save.cr0 & CR0_PG != 0;
                vmcb.save.efer = value & !EFER_LMA | if long { EFER_LMA } else { 0 } | EFER_SVME;
                self.flush = true;
            }
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
    }

    fn segment(&self, name: SegmentName) -> Segment {
        let save = &self.vmcb().save;
        segment_from_vmcb(match name {
            SegmentName::Es => &save.es,
            SegmentName::Cs => &save.cs,
            SegmentName::Ss => &save.ss,
            SegmentName::Ds => &save.ds,
            SegmentName::Fs => &save.fs,
            SegmentName::Gs => &save.gs,
            SegmentName::Ldtr => &save.ldtr,
            SegmentName::Tr => &save.tr,
        })
    }

    #[inline(always)]
    fn cpl(&self) -> u8 {
        self.vmcb().save.cpl & 3
    }

    fn msr(&self, msr: CpuMsr) -> u64 {
        let save = &self.vmcb().save;
        match msr {
            CpuMsr::Pat => save.g_pat,
            CpuMsr::Star => save.star,
            CpuMsr::Lstar => save.lstar,
            CpuMsr::Cstar => save.cstar,
            CpuMsr::Sfmask => save.sfmask,
            CpuMsr::FsBase => save.fs.base,
            CpuMsr::GsBase => save.gs.base,
            CpuMsr::KernelGsBase => save.kernel_gs_base,
            CpuMsr::SysenterCs => save.sysenter_cs,
            CpuMsr::SysenterEsp => save.sysenter_esp,
            CpuMsr::SysenterEip => save.sysenter_eip,
            CpuMsr::TscAux => self.tsc_aux,
        }
    }

    fn set_msr(&mut self, msr: CpuMsr, value: u64) {
        let save = &mut self.vmcb_mut().save;
        match msr {
            CpuMsr::Pat => {
                save.g_pat = value;
                self.dirty |= clean::NP;
            }
            CpuMsr::Star => save.star = value,
            CpuMsr::Lstar => save.lstar = value,
            CpuMsr::Cstar => save.cstar = value,
            CpuMsr::Sfmask => save.sfmask = value,
            // VMLOAD and VMSAVE move these, clean or not (APM2 15.15.4).
            CpuMsr::FsBase => save.fs.base = value,
            CpuMsr::GsBase => save.gs.base = value,
            CpuMsr::KernelGsBase => save.kernel_gs_base = value,
            CpuMsr::SysenterCs => save.sysenter_cs = value,
            CpuMsr::SysenterEsp => save.sysenter_esp = value,
            CpuMsr::SysenterEip => save.sysenter_eip = value,
            CpuMsr::TscAux => self.set_tsc_aux(value),
        }
    }

    fn tsc(&self) -> u64 {
        hw::rdtsc().wrapping_add(self.tsc_offset())
    }

    fn tsc_offset(&self) -> u64 {
        self.vmcb().control.tsc_offset
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb_mut().control.tsc_offset = offset;
        self.dirty |= clean::INTERCEPTS;
    }

    fn limits(&self) -> &Limits {
        &self.config.limits
    }

    #[inline(always)]
    fn next_rip(&self) -> Option<u64> {
        (self.next_rip != 0).then_some(self.next_rip)
    }

    #[inline(always)]
    fn advance_to(&mut self, rip: u64) {
        self.next_rip = 0;
        let vmcb = self.vmcb_mut();
        vmcb.save.rip = rip;
        // It lasts for one instruction (APM2 3.1.6), which was this one.
        vmcb.save.rflags &= !RFLAGS_RF;
        vmcb.control.interrupt_shadow &= !INTERRUPT_SHADOW;
        if vmcb.save.rflags & RFLAGS_TF != 0 {
            self.trap_single_step();
        }
    }

    fn inject(&mut self, event: Event) {
        debug_assert!(event.is_valid(), "{event:?}");
        self.dirty |= UNSETTLED;
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
            && self.vmcb().control.interrupt_shadow & INTERRUPT_SHADOW == 0
    }

    fn can_take_nmi(&self) -> bool {
        self.pending.is_none()
            && !self.shutdown
            && !self.nmi_blocked
            && self.vmcb().control.interrupt_shadow & INTERRUPT_SHADOW == 0
    }

    fn request_interrupt_window(&mut self, wanted: bool) {
        let control = &mut self.vmcb_mut().control;
        let old = (control.int_ctl, control.intercept_misc1);
        // A virtual interrupt of the highest priority: its VINTR intercept comes when the guest would take it (APM2 15.21.4).
        let request = int_ctl::WINDOW;
        if wanted {
            control.int_ctl |= request;
            control.intercept_misc1 |= misc1::VINTR;
        } else {
            control.int_ctl &= !request;
            control.intercept_misc1 &= !misc1::VINTR;
        }
        if old != (control.int_ctl, control.intercept_misc1) {
            self.dirty |= clean::TPR | clean::INTERCEPTS;
        }
    }

    #[inline(always)]
    fn is_64bit(&self) -> bool {
        let save = &self.vmcb().save;
        save.efer & EFER_LMA != 0 && save.cs.attributes & CS_LONG != 0
    }

    #[inline(always)]
    fn activity(&self) -> Activity {
        self.activity
    }

    fn set_activity(&mut self, activity: Activity) {
        self.activity = activity;
    }

    fn state(&self) -> ArchState {
        let mut state = save::read(self.vmcb());
        for (index, gpr) in (0..).zip(state.gprs.iter_mut()) {
            *gpr = self.gpr(index);
        }
        state.xcr0 = self.control(Control::Xcr0);
        state.dr = if self.loaded {
            // SAFETY: CPL 0 on the pCPU where this is loaded (contract of the trait).
            unsafe { hw::read_dr() }
        } else {
            self.dr
        };
        state.tsc_aux = self.tsc_aux;
        state.nmi_blocked = self.nmi_blocked;
        state.pending = self.pending;
        state.activity = self.activity;
        state
    }

    fn set_state(&mut self, state: &ArchState) -> Result<(), InvalidState> {
        self.config.limits.check(state)?;
        self.apply(state);
        if self.loaded {
            // SAFETY: CPL 0 on the pCPU where this is loaded (contract of the trait); XCR0 was checked; DR7 is clear on the host.
            unsafe {
                hw::write_dr(state.dr);
                if self.config.xstate.mask != 0 {
                    hw::xsetbv0(state.xcr0 | 1);
                }
            }
            self.set_tsc_aux(state.tsc_aux);
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
        self.dirty |= UNSETTLED;
    }
}

#[cfg(test)]
#[path = "cpu_tests.rs"]
mod tests;
