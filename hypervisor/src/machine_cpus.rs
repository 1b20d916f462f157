//! What the machine's CPUs can do for guests: found once, the same for all of them.
#![expect(unsafe_code, reason = "virtualization is switched on per pCPU")]

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hermit_sync::{OnceCell, SpinMutex};
use machine::access::TableMemory;
use machine::addr::HostPhys;
use machine::paging::{EPT, Format, LeafSizes, NPT};

use crate::vcpu::cpu::TlbGeneration;
use crate::vcpu::emulate::decode;
use crate::vcpu::frames::FrameSource;
use crate::vcpu::limits::{Limits, has_tsc_aux};
use crate::vcpu::sandbox::{SandboxCpu, Start};
use crate::vcpu::svm::cpu::{SvmConfig, SvmCpu};
use crate::vcpu::svm::features::SvmInfo;
use crate::vcpu::svm::permissions::Permissions;
use crate::vcpu::vmx::capabilities::VmxInfo;
use crate::vcpu::vmx::cpu::{ReadPdptes, VmxConfig, VmxCpu};
use crate::vcpu::xstate::XstateSupport;
use crate::vcpu::{svm, vmx};
use crate::vm::runner::Engine;
use crate::vm::services::HeapFrameSource;
use crate::{cpu, host};

/// The extension that guests run by, and what all virtual CPUs share.
#[derive(Clone, Debug)]
enum Extension {
    Svm(SvmInfo, Permissions),
    Vmx(VmxInfo, HostPhys),
}

/// What virtual CPUs are made from.
#[derive(Clone, Debug)]
pub struct Common {
    extension: Extension,
    /// What guests may set.
    pub limits: Limits,
    /// The extended state.
    pub xstate: XstateSupport,
}

impl Common {
    /// A virtual CPU on nested tables, in the state after reset. `read_pdptes` serves guests that page with PAE.
    ///
    /// # Errors
    /// No memory.
    pub fn virtual_cpu(
        self,
        nested_root: HostPhys,
        tlb_generation: TlbGeneration,
        read_pdptes: ReadPdptes,
    ) -> Result<Box<dyn Engine>, String> {
        let (limits, xstate, frames) = (self.limits, self.xstate, &mut HeapFrameSource);
        let made: Result<Box<dyn Engine>, _> = match self.extension {
            Extension::Svm(info, permissions) => {
                let config = SvmConfig { info, limits, xstate, permissions, nested_root, tlb_generation };
                SvmCpu::new(config, frames).map(|cpu| Box::new(cpu) as _)
            }
            Extension::Vmx(info, msr_bitmap) => {
                let config = VmxConfig { info, limits, xstate, msr_bitmap, nested_root, tlb_generation, read_pdptes };
                VmxCpu::new(config, frames).map(|cpu| Box::new(cpu) as _)
            }
        };
        made.map_err(|error| error.to_string())
    }

    /// The virtual CPU of a sandbox. `frames` are mapped writable at their addresses and zero.
    ///
    /// # Errors
    /// No memory.
    pub fn sandbox(&self, start: &Start, frames: &mut dyn TableMemory) -> Result<Box<dyn SandboxCpu + Send>, String> {
        Ok(match &self.extension {
            Extension::Svm(info, permissions) => {
                Box::new(svm::sandbox::Sandbox::new(start, *info, permissions, frames)?)
            }
            Extension::Vmx(info, _) => Box::new(vmx::sandbox::Sandbox::new(start, *info, frames)?),
        })
    }
}

/// The format of nested page tables here.
pub fn nested_format() -> &'static Format {
    if has_ept() { &EPT } else { &NPT }
}

/// Whether it is EPT.
pub fn has_ept() -> bool {
    matches!(COMMON.get(), Some(Common { extension: Extension::Vmx(..), .. }))
}

/// Their leaf sizes: 1 GiB where the CPU has them (SVM: CPUID 8000_0001, EDX 26).
pub fn nested_leaves() -> LeafSizes {
    let gigabyte = match COMMON.get().map(|common| &common.extension) {
        Some(Extension::Vmx(info, _)) => info.gigabyte_leaves,
        _ => cpu::cpuid(0x8000_0001, 0)[3] & 1 << 26 != 0,
    };
    if gigabyte { LeafSizes::UP_TO_1G } else { LeafSizes::UP_TO_2M }
}

static COMMON: OnceCell<Common> = OnceCell::new();

/// Looks, and prepares what is shared; the extension's name.
///
/// # Errors
/// Why guests can't run here.
pub fn detect() -> Result<&'static str, String> {
    let (extension, name) = match (SvmInfo::detect(), VmxInfo::detect(has_tsc_aux(cpu::cpuid))) {
        (Some(info), _) => {
            let permissions = Permissions::new(&mut HeapFrameSource).map_err(|error| error.to_string())?;
            (Extension::Svm(info, permissions), "SVM")
        }
        (None, Some(info)) => {
            let info = info.map_err(|error| error.to_string())?;
            let bitmap = vmx::setup::msr_bitmap(&mut HeapFrameSource).map_err(|error| error.to_string())?;
            (Extension::Vmx(info, bitmap), "VMX")
        }
        (None, None) => {
            return Err(
                "this CPU has neither SVM nor VMX: enable AMD-V or VT-x in the firmware (QEMU: -cpu max)".into()
            );
        }
    };
    // The decoder makes its tables at the first use; nothing may be allocated in a pause.
    decode::warm_up();
    let common = Common { extension, limits: Limits::detect(), xstate: XstateSupport::detect() };
    COMMON.set(common).map_err(|_| String::from("the CPUs were looked at twice"))?;
    Ok(name)
}

/// Whether guests can run.
pub fn available() -> bool {
    COMMON.get().is_some()
}

/// What was found; only after [`detect`] said yes.
pub fn common() -> Common {
    match COMMON.get() {
        Some(common) => common.clone(),
        None => panic!("virtual CPUs are made before the CPUs were looked at"),
    }
}

/// Host save areas (SVM), VMXON regions (VMX) that were made before the pause.
static SAVE_AREAS: SpinMutex<Vec<HostPhys>> = SpinMutex::new(Vec::new());

/// The areas first, then the heap.
struct SaveAreas;

impl FrameSource for SaveAreas {
    fn contiguous(&mut self, count: usize) -> Option<HostPhys> {
        let ready = if count == 1 { SAVE_AREAS.lock().pop() } else { None };
        ready.or_else(|| HeapFrameSource.contiguous(count))
    }
}

/// Makes what [`enable_here`] will need on `pcpus` pCPUs, so that it takes no memory.
///
/// # Errors
/// No memory.
pub fn prepare(pcpus: usize) -> Result<(), String> {
    let mut areas = SAVE_AREAS.lock();
    while areas.len() < pcpus {
        areas.push(HeapFrameSource.frame().ok_or("no memory for what SVM or VMX keeps for each pCPU")?);
    }
    Ok(())
}

/// Switches virtualization on, on this pCPU.
///
/// # Errors
/// Why it can't be.
pub fn enable_here() -> Result<(), String> {
    let common = common();
    // SAFETY: CPL is 0; the control registers keep what is set here as long as this image runs (host_map's settings
    // agree), and the area is a frame that is never given back. After an upgrade the image before has taken its virtual CPUs out.
    unsafe {
        common.xstate.enable();
        match common.extension {
            Extension::Svm(..) => svm::enable::enable(&mut SaveAreas).map(drop).map_err(|error| error.to_string()),
            Extension::Vmx(info, _) => {
                let inherited = host::get().generation > 0;
                vmx::enable::enable(&info, inherited, &mut SaveAreas).map_err(|error| error.to_string())
            }
        }
    }
}
