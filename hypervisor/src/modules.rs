//! Boot modules that are kept: images to upgrade to, for machines that none can be sent to.
#![expect(unsafe_code, reason = "modules are raw memory")]

use alloc::vec::Vec;

use hermit_sync::SpinMutex;
use machine::addr::{HostPhys, PAGE_SIZE};
use machine::paging::{PagingError, Permissions};

use crate::boot_info::Module;
use crate::mem::host_map;

static KEPT: SpinMutex<Vec<(u8, Module)>> = SpinMutex::new(Vec::new());

/// The pages a module lies in: first byte, bytes.
pub fn pages(module: &Module) -> (u64, u64) {
    let start = module.start & !(PAGE_SIZE - 1);
    (start, (module.start + module.bytes).next_multiple_of(PAGE_SIZE) - start)
}

/// Keeps module `index`, whose memory is owned as such.
pub fn keep(index: u8, module: Module) {
    KEPT.lock().push((index, module));
}

/// Keeps what the image before kept; the records' check has seen to it that the memory is theirs (`handover::graph`).
pub fn restore(modules: Vec<(u8, Module)>) {
    *KEPT.lock() = modules;
}

/// All that are kept, with their numbers.
pub fn all() -> Vec<(u8, Module)> {
    KEPT.lock().clone()
}

/// Whether there is one.
pub fn any() -> bool {
    !KEPT.lock().is_empty()
}

/// The bytes of the one with this name.
///
/// # Errors
/// They can't be mapped.
pub fn find(name: &str) -> Result<Option<&'static [u8]>, PagingError> {
    let Some((_, module)) = KEPT.lock().iter().find(|(_, module)| module.base_name() == name).copied() else {
        return Ok(None);
    };
    let (start, bytes) = pages(&module);
    host_map::map_memory(HostPhys(start), bytes, Permissions::READ)?;
    // SAFETY: the pages are the module's (region map), mapped, and nobody writes to them or gives them away.
    Ok(Some(unsafe { core::slice::from_raw_parts(module.start as usize as *const u8, module.bytes as usize) }))
}
