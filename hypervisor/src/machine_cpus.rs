//! What the machine's CPUs can do for guests: found once, the same for all of them.
#![expect(unsafe_code, reason = "virtualization is switched on per pCPU")]

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hermit_sync::{OnceCell, SpinMutex};
use machine::addr::HostPhys;

use crate::vcpu::emulate::decode;
use crate::vcpu::frames::FrameSource;
use crate::vcpu::limits::Limits;
use crate::vcpu::svm::enable;
use crate::vcpu::svm::features::SvmInfo;
use crate::vcpu::svm::permissions::Permissions;
use crate::vcpu::xstate::XstateSupport;
use crate::vm::services::HeapFrameSource;

/// What virtual CPUs are made from.
#[derive(Clone, Debug)]
pub struct Common {
    /// The extension.
    pub info: SvmInfo,
    /// What guests may set.
    pub limits: Limits,
    /// The extended state.
    pub xstate: XstateSupport,
    /// The maps that all virtual CPUs share.
    pub permissions: Permissions,
}

static COMMON: OnceCell<Common> = OnceCell::new();

/// Looks, and prepares what is shared.
///
/// # Errors
/// Why guests can't run here.
pub fn detect() -> Result<(), String> {
    let info = SvmInfo::detect().ok_or_else(|| enable::SvmUnavailable::Absent.to_string())?;
    let permissions = Permissions::new(&mut HeapFrameSource).map_err(|error| error.to_string())?;
    // The decoder makes its tables at the first use; nothing may be allocated in a pause.
    decode::warm_up();
    let common = Common { info, limits: Limits::detect(), xstate: XstateSupport::detect(), permissions };
    COMMON.set(common).map_err(|_| String::from("the CPUs were looked at twice"))
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

/// Host save areas that were made before the pause.
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
        areas.push(HeapFrameSource.frame().ok_or("no memory for the host save areas of SVM")?);
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
    // agree), and the save area is a frame that is never given back.
    unsafe {
        common.xstate.enable();
        enable::enable(&mut SaveAreas).map_err(|error| error.to_string())?;
    }
    Ok(())
}
