//! The sandbox under SVM: a virtual CPU with nothing around it. It runs the next image in 64-bit mode on nested tables that
//! decide what it reaches; every exception, port, hypercall and MSR but a few ends it.
#![expect(unsafe_code, reason = "the VMCB is shared with hardware, and entering the guest is not Rust")]

use alloc::format;
use alloc::string::String;

use handover::jump::{CODE_SELECTOR, CR0, CR4_SET, DATA_SELECTOR};
use machine::access::TableMemory;
use machine::addr::HostPhys;

use super::super::exit::Exit;
use super::super::hw;
use super::super::sandbox::Stop;
use super::super::state::{EFER_LMA, EFER_LME, EFER_SVME};
use super::features::SvmInfo;
use super::permissions::Permissions;
use super::vmcb::{NP_ENABLE, TLB_FLUSH_ALL, Vmcb, VmcbSegment, int_ctl, misc1};
use super::{entry, exits};
use crate::trap::dispatch;

/// EFER.NXE.
const EFER_NXE: u64 = 1 << 11;
/// A 64-bit code segment and a flat data segment, as the VMCB has them.
const CODE: u16 = 0xa9b;
const DATA: u16 = 0xc93;
/// PAT after RESET (APM2 7.8.2).
const PAT: u64 = 0x0007_0406_0007_0406;
/// General registers by their number in instructions.
const RBX: usize = 3;
const RDI: usize = 7;
const RCX: usize = 1;
const RDX: usize = 2;
/// RDMSR and WRMSR have two bytes.
const MSR_BYTES: u64 = 2;

/// MSRs that may be read: IA32_APIC_BASE, the x2APIC id, IA32_PAT. Reading changes nothing.
const READABLE: [u32; 3] = [0x1b, 0x802, 0x277];

/// Where the next image begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// RIP.
    pub rip: u64,
    /// RDI.
    pub argument: u64,
    /// CR3: tables in memory that the nested ones show as writable.
    pub tables: u64,
    /// nCR3.
    pub nested_root: HostPhys,
}

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
        save.g_pat = PAT;
        Ok(sandbox)
    }

    fn vmcb(&mut self) -> &mut Vmcb {
        // SAFETY: the frame is this object's alone, zeroed (a VMCB of zeros is one) and mapped at its address; hardware writes
        // to it only inside `enter`, while no reference is alive.
        unsafe { &mut *core::ptr::with_exposed_provenance_mut::<Vmcb>(self.vmcb.get() as usize) }
    }

    /// Runs it until something happens that is not its own business. No guest is loaded on this pCPU.
    ///
    /// # Safety
    /// CPL is 0, interrupts are off, SVM is enabled here; the nested tables are alive and show nothing but what the sandbox may
    /// touch.
    pub unsafe fn run(&mut self) -> Stop {
        loop {
            // SAFETY: by contract; `new` has set every intercept that protects the host; both frames are this object's.
            unsafe { entry::enter(&mut self.gprs, self.vmcb, self.host) };
            let features = self.info.features;
            let vmcb = self.vmcb();
            // Another guest may have run here in between, under the same id.
            vmcb.control.clean = 0;
            let exit = exits::translate(&vmcb.control, features);
            let (rip, rax, code) = (vmcb.save.rip, vmcb.save.rax, vmcb.control.exit_code);
            let what = match exit {
                Exit::ExternalInterrupt | Exit::Nmi => return Stop::Interrupted,
                Exit::Hypercall => return Stop::Call { number: rax, argument: self.gprs[RBX] },
                Exit::MsrRead if self.read_msr() => continue,
                Exit::MsrWrite if self.write_msr() => continue,
                Exit::MsrRead => format!("read MSR {:#x}", self.gprs[RCX]),
                Exit::MsrWrite => format!("wrote MSR {:#x}", self.gprs[RCX]),
                Exit::Exception { vector, error_code } => {
                    let address = self.vmcb().save.cr2;
                    let address = if vector == 14 { self.vmcb().control.exit_info2 } else { address };
                    format!("{}, error {error_code:#x}, address {address:#x}", dispatch::name(vector))
                }
                Exit::NestedFault(fault) => {
                    let verb = if fault.write {
                        "wrote to"
                    } else if fault.fetch {
                        "ran code at"
                    } else {
                        "read"
                    };
                    format!("{verb} {}, which is not its own", fault.gpa)
                }
                Exit::Shutdown => String::from("triple fault"),
                Exit::Halt => String::from("halted"),
                Exit::Port(access) => format!("used port {:#x}", access.port),
                Exit::Invalid => String::from("its virtual CPU's state is refused by the CPU"),
                _ => format!("an instruction that it may not use (exit code {code:#x})"),
            };
            return Stop::Fault { what, rip };
        }
    }

    fn read_msr(&mut self) -> bool {
        let msr = self.gprs[RCX] as u32;
        let efer = self.vmcb().save.efer & !EFER_SVME;
        let value = match msr {
            x86::msr::IA32_EFER => efer,
            _ if READABLE.contains(&msr) => {
                // SAFETY: these exist on every CPU in x2APIC mode, which this image runs in.
                unsafe { hw::rdmsr(msr) }
            }
            _ => return false,
        };
        self.gprs[RDX] = value >> 32;
        let save = &mut self.vmcb().save;
        save.rax = value & 0xffff_ffff;
        save.rip += MSR_BYTES;
        true
    }

    /// EFER may be written with what is in it.
    fn write_msr(&mut self) -> bool {
        let (msr, high) = (self.gprs[RCX] as u32, self.gprs[RDX] << 32);
        let save = &mut self.vmcb().save;
        let value = high | save.rax & 0xffff_ffff;
        let same = msr == x86::msr::IA32_EFER && value | EFER_SVME == save.efer;
        if same {
            save.rip += MSR_BYTES;
        }
        same
    }

    /// Gives the frames back.
    pub fn free(self, frames: &mut dyn TableMemory) {
        frames.free(self.vmcb);
        frames.free(self.host);
    }
}
