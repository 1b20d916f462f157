//! The jump block: what both images share while pCPUs change sides. It lies in the scratch
//! region, which is identity mapped and written by both; every field is read and written whole.
#![expect(unsafe_code, reason = "memory that another image writes")]

use alloc::vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use handover::jump::{self as contract, JumpBlock, JumpCpu, JumpError, REASON_BYTES};
#[cfg(feature = "fault")]
use zerocopy::FromZeros;
use zerocopy::{FromBytes, IntoBytes};

use super::jump::{self, WayBack};
use crate::smp::pcpu::Pcpu;

/// Where the block of the upgrade under way is, 0 without one.
static CURRENT: AtomicU64 = AtomicU64::new(0);

/// A jump block in memory.
#[derive(Clone, Copy, Debug)]
pub struct Block(u64);

impl Block {
    /// Writes `block` to `at` and makes it the current one.
    ///
    /// # Safety
    /// `at` is the scratch region: at least `BLOCK_BYTES` of identity-mapped memory that nobody else uses.
    pub unsafe fn place(at: u64, block: &JumpBlock) -> Self {
        let bytes = block.as_bytes();
        // SAFETY: by contract.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), at as usize as *mut u8, bytes.len()) };
        CURRENT.store(at, Ordering::Release);
        Self(at)
    }

    /// Reads and checks the block at `at`, as the new image finds it.
    ///
    /// # Errors
    /// It is no block, or not one that can be.
    ///
    /// # Safety
    /// `at` is mapped for `BLOCK_BYTES`.
    pub unsafe fn find(at: u64) -> Result<(Self, JumpBlock), JumpError> {
        let mut copy = vec![0; contract::BLOCK_BYTES];
        // SAFETY: by contract; the bytes are copied before anything is decided by them.
        unsafe { core::ptr::copy_nonoverlapping(at as usize as *const u8, copy.as_mut_ptr(), copy.len()) };
        let block = JumpBlock::read_from_bytes(&copy).map_err(|_| JumpError::Block { magic: 0, version: 0 })?;
        block.check(at)?;
        CURRENT.store(at, Ordering::Release);
        Ok((Self(at), block))
    }

    /// The current block.
    pub fn current() -> Option<Self> {
        match CURRENT.load(Ordering::Acquire) {
            0 => None,
            at => Some(Self(at)),
        }
    }

    /// There is no upgrade any more.
    pub fn forget() {
        CURRENT.store(0, Ordering::Release);
    }

    fn word64(&self, offset: usize) -> &'static AtomicU64 {
        // SAFETY: the block is mapped as long as it is current, its 8-byte fields are aligned, and both images
        // reach them by atomic accesses only.
        unsafe { &*((self.0 as usize + offset) as *const AtomicU64) }
    }

    fn word32(&self, offset: usize) -> &'static AtomicU32 {
        // SAFETY: as for `word64`.
        unsafe { &*((self.0 as usize + offset) as *const AtomicU32) }
    }

    fn cpu(index: u32) -> usize {
        offset_of!(JumpBlock, pcpus) + index as usize % contract::PCPUS * size_of::<JumpCpu>()
    }

    /// The block's address.
    pub fn address(&self) -> u64 {
        self.0
    }

    /// Whether the new image has taken over.
    pub fn committed(&self) -> bool {
        self.word64(offset_of!(JumpBlock, commit)).load(Ordering::Acquire) == contract::COMMITTED
    }

    fn decide(&self, decision: u64) -> bool {
        let word = self.word64(offset_of!(JumpBlock, commit));
        let decided = word.compare_exchange(contract::UNDECIDED, decision, Ordering::SeqCst, Ordering::SeqCst);
        decided.map_or_else(|found| found == decision, |_| true)
    }

    /// COMMIT, or the word that somebody has given this image up.
    #[must_use]
    pub fn commit(&self) -> bool {
        self.decide(contract::COMMITTED)
    }

    /// Gives the new image up, unless it has taken over.
    #[must_use]
    pub fn abandon(&self) -> bool {
        self.decide(contract::ABANDONED)
    }

    /// Whether the new image was given up.
    pub fn abandoned(&self) -> bool {
        self.word64(offset_of!(JumpBlock, commit)).load(Ordering::Acquire) == contract::ABANDONED
    }

    /// Calls pCPU `index` into the image at `entry`; 0 withdraws.
    pub fn call(&self, index: u32, entry: u64) {
        self.word64(Self::cpu(index) + offset_of!(JumpCpu, entry)).store(entry, Ordering::Release);
    }

    fn called(&self, index: u32) -> u64 {
        self.word64(Self::cpu(index) + offset_of!(JumpCpu, entry)).load(Ordering::Acquire)
    }

    /// The TSC at which the old image takes back a new one that has not committed.
    pub fn deadline(&self) -> u64 {
        self.word64(offset_of!(JumpBlock, deadline_tsc)).load(Ordering::Acquire)
    }

    /// The LAPIC id that the old image recorded for pCPU `index`.
    pub fn apic_id(&self, index: u32) -> u32 {
        self.word32(Self::cpu(index) + offset_of!(JumpCpu, apic_id)).load(Ordering::Acquire)
    }

    /// Whether pCPU `index` is the last by number.
    #[cfg(feature = "fault")]
    pub fn is_last(&self, index: u32) -> bool {
        self.word32(offset_of!(JumpBlock, pcpu_count)).load(Ordering::Acquire) == index + 1
    }

    /// The pCPU with LAPIC id `apic_id`.
    pub fn index_of(&self, apic_id: u32) -> Option<u32> {
        let count = self.word32(offset_of!(JumpBlock, pcpu_count)).load(Ordering::Acquire).min(contract::PCPUS as u32);
        (0..count).find(|index| self.apic_id(*index) == apic_id)
    }

    /// The state of pCPU `index`, a `CPU_*` of the contract.
    pub fn state(&self, index: u32) -> u32 {
        self.word32(Self::cpu(index) + offset_of!(JumpCpu, state)).load(Ordering::Acquire)
    }

    /// Sets it.
    pub fn set_state(&self, index: u32, state: u32) {
        self.word32(Self::cpu(index) + offset_of!(JumpCpu, state)).store(state, Ordering::Release);
    }

    fn way_back_place(&self, index: u32) -> *mut WayBack {
        (self.0 as usize + Self::cpu(index) + offset_of!(JumpCpu, rollback_rip)) as *mut WayBack
    }

    /// Where pCPU `index` left the image before this one.
    pub fn way_back(&self, index: u32) -> WayBack {
        // SAFETY: the three words lie in the block, which is mapped, and their owner wrote them before it jumped.
        unsafe { self.way_back_place(index).read_volatile() }
    }

    /// All of it, as it is.
    #[cfg(feature = "fault")]
    pub fn copy(&self) -> alloc::boxed::Box<JumpBlock> {
        let mut copy = alloc::boxed::Box::new(JumpBlock::new_zeroed());
        let from = self.0 as usize as *const u8;
        // SAFETY: the block is mapped; any bytes are a value.
        unsafe { core::ptr::copy_nonoverlapping(from, copy.as_mut_bytes().as_mut_ptr(), contract::BLOCK_BYTES) };
        copy
    }

    /// Whether somebody has said why the new image goes back.
    pub fn has_reason(&self) -> bool {
        self.reason().first().is_some_and(|byte| *byte != 0)
    }

    /// An address as an offset in the new image's slot; as it is when it lies elsewhere.
    pub fn in_new_slot(&self, address: u64) -> u64 {
        let base = self.word64(offset_of!(JumpBlock, new_slot_base)).load(Ordering::Acquire);
        let bytes = self.word64(offset_of!(JumpBlock, new_slot_bytes)).load(Ordering::Acquire);
        address.checked_sub(base).filter(|offset| *offset < bytes).unwrap_or(address)
    }

    /// Why the new image goes back.
    pub fn set_reason(&self, reason: &str) {
        let mut end = reason.len().min(REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        let mut field = [0; REASON_BYTES];
        field[..end].copy_from_slice(&reason.as_bytes()[..end]);
        let at = (self.0 as usize + offset_of!(JumpBlock, reason)) as *mut [u8; REASON_BYTES];
        // SAFETY: the field lies in the block.
        unsafe { at.write_volatile(field) };
    }

    /// Likewise, without the heap.
    pub fn set_reason_from(&self, reason: core::fmt::Arguments<'_>) {
        struct Cut([u8; REASON_BYTES], usize);
        impl core::fmt::Write for Cut {
            fn write_str(&mut self, text: &str) -> core::fmt::Result {
                for byte in text.bytes().filter(u8::is_ascii).map(|byte| byte.max(b' ')) {
                    if let Some(place) = self.0.get_mut(self.1) {
                        *place = byte;
                        self.1 += 1;
                    }
                }
                Ok(())
            }
        }
        let mut cut = Cut([0; REASON_BYTES], 0);
        let _ = core::fmt::write(&mut cut, reason);
        self.set_reason(core::str::from_utf8(cut.0.get(..cut.1).unwrap_or(&[])).unwrap_or(""));
    }

    /// The reason that was left there.
    pub fn reason(&self) -> [u8; REASON_BYTES] {
        let at = (self.0 as usize + offset_of!(JumpBlock, reason)) as *const [u8; REASON_BYTES];
        // SAFETY: the field lies in the block; any bytes are a value.
        unsafe { at.read_volatile() }
    }

    /// This pCPU, `own`, enters the new image; returns when that gave up.
    ///
    /// # Safety
    /// As for [`jump::leave`].
    pub unsafe fn leave(&self, own: &Pcpu, entry: u64) {
        // SAFETY: by contract; the rollback words of the block and the rescue tables are this pCPU's.
        unsafe { jump::leave(self.0, own.index, entry, self.way_back_place(own.index), own.rescue.as_ptr()) };
        self.set_state(own.index, contract::CPU_BACK);
    }

    /// pCPU `index` goes back to the image before this one.
    ///
    /// # Safety
    /// As for [`jump::give_back`].
    pub unsafe fn give_back(&self, index: u32) -> ! {
        // SAFETY: by contract.
        unsafe { jump::give_back(self.way_back(index)) }
    }
}

/// A parked pCPU jumps when the new image calls it. Returns whether it jumped, and is back.
pub fn jump_when_called(own: &Pcpu) -> bool {
    let Some(block) = Block::current() else {
        return false;
    };
    let entry = block.called(own.index);
    if entry == 0 || block.state(own.index) != contract::CPU_OLD || block.abandoned() {
        return false;
    }
    // SAFETY: interrupts are off while a pCPU is parked. The new image, whose signature of wholeness was checked at STAGE and
    // which runs already on the boot CPU, has announced its own entry; its slot is mapped executable before SWITCH.
    // The caller takes the pCPU over again.
    unsafe { block.leave(own, entry) };
    true
}
