//! What this image knows of the machine and of itself: made once at the start, read by all.

use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use handover::note::Note;
use hermit_sync::{OnceCell, SpinMutex};
use machine::pci::Ecam;

use crate::boot_info::ImageLayout;
use crate::mem::guard;
use crate::mem::regions::RegionMap;

/// The machine and the image.
pub struct Host {
    /// Where the image lies.
    pub image: ImageLayout,
    /// The image's note.
    pub note: Note,
    /// The name people gave the build.
    pub build_name: &'static str,
    /// Upgrades since power-on.
    pub generation: u64,
    /// How this image was started: `ipxe`, `qemu`, another loader's name, `upgrade`.
    pub via: String,
    /// Distinguishes this power-on from others.
    pub boot_nonce: u64,
    /// Which of the two slots this image is in: 0 or 1.
    pub slot: u8,
    /// First byte of each slot.
    pub slots: [u64; 2],
    /// The scratch region: first byte.
    pub scratch: u64,
    /// The arena: first byte.
    pub arena: u64,
    /// The RSDP's address, 0 if there is none.
    pub rsdp: u64,
    /// Configuration space.
    pub ecam: Arc<Ecam>,
    /// Who owns which memory.
    pub regions: SpinMutex<RegionMap>,
    /// TSC when this image was entered.
    pub entered: u64,
}

static HOST: OnceCell<Host> = OnceCell::new();
static TICKS_TO_GUEST: AtomicU64 = AtomicU64::new(0);
static FIRST_ENTRY: AtomicU64 = AtomicU64::new(0);

/// Sets it, once.
pub fn set(host: Host) {
    if HOST.set(host).is_err() {
        log::error!("the machine's description was set twice");
    }
}

/// The machine and the image; only after the start has set it.
pub fn get() -> &'static Host {
    match HOST.get() {
        Some(host) => host,
        None => panic!("the machine's description is used before it is made"),
    }
}

/// Notes the moment a guest is first entered.
pub fn guest_entered(tsc: u64) {
    if FIRST_ENTRY.compare_exchange(0, tsc, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        guard::go_on();
    }
    let ticks = tsc.wrapping_sub(crate::time::rates().power_on).max(1);
    let _ = TICKS_TO_GUEST.compare_exchange(0, ticks, Ordering::AcqRel, Ordering::Relaxed);
}

/// The TSC when this image first entered a guest, 0 before.
pub fn first_entry() -> u64 {
    FIRST_ENTRY.load(Ordering::Acquire)
}

/// TSC ticks from the first image's first instruction to the first guest's; 0 before.
pub fn ticks_to_guest() -> u64 {
    TICKS_TO_GUEST.load(Ordering::Acquire)
}

/// Takes the figure over from the image before this one.
pub fn set_ticks_to_guest(ticks: u64) {
    TICKS_TO_GUEST.store(ticks, Ordering::Release);
}
