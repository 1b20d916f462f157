//! Faults planted on purpose, for the tests of the rollback: only in images built with the feature `fault`. Which one, and
//! where, is in two bytes behind the build's name, so that one image does for all of them.
#![expect(unsafe_code, reason = "this is what the module is for")]

use core::arch::asm;
use core::sync::atomic::{AtomicU8, Ordering};

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

fn spin() -> ! {
    loop {
        core::hint::spin_loop();
    }
}

/// Commits the planted fault, if it is planted here.
pub fn at(place: Place) {
    if PLACE.load(Ordering::Acquire) != place as u8 {
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
        _ => {}
    }
}

/// Alters what was read of the records.
pub fn lie(state: &mut handover::State, place: Place) {
    if lies(Lie::RecordCount, place) {
        state.vcpus.pop();
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
