//! Faults planted on purpose, for the tests of the rollback: only in images built with the feature `fault`. Which one, and
//! where, is in two bytes behind the build's name, so that one image does for all of them.
#![expect(unsafe_code, reason = "this is what the module is for")]

use core::arch::asm;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::block::Block;

static KIND: AtomicU8 = AtomicU8::new(0);
static PLACE: AtomicU8 = AtomicU8::new(0);

/// Where a fault is met. The numbers are the tests'.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// In the sandbox.
    Sandbox = 1,
    /// After SWITCH, on pCPU 0.
    First = 2,
    /// After SWITCH, on the pCPU that comes last.
    Last = 3,
    /// Just before COMMIT.
    Commit = 4,
    /// In the image that runs, which has this one's sandbox let exceptions through, so that a triple fault can come to be.
    OpenSandbox = 5,
    /// In the image that runs, when one of its handlers takes pCPU 0 home.
    WayHome = 6,
    /// In the image that runs, when all pCPUs are back and it begins to undo what it has set.
    Rollback = 7,
    /// In the image that runs: it holds still where WARM begins, where it ends, and where pCPU 0 leaves, so that all memory can be
    /// compared from outside.
    Watched = 8,
}

/// Faults that are in what the new image makes of the records.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Lie {
    /// A record is lost.
    RecordCount = 16,
    /// A guest's memory is claimed by nobody.
    UnclaimedMemory = 17,
    /// A unit is not adopted.
    UnitLeft = 18,
    /// One domain id, two domains.
    DidTwice = 19,
    /// A virtual CPU is dropped.
    VcpuDropped = 20,
    /// A guest was told of a feature that no image has.
    Feature = 21,
}

/// Takes the two bytes: kind, place.
pub fn plant(bytes: [u8; 2]) {
    KIND.store(bytes[0], Ordering::Release);
    PLACE.store(bytes[1], Ordering::Release);
}

/// Whether `lie` is planted at `place`.
pub fn lies(lie: Lie, place: Place) -> bool {
    KIND.load(Ordering::Acquire) == lie as u8 && PLACE.load(Ordering::Acquire) == place as u8
}

/// Not zero: what is held goes on.
static RELEASED: AtomicU64 = AtomicU64::new(0);

/// Holds still until somebody outside writes to [`RELEASED`], and says on the console where that is.
fn hold(stage: &str) {
    let block = Block::current().map_or(0, |block| block.address());
    crate::console::emergency(format_args!(
        "held at {stage}, jump block {block:#x}, release {:#x}",
        RELEASED.as_ptr() as u64
    ));
    while RELEASED.load(Ordering::Acquire) == 0 {
        core::hint::spin_loop();
    }
    RELEASED.store(0, Ordering::Release);
}

/// Holds still here, if the running image is to be watched.
pub fn watched(stage: &str) {
    if is_planted(Place::Watched) {
        hold(stage);
    }
}

fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Whether something is planted at `place`.
pub fn is_planted(place: Place) -> bool {
    PLACE.load(Ordering::Acquire) == place as u8
}

/// Commits the planted fault, if it is planted here.
pub fn at(place: Place) {
    if !is_planted(place) {
        return;
    }
    let wild = |offset: fn(&handover::jump::JumpBlock) -> u64| {
        let Some(block) = Block::current() else { return };
        let address = offset(&block.copy());
        // SAFETY: none: a write to memory that is not this image's, which must not go through.
        unsafe { (address as usize as *mut u64).write_volatile(0x0bad_0bad_0bad_0bad) };
    };
    match KIND.load(Ordering::Acquire) {
        1 => panic!("a planted panic"),
        // SAFETY: none: an address that is not canonical.
        2 => unsafe { asm!("mov {0}, [{0}]", inout(reg) 1u64 << 63 => _) },
        // SAFETY: none: an invalid opcode.
        3 => unsafe { asm!("ud2") },
        4 => {
            // SAFETY: none: interrupts are taken by handlers of the image before.
            unsafe { asm!("sti") };
            spin()
        }
        5 => spin(),
        6 => wild(|jump| jump.region_base),
        7 => wild(|jump| jump.old_slot_base),
        // Below 1 MiB is the firmware's.
        8 => wild(|_| 0x9_0000),
        // SAFETY: none: no stack, no handler.
        9 => unsafe { asm!("lidt [{0}]", "xor esp, esp", "ud2", in(reg) &[0u8; 10]) },
        10 => hold("COMMIT"),
        _ => {}
    }
}

/// Alters what was read of the records.
pub fn lie(state: &mut handover::State, place: Place) {
    if lies(Lie::RecordCount, place) {
        state.vcpus.pop();
        state.vcpu_places.pop();
    }
    // HLE, which no policy passes (SDM 2A, CPUID: leaf 7, EBX bit 4).
    let structured = state.cpuids.iter_mut().find(|entry| (entry.leaf, entry.subleaf) == (7, 0));
    if let (true, Some([_, ebx, ..])) = (lies(Lie::Feature, place), structured.map(|entry| &mut entry.values)) {
        *ebx |= 1 << 4;
    }
    if let (true, Some(domain), Some(id)) =
        (lies(Lie::DidTwice, place), state.domains.first().copied(), state.domain_ids.first().copied())
    {
        let (mut other, mut same) = (domain, id);
        // The last one by its token.
        other.token |= 1 << 63;
        same.domain = other.token;
        state.domains.push(other);
        state.domain_ids.push(same);
    }
}

/// Alters what was made of them.
pub fn lie_of_guests(guests: &mut alloc::vec::Vec<super::restore::Restored>, place: Place) {
    if lies(Lie::UnclaimedMemory, place) {
        guests.pop();
    }
    if let (true, Some(guest)) = (lies(Lie::VcpuDropped, place), guests.first_mut()) {
        guest.vcpus.pop();
    }
}
