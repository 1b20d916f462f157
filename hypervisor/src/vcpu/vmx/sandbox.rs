//! The sandbox's virtual CPU under VMX.
#![expect(unsafe_code, reason = "the VMCS is shared with hardware, and entering the guest is not Rust")]

use alloc::boxed::Box;
use alloc::string::String;

use handover::jump::{CODE_SELECTOR, CR0, CR4_SET, DATA_SELECTOR};
use machine::access::TableMemory;
use machine::addr::HostPhys;
use x86::vmx::vmcs::control::PrimaryControls;
use x86::vmx::vmcs::{guest, ro};

use super::super::exit::Exit;
use super::super::sandbox::{RDI, SandboxCpu, Start};
use super::super::state::{ArchState, EFER_LMA, EFER_LME, EFER_NXE, Segment};
use super::capabilities::VmxInfo;
use super::exits::Information;
use super::setup::{self, Controls};
use super::{entry, exits, save, vmcs};

/// A 64-bit code segment and a flat data segment.
const CODE: u32 = 0xa09b;
const DATA: u32 = 0xc093;

/// The virtual CPU.
pub struct Sandbox {
    vmcs: HostPhys,
    info: VmxInfo,
    nested_root: HostPhys,
    /// The state that it begins with; general registers at all times.
    state: ArchState,
    launched: bool,
}

impl Sandbox {
    /// A virtual CPU at `start`. `frames` are mapped writable at their addresses and zero.
    ///
    /// # Errors
    /// No memory.
    pub fn new(start: &Start, info: VmxInfo, frames: &mut dyn TableMemory) -> Result<Self, String> {
        let vmcs = frames.allocate().ok_or_else(|| String::from("no memory for the sandbox"))?;
        // SAFETY: the frame was just taken, and is mapped at its address.
        unsafe { core::ptr::with_exposed_provenance_mut::<u32>(vmcs.get() as usize).write(info.revision) };
        let flat = |selector, attributes| Segment { selector, attributes, limit: u32::MAX, base: 0 };
        let data = flat(DATA_SELECTOR, DATA);
        let reset = ArchState::reset();
        let [.., tr] = reset.segments;
        let mut state = ArchState {
            rip: start.rip,
            cr0: CR0,
            cr3: start.tables,
            cr4: CR4_SET,
            efer: EFER_LME | EFER_LMA | EFER_NXE,
            segments: [data, flat(CODE_SELECTOR, CODE), data, data, Segment::NULL, Segment::NULL, Segment::NULL, tr],
            ..reset
        };
        state.gprs[RDI] = start.argument;
        Ok(Self { vmcs, info, nested_root: start.nested_root, state, launched: false })
    }

    /// Makes its VMCS current; fills it at first.
    fn load(&mut self) {
        // SAFETY: VMX is on (contract of `enter`), the frame is this object's; a VMCS that can't be made current shows at the entry, which fails.
        let _current = unsafe { (self.launched || vmcs::clear(self.vmcs)) && vmcs::load(self.vmcs) };
        if !self.launched {
            let controls = Controls {
                exceptions: u32::MAX,
                primary: PrimaryControls::MOV_DR_EXITING.bits(),
                msr_bitmap: None,
                nested_root: self.nested_root,
                host_bits: [save::CR0_HOST, self.info.fixed[1]],
            };
            setup::write_controls(&self.info, &controls);
            save::write(&self.state, self.info.fixed[1]);
        }
        setup::write_host();
        // Another guest may have run here in between, under the same id.
        vmcs::invalidate();
    }
}

impl SandboxCpu for Sandbox {
    unsafe fn enter(&mut self) -> Exit {
        self.load();
        // SAFETY: by contract; the VMCS has all that protects the host.
        if !unsafe { entry::enter(&mut self.state.gprs, self.launched) } {
            return Exit::Invalid;
        }
        self.launched = true;
        let exit = exits::translate(&Information {
            reason: vmcs::read(ro::EXIT_REASON) as u32,
            qualification: vmcs::read(ro::EXIT_QUALIFICATION),
            interruption: vmcs::read(ro::VMEXIT_INTERRUPTION_INFO),
            error_code: vmcs::read(ro::VMEXIT_INTERRUPTION_ERR_CODE) as u32,
            gpa: vmcs::read(ro::GUEST_PHYSICAL_ADDR_FULL),
            instruction: None,
            code_bits: 64,
        });
        if exit == Exit::Nmi {
            vmcs::take_nmi();
        }
        exit
    }

    fn gpr(&mut self, index: u8) -> u64 {
        self.state.gprs.get(usize::from(index)).copied().unwrap_or(0)
    }

    fn set_gpr(&mut self, index: u8, value: u64) {
        if let Some(gpr) = self.state.gprs.get_mut(usize::from(index)) {
            *gpr = value;
        }
    }

    fn rip(&mut self) -> u64 {
        vmcs::read(guest::RIP)
    }

    fn skip(&mut self, bytes: u64) {
        vmcs::write(guest::RIP, vmcs::read(guest::RIP).wrapping_add(bytes));
    }

    fn efer(&mut self) -> u64 {
        vmcs::read(guest::IA32_EFER_FULL)
    }

    fn fault_address(&mut self) -> u64 {
        vmcs::read(ro::EXIT_QUALIFICATION)
    }

    fn exit_code(&mut self) -> u64 {
        vmcs::read(ro::EXIT_REASON)
    }

    fn free(self: Box<Self>, frames: &mut dyn TableMemory) {
        // SAFETY: it ran on this pCPU, where VMX is on; nothing of it may stay in the CPU when the frame is another's.
        let _inactive = unsafe { vmcs::clear(self.vmcs) };
        frames.free(self.vmcs);
    }
}
