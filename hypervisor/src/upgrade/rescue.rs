//! The descriptor table in force from SWITCH to COMMIT: whatever happens on a pCPU that is in the new image
//! (exception, NMI, an interrupt it should not have let through) leads back to this one.
//!
//! Each pCPU has a table of its own, found by SIDT, for nothing that the new image may have changed is relied on. The handlers start on the new
//! image's page tables, which show this image read-only, so their first stack lies in the scratch (IST 5 and 6). They decide in the jump
//! block (HANDOVER.md: one decision), go back to this image's tables and stack, say why, and return to where the pCPU left,
//! by IRET, so that NMIs are let through again.
#![expect(unsafe_code, reason = "the handlers are assembly, descriptor tables are shared with it")]

use alloc::boxed::Box;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};

use handover::jump::{CODE_SELECTOR, CPU_REFUSES, STACKS_OFFSET};
use machine::cpu::tables::{Gate, Idt};

use super::block::Block;
use super::jump::WayBack;
use crate::mem::layout::RESCUE_STACK_BYTES;
use crate::trap::{dispatch, stubs, tables};
use crate::{console, cpu, host};

/// One pCPU's table, and what its handlers need.
#[repr(C, align(64))]
pub struct Rescue {
    idt: Idt,
    /// Where the pCPU left this image, in the order of [`WayBack`].
    way: [AtomicU64; 3],
    /// [`AWAY`], [`COMING`], or 0 when the pCPU is here.
    armed: AtomicU64,
    block: AtomicU64,
    /// NMIs before this TSC are the watchdog's ticks.
    deadline: AtomicU64,
    index: u64,
    /// An interrupt that was taken on the way, 0 for none.
    taken: AtomicU64,
}

/// Offset of the way back.
pub const WAY: usize = offset_of!(Rescue, way);
/// Offset of the mark that the pCPU is away.
pub const ARMED: usize = offset_of!(Rescue, armed);
/// From the jump on: the pCPU is in the new image.
pub const AWAY: u64 = 1;
/// A handler has this image's tables in force and takes the pCPU home.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "only the handlers set it"))]
const COMING: u64 = 2;

const _: () = assert!(offset_of!(Rescue, idt) == 0 && size_of::<WayBack>() == 24);

#[cfg(target_os = "none")]
core::arch::global_asm!(
    ".section .text.baton_rescue, \"ax\"",
    ".balign 16",
    ".global baton_rescue_stubs",
    "baton_rescue_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    // The same vectors push an error code as in trap/stubs.rs.
    ".if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17) && (vector != 21) && (vector != 29) && (vector != 30)",
    "push 0",
    ".endif",
    "push vector",
    "jmp baton_rescue",
    ".set vector, vector + 1",
    ".endr",
    "baton_rescue:",
    "push rax",
    "push rbx",
    "push rdx",
    "cld",
    "sub rsp, 16",
    "sidt [rsp]",
    "mov rbx, [rsp + 2]",
    "add rsp, 16",
    // From here: vector at 24, error code at 32, RIP at 40.
    "cmp qword ptr [rbx + {armed}], {away}",
    "jne 5f",
    "cmp qword ptr [rsp + 24], 2",
    "jne 3f",
    // An NMI in these handlers themselves: the pCPU comes home anyway, and what brings it is the reason.
    "lea rax, [rip + baton_rescue_stubs]",
    "cmp [rsp + 40], rax",
    "jb 2f",
    "lea rax, [rip + baton_rescue_end]",
    "cmp [rsp + 40], rax",
    "jb 9f",
    "2:",
    "mov rdx, [rbx + {block}]",
    "cmp qword ptr [rdx + {commit}], {undecided}",
    "jne 3f",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "cmp rax, [rbx + {deadline}]",
    "jae 3f",
    // The watchdog's tick, if the 8259, polled, has IRQ 0 (OCW3 with P); then one more count of the PIT.
    "mov al, 0x0c",
    "out 0x20, al",
    "in al, 0x20",
    "test al, al",
    "jns 3f",
    "mov al, 0xff",
    "out 0x40, al",
    "out 0x40, al",
    "jmp 9f",
    "3:",
    "mov rdx, [rbx + {block}]",
    "xor eax, eax",
    "push rcx",
    "mov ecx, {abandoned}",
    "lock cmpxchg [rdx + {commit}], rcx",
    "pop rcx",
    "cmp rax, {committed}",
    "je 5f",
    "lea rax, [rip + {rescued}]",
    "7:",
    "mov rdi, [rsp + 24]",
    "mov rsi, [rsp + 32]",
    "mov rdx, [rsp + 40]",
    "mov rcx, cr2",
    "mov r8, rbx",
    "mov r9, [rbx + {way} + 16]",
    "mov cr3, r9",
    "mov qword ptr [rbx + {armed}], {coming}",
    "mov rsp, [rbx + {way} + 8]",
    "and rsp, -16",
    "call rax",
    "mov rcx, [rbx + {way} + 8]",
    "push {data}",
    "push rcx",
    "push 2",
    "push {code}",
    "push qword ptr [rbx + {way}]",
    "iretq",
    // Decided otherwise, or the pCPU is here or comes already: an NMI means nothing any more, an exception is the end.
    "5:",
    "lea rax, [rip + {lost}]",
    "cmp qword ptr [rsp + 24], 2",
    "jne 7b",
    "9:",
    "pop rdx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
    "baton_rescue_end:",
    armed = const ARMED,
    away = const AWAY,
    coming = const COMING,
    block = const offset_of!(Rescue, block),
    deadline = const offset_of!(Rescue, deadline),
    way = const WAY,
    commit = const offset_of!(handover::jump::JumpBlock, commit),
    undecided = const handover::jump::UNDECIDED,
    committed = const handover::jump::COMMITTED,
    abandoned = const handover::jump::ABANDONED,
    data = const handover::jump::DATA_SELECTOR,
    code = const CODE_SELECTOR,
    rescued = sym rescued,
    lost = sym lost,
);

#[cfg(target_os = "none")]
unsafe extern "C" {
    fn baton_rescue_stubs();
}

fn first_stub() -> u64 {
    #[cfg(target_os = "none")]
    {
        baton_rescue_stubs as *const () as u64
    }
    #[cfg(not(target_os = "none"))]
    {
        0
    }
}

impl Rescue {
    /// The table of pCPU `index`; lives as long as the image.
    pub fn leak(index: u32) -> &'static Self {
        let mut idt = Idt([Gate::MISSING; 256]);
        for (vector, gate) in (0u64..).zip(&mut idt.0) {
            let stack = if vector == 2 { tables::ist::RESCUE_NMI } else { tables::ist::RESCUE };
            *gate = Gate::interrupt(first_stub() + vector * stubs::STRIDE, CODE_SELECTOR, stack);
        }
        Box::leak(Box::new(Self {
            idt,
            way: [const { AtomicU64::new(0) }; 3],
            armed: AtomicU64::new(0),
            block: AtomicU64::new(0),
            deadline: AtomicU64::new(0),
            index: index.into(),
            taken: AtomicU64::new(0),
        }))
    }

    /// Before the pCPU leaves: the jump block, and until when NMIs are the watchdog's ticks.
    pub fn prepare(&self, block: Block, deadline: u64) {
        self.block.store(block.address(), Ordering::Relaxed);
        self.taken.store(0, Ordering::Relaxed);
        self.deadline.store(deadline, Ordering::Release);
    }

    /// For the assembly that leaves.
    pub fn as_ptr(&self) -> *mut Self {
        core::ptr::from_ref(self).cast_mut()
    }

    /// Whether the pCPU is in the new image.
    pub fn is_away(&self) -> bool {
        self.armed.load(Ordering::Acquire) == AWAY
    }

    /// The interrupt that was taken out of the LAPIC on the way home, to be handled now.
    pub fn take_interrupt(&self) -> Option<u8> {
        match self.taken.swap(0, Ordering::AcqRel) {
            0 => None,
            vector => Some(vector as u8),
        }
    }
}

/// The tops of the first stacks of pCPU `index`'s handlers: exceptions, NMIs.
pub fn stacks(scratch: u64, index: u32) -> [u64; 2] {
    let first = scratch + STACKS_OFFSET + u64::from(index) * RESCUE_STACK_BYTES;
    [first + RESCUE_STACK_BYTES / 2, first + RESCUE_STACK_BYTES]
}

/// On this image's tables and stack: says why, if nobody has yet. Then the pCPU goes on where it left.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "only the handlers call it"))]
extern "sysv64" fn rescued(vector: u64, error: u64, rip: u64, address: u64, rescue: *const Rescue) {
    // SAFETY: the handlers pass their own table, which `leak` has made.
    let rescue = unsafe { &*rescue };
    #[cfg(feature = "fault")]
    if rescue.index == 0 {
        super::fault::at(super::fault::Place::WayHome);
    }
    if vector >= 32 {
        rescue.taken.store(vector, Ordering::Release);
    }
    let Some(block) = Block::current() else { return };
    let index = rescue.index as u32;
    if !block.has_reason() {
        let rip = block.in_new_slot(rip);
        match vector {
            2 if cpu::tsc() >= rescue.deadline.load(Ordering::Acquire) => block.set_reason_from(format_args!(
                "pCPU {index} was silent until the deadline, at image+{rip:#x}: raise upgrade.deadline_ms if it works"
            )),
            2 => block.set_reason_from(format_args!("an NMI on pCPU {index} at image+{rip:#x}")),
            32.. => block.set_reason_from(format_args!(
                "pCPU {index} let interrupt {vector:#x} through before COMMIT, at image+{rip:#x}"
            )),
            _ => block.set_reason_from(format_args!(
                "{} on pCPU {index} at image+{rip:#x}: error {error:#x}, address {address:#x}",
                dispatch::name(vector as u8)
            )),
        }
    }
    block.set_state(index, CPU_REFUSES);
}

/// An exception where none can be undone: after COMMIT on a pCPU that the new image has not made its own yet, or in the
/// rollback itself (HANDOVER.md, behaviour 25). The records stay as they are.
#[cfg_attr(not(target_os = "none"), expect(dead_code, reason = "only the handlers call it"))]
extern "sysv64" fn lost(vector: u64, error: u64, rip: u64, address: u64, rescue: *const Rescue) -> ! {
    // SAFETY: as in `rescued`.
    let rescue = unsafe { &*rescue };
    let committed = Block::current().is_some_and(|block| block.committed());
    let state = if committed { ("after COMMIT", "is the new image's") } else { IN_ROLLBACK };
    let index = rescue.index;
    console::emergency(format_args!(
        "baton: {} on pCPU {index}: error {error:#x} at {rip:#x}, address {address:#x}",
        dispatch::name(vector as u8),
    ));
    stops(state, rescue.block.load(Ordering::Relaxed));
    cpu::halt_forever()
}

/// When, and what is known of the records then.
const IN_ROLLBACK: (&str, &str) = ("in ROLLBACK", "is whole");

fn stops((when, whose): (&str, &str), block: u64) {
    console::emergency(format_args!(
        "baton: this pCPU stops {when}; the handover record {whose} (jump block at {block:#x})"
    ));
}

/// Where the block of the rollback under way lies; 0: there is none.
static ROLLBACK: AtomicU64 = AtomicU64::new(0);

/// Whether this image is taking over again.
pub fn rolling_back(yes: bool) {
    ROLLBACK.store(if yes { host::get().scratch } else { 0 }, Ordering::Release);
}

/// Behind the words of a panic: what is left, if it came in the rollback (HANDOVER.md, behaviour 25).
pub fn add_to_panic() {
    let block = ROLLBACK.load(Ordering::Acquire);
    if block != 0 {
        stops(IN_ROLLBACK, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::layout::SCRATCH_BYTES;

    #[test]
    fn every_vector_has_a_way_back_on_a_stack_of_its_own() {
        let rescue = Rescue::leak(3);
        let gates = &rescue.idt.0;
        for (vector, gate) in gates.iter().enumerate() {
            let stack = if vector == 2 { 6 } else { 5 };
            assert_eq!(*gate, Gate::interrupt(vector as u64 * 16, 8, stack), "vector {vector}");
        }
    }

    #[test]
    fn the_stacks_lie_behind_the_log_and_apart() {
        let mut last = STACKS_OFFSET;
        for index in 0..handover::jump::PCPUS as u32 {
            for top in stacks(0, index) {
                assert_eq!(top, last + 512);
                last = top;
            }
        }
        assert!(last <= SCRATCH_BYTES);
    }
}
