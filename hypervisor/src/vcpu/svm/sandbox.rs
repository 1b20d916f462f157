//! The sandbox's virtual CPU under SVM.
#![expect(unsafe_code, reason = "the VMCB is shared with hardware, and entering the guest is not Rust")]

use alloc::boxed::Box;
use alloc::string::String;

use handover::jump::{CODE_SELECTOR, CR0, CR4_SET, DATA_SELECTOR};
use machine::access::TableMemory;
use machine::addr::HostPhys;

use super::super::exit::Exit;
use super::super::sandbox::{RDI, SandboxCpu, Start};
use super::super::state::{EFER_LMA, EFER_LME, EFER_NXE, EFER_SVME, PAT_RESET};
use super::features::SvmInfo;
use super::permissions::Permissions;
use super::vmcb::{NP_ENABLE, TLB_FLUSH_ALL, Vmcb, VmcbSegment, int_ctl, misc1};
use super::{entry, exits};

/// A 64-bit code segment and a flat data segment, as the VMCB has them.
const CODE: u16 = 0xa9b;
const DATA: u16 = 0xc93;
/// The virtual CPU. Its two frames are given back by [`Self::free`].
pub struct Sandbox {
    vmcb: HostPhys,
    host: HostPhys,
    gprs: [u64; 16],
    info: SvmInfo,
}

impl Sandbox {
    /// A virtual CPU at `start`. `frames` are mapped writable at their addresses and zero.
    ///
    /// # Errors
    /// No memory.
    pub fn new(
        start: &Start,
        info: SvmInfo,
        permissions: &Permissions,
        frames: &mut dyn TableMemory,
    ) -> Result<Self, String> {
        let full = || String::from("no memory for the sandbox");
        let vmcb = frames.allocate().ok_or_else(full)?;
        let Some(host) = frames.allocate() else {
            frames.free(vmcb);
            return Err(full());
        };
        let mut sandbox = Self { vmcb, host, gprs: [0; 16], info };
        sandbox.gprs[RDI] = start.argument;
        let vmcb = sandbox.vmcb();
        let control = &mut vmcb.control;
        control.intercept_dr = u32::MAX;
        control.intercept_exceptions = u32::MAX;
        #[cfg(feature = "fault")]
        if crate::upgrade::fault::is_planted(crate::upgrade::fault::Place::OpenSandbox) {
            control.intercept_exceptions = 0;
        }
        control.intercept_what_reaches_the_host(info.invlpgb);
        control.intercept_misc1 |= misc1::SMI;
        control.iopm_base = permissions.iopm.get();
        control.msrpm_base = permissions.msrpm.get();
        control.asid = 1;
        control.tlb_control = TLB_FLUSH_ALL;
        control.int_ctl = int_ctl::V_INTR_MASKING;
        control.np_enable = NP_ENABLE;
        control.nested_cr3 = start.nested_root.get();
        let save = &mut vmcb.save;
        save.cs = VmcbSegment { selector: CODE_SELECTOR, attributes: CODE, limit: u32::MAX, base: 0 };
        let data = VmcbSegment { selector: DATA_SELECTOR, attributes: DATA, limit: u32::MAX, base: 0 };
        (save.ss, save.ds, save.es) = (data, data, data);
        save.efer = EFER_SVME | EFER_LME | EFER_LMA | EFER_NXE;
        save.cr0 = CR0;
        save.cr3 = start.tables;
        save.cr4 = CR4_SET;
        save.dr6 = 0xffff_0ff0;
        save.dr7 = 0x400;
        save.rflags = 2;
        save.rip = start.rip;
        save.g_pat = PAT_RESET;
        Ok(sandbox)
    }

    fn vmcb(&mut self) -> &mut Vmcb {
        // SAFETY: the frame is this object's alone, zeroed (a VMCB of zeros is one) and mapped at its address; hardware writes
        // to it only inside `enter`, while no reference is alive.
        unsafe { &mut *core::ptr::with_exposed_provenance_mut::<Vmcb>(self.vmcb.get() as usize) }
    }
}

impl SandboxCpu for Sandbox {
    unsafe fn enter(&mut self) -> Exit {
        // SAFETY: by contract; `new` has set every intercept that protects the host; both frames are this object's.
        unsafe { entry::enter(&mut self.gprs, self.vmcb, self.host) };
        let features = self.info.features;
        let control = &mut self.vmcb().control;
        // Another guest may have run here in between, under the same id.
        control.clean = 0;
        exits::translate(control, features)
    }

    fn gpr(&mut self, index: u8) -> u64 {
        if index == 0 { self.vmcb().save.rax } else { self.gprs.get(usize::from(index)).copied().unwrap_or(0) }
    }

    fn set_gpr(&mut self, index: u8, value: u64) {
        if index == 0 {
            self.vmcb().save.rax = value;
        } else if let Some(gpr) = self.gprs.get_mut(usize::from(index)) {
            *gpr = value;
        }
    }

    fn rip(&mut self) -> u64 {
        self.vmcb().save.rip
    }

    fn skip(&mut self, bytes: u64) {
        self.vmcb().save.rip += bytes;
    }

    fn efer(&mut self) -> u64 {
        self.vmcb().save.efer & !EFER_SVME
    }

    fn fault_address(&mut self) -> u64 {
        self.vmcb().control.exit_info2
    }

    fn exit_code(&mut self) -> u64 {
        self.vmcb().control.exit_code
    }

    fn free(self: Box<Self>, frames: &mut dyn TableMemory) {
        frames.free(self.vmcb);
        frames.free(self.host);
    }
}
