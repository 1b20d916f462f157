//! The jump: the machine at the new image's entries, and the block both images share.
//!
//! The new image is entered twice. First at its upgrade entry, in WARM: as a virtual CPU of the old image, in a sandbox whose nested
//! tables show the machine as below, memory read-only but for the new slot and the scratch; there are no descriptor tables, and an exception, a
//! port or an MSR but a few ends the upgrade. Its CR3 is an identity map of the first 4 GiB in the scratch, at [`WARM_TABLES_OFFSET`],
//! which it leaves for tables of its own. The sandbox ends with a hypercall (VMMCALL, VMCALL): RAX = [`WARM_READY`] and RBX = where
//! pCPU 0 goes on, or RAX = [`WARM_REFUSED`] with a reason in the block. All it has made in its slot is there when pCPU 0 goes on after SWITCH.
//!
//! At the entries, on every pCPU, in format 1 (in the sandbox CR4 and EFER have no optional bits):
//! - 64-bit mode; RFLAGS.IF = 0, DF = 0; every other flag is of no meaning.
//! - CR0, CR4 and EFER as in [`check_entry`].
//! - CS = [`CODE_SELECTOR`], DS = ES = SS = [`DATA_SELECTOR`], FS = GS = 0 with base 0; GDT, IDT and TSS are the old
//!   image's until COMMIT, so that any exception or NMI leads back to it. The new image loads no descriptor table before.
//! - CR3: tables of the old image's, in its slot, that identity-map, and map nothing else:
//!
//!   | range | access |
//!   |---|---|
//!   | slot of the new image, its scratch (the block lies in it) | read, write, execute |
//!   | old image's slot | read; execute, for the way back; the new image's own tables must map it so as well |
//!   | handover arena (the stream, tables, queues) | read |
//!   | LAPIC, registers of every unit | read, write, uncached |
//!   | guest memory | read, where mapped at all |
//!
//! - RDI = physical address of the [`JumpBlock`], RSI = number of the pCPU, RSP = 0: the new image uses its own
//!   stack. All other registers are of no meaning.
//! - pCPU 0 comes first. Another pCPU waits in the old image until its [`JumpCpu::entry`] is not zero, then jumps there.
//!
//! Until COMMIT the new image writes nothing but its slot and its scratch. The decision is one 8-byte compare-exchange of
//! [`JumpBlock::commit`] from [`UNDECIDED`]: to [`COMMITTED`] by pCPU 0 of the new image, after every pCPU reported
//! [`CPU_VERIFIED`]; to [`ABANDONED`] by whoever rolls back: a pCPU that refuses, the old image's exception handlers, the
//! one that watches the deadline. Who finds it decided obeys. Every pCPU in the new image goes back once it reads [`ABANDONED`]: it writes a
//! reason (the first one) and [`CPU_REFUSES`], loads the words of its [`JumpCpu`] and jumps to [`JumpCpu::rollback_rip`].
//! The old image keeps copies of these words of its own and trusts the block for nothing but the decision.
//!
//! The scratch holds the block at its start, the new image's last log lines at [`LOG_OFFSET`], and behind [`STACKS_OFFSET`] the stacks
//! of the old image's exception handlers, which the new image leaves alone.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// RAX of the hypercall that ends WARM: the image is ready, RBX is where pCPU 0 enters it at SWITCH.
pub const WARM_READY: u64 = u64::from_le_bytes(*b"BATONRDY");
/// RAX of the hypercall that ends WARM: the image refuses, the reason is in the block.
pub const WARM_REFUSED: u64 = u64::from_le_bytes(*b"BATONREF");

/// First eight bytes of a [`JumpBlock`].
pub const MAGIC: u64 = u64::from_le_bytes(*b"BATONJMP");
/// Version of the block and of the contract.
pub const VERSION: u32 = 1;
/// pCPUs a block has room for.
pub const PCPUS: usize = 256;
/// Bytes of a refusal's reason.
pub const REASON_BYTES: usize = 96;

/// CS at the entry: a 64-bit code segment, ring 0.
pub const CODE_SELECTOR: u16 = 0x08;
/// DS, ES, SS at the entry: a writable data segment, ring 0.
pub const DATA_SELECTOR: u16 = 0x10;

/// CR0 at the entry, exactly: PE, MP, ET, NE, WP, PG (SDM 3A 2.5). Caches are on, TS and EM are off.
pub const CR0: u64 = 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 16 | 1 << 31;
/// CR4 bits that are set at the entry: PAE.
pub const CR4_SET: u64 = 1 << 5;
/// CR4 bits that may be set as well: DE, PSE, MCE, PGE, OSFXSR, OSXMMEXCPT, UMIP, VMXE, OSXSAVE, SMEP.
/// Not LA57: tables have four levels; not PCIDE: CR3 is plain; not SMAP, CET or PKE.
pub const CR4_MAY: u64 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 13 | 1 << 18 | 1 << 20;
/// EFER bits that are set at the entry: LME, LMA, NXE.
pub const EFER_SET: u64 = 1 << 8 | 1 << 10 | 1 << 11;
/// EFER bits that may be set as well: SCE, SVME, FFXSR.
pub const EFER_MAY: u64 = 1 | 1 << 12 | 1 << 14;

/// [`JumpBlock::commit`]: not decided.
pub const UNDECIDED: u64 = 0;
/// [`JumpBlock::commit`]: the new image has taken over.
pub const COMMITTED: u64 = 1;
/// [`JumpBlock::commit`]: the new image is given up, the old one takes over again.
pub const ABANDONED: u64 = 2;

/// Offset in the scratch of the new image's log: a little-endian `u64`, how many bytes were ever written to the ring of
/// [`LOG_BYTES`] bytes behind it. Zero at the jump.
pub const LOG_OFFSET: u64 = 0x8000;
/// Bytes of the ring of log lines.
pub const LOG_BYTES: u64 = 0x2000;
/// Offset in the scratch of the page tables that the sandbox begins with.
pub const WARM_TABLES_OFFSET: u64 = 0x1_0000;
/// Bytes of these: one table each of levels 4 and 3, and four of level 2.
pub const WARM_TABLES_BYTES: u64 = 6 << 12;
/// Offset in the scratch from which on it is the old image's until COMMIT.
pub const STACKS_OFFSET: u64 = 0x4_0000;

/// [`JumpCpu::state`]: in the old image.
pub const CPU_OLD: u32 = 0;
/// [`JumpCpu::state`]: arrived in the new image.
pub const CPU_ARRIVED: u32 = 1;
/// [`JumpCpu::state`]: found everything as told.
pub const CPU_VERIFIED: u32 = 2;
/// [`JumpCpu::state`]: goes back.
pub const CPU_REFUSES: u32 = 3;
/// [`JumpCpu::state`]: is back in the old image.
pub const CPU_BACK: u32 = 4;

/// One pCPU's part of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct JumpCpu {
    /// Mailbox: where the pCPU enters the new image, zero while it must wait. Written by the new image, for pCPU 0 by the old one.
    pub entry: u64,
    /// Where to jump to go back.
    pub rollback_rip: u64,
    /// RSP to go back with.
    pub rollback_rsp: u64,
    /// CR3 to go back with.
    pub rollback_cr3: u64,
    /// Base of the old image's GDT.
    pub gdt_base: u64,
    /// Base of the old image's IDT.
    pub idt_base: u64,
    /// LAPIC id, compared by the new image.
    pub apic_id: u32,
    /// `CPU_*`.
    pub state: u32,
    /// Limit of the GDT.
    pub gdt_limit: u16,
    /// Limit of the IDT.
    pub idt_limit: u16,
    /// Task register's selector; its descriptor is busy.
    pub tr: u16,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<JumpCpu>() == 64);

/// What both images share during the jump. Lies in the scratch of the new image, 4 KiB aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct JumpBlock {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`UNDECIDED`], [`COMMITTED`] or [`ABANDONED`]; alone in what it decides, changed once.
    pub commit: u64,
    /// Host physical address of the handover region, where the header is.
    pub region_base: u64,
    /// Bytes of the region.
    pub region_bytes: u64,
    /// TSC at which the old image takes back a new one that has not committed.
    pub deadline_tsc: u64,
    /// Base of the old image's slot.
    pub old_slot_base: u64,
    /// Bytes of it.
    pub old_slot_bytes: u64,
    /// Base of the new image's slot.
    pub new_slot_base: u64,
    /// Bytes of it.
    pub new_slot_bytes: u64,
    /// Base of the new image's scratch.
    pub scratch_base: u64,
    /// Bytes of it.
    pub scratch_bytes: u64,
    /// [`VERSION`].
    pub version: u32,
    /// pCPUs in [`JumpBlock::pcpus`].
    pub pcpu_count: u32,
    /// Phase in which the new image refused, by [`crate::phase::Phase::index`].
    pub refused_phase: u32,
    /// Zero.
    pub reserved: u32,
    /// Why the new image goes back: UTF-8, padded with zeros.
    pub reason: [u8; REASON_BYTES],
    /// Zero; the array starts at offset 256.
    pub reserved_tail: [u8; 56],
    /// The pCPUs, by number.
    pub pcpus: [JumpCpu; PCPUS],
}

/// Bytes of a [`JumpBlock`].
pub const BLOCK_BYTES: usize = 256 + 64 * PCPUS;
const _: () = assert!(size_of::<JumpBlock>() == BLOCK_BYTES);
const _: () = assert!(BLOCK_BYTES as u64 <= LOG_OFFSET && LOG_OFFSET + 8 + LOG_BYTES <= WARM_TABLES_OFFSET);
const _: () = assert!(WARM_TABLES_OFFSET + WARM_TABLES_BYTES <= STACKS_OFFSET);
const _: () = assert!(core::mem::offset_of!(JumpBlock, commit) == 8);
const _: () = assert!(core::mem::offset_of!(JumpBlock, reason) == 104);
const _: () = assert!(core::mem::offset_of!(JumpBlock, pcpus) == 256);

/// Why the machine at the entry, or the block, is not as agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JumpError {
    /// A register holds something else.
    Register {
        /// Which.
        register: &'static str,
        /// Its value.
        value: u64,
    },
    /// The block's magic or version is another.
    Block {
        /// Magic as found.
        magic: u64,
        /// Version as found.
        version: u32,
    },
    /// A field of the block is not plausible.
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        value: u64,
    },
}

impl fmt::Display for JumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Register { register, value } => write!(
                f,
                "{register} is {value:#x} at the upgrade entry, against the contract; the old image is at fault"
            ),
            Self::Block { magic, version } => write!(
                f,
                "no jump block of version {VERSION}: magic {magic:#018x}, version {version}; the old image is at fault"
            ),
            Self::Field { field, value } => {
                write!(f, "jump block: {field} cannot be {value:#x}; the old image is at fault")
            }
        }
    }
}

impl core::error::Error for JumpError {}

/// Compares the control registers at the entry with the contract.
pub const fn check_entry(cr0: u64, cr4: u64, efer: u64) -> Result<(), JumpError> {
    if cr0 != CR0 {
        return Err(JumpError::Register { register: "CR0", value: cr0 });
    }
    if cr4 & CR4_SET != CR4_SET || cr4 & !(CR4_SET | CR4_MAY) != 0 {
        return Err(JumpError::Register { register: "CR4", value: cr4 });
    }
    if efer & EFER_SET != EFER_SET || efer & !(EFER_SET | EFER_MAY) != 0 {
        return Err(JumpError::Register { register: "EFER", value: efer });
    }
    Ok(())
}

impl JumpBlock {
    /// Checks what the new image relies on. `at` is where the block was found.
    pub fn check(&self, at: u64) -> Result<(), JumpError> {
        if self.magic != MAGIC || self.version != VERSION {
            return Err(JumpError::Block { magic: self.magic, version: self.version });
        }
        let field = |fine: bool, field, value| {
            if fine { Ok(()) } else { Err(JumpError::Field { field, value }) }
        };
        field(self.commit == UNDECIDED, "commit word", self.commit)?;
        field(self.reserved == 0 && self.reserved_tail == [0; 56], "padding", self.reserved.into())?;
        let count = self.pcpu_count as usize;
        field((1..=PCPUS).contains(&count), "number of pCPUs", self.pcpu_count.into())?;
        let ranges = [
            ("handover region", self.region_base, self.region_bytes),
            ("old slot", self.old_slot_base, self.old_slot_bytes),
            ("new slot", self.new_slot_base, self.new_slot_bytes),
            ("scratch", self.scratch_base, self.scratch_bytes),
        ];
        for (index, (name, base, bytes)) in ranges.into_iter().enumerate() {
            let end = base.checked_add(bytes);
            field(end.is_some() && bytes > 0 && base.is_multiple_of(4096), name, base)?;
            for (_, other, length) in ranges.into_iter().skip(index + 1) {
                let apart = base.saturating_add(bytes) <= other || other.saturating_add(length) <= base;
                field(apart, name, base)?;
            }
        }
        let inside = at >= self.scratch_base
            && at
                .checked_add(BLOCK_BYTES as u64)
                .is_some_and(|end| end <= self.scratch_base.saturating_add(self.scratch_bytes));
        field(inside && at.is_multiple_of(4096), "own address", at)?;
        for cpu in self.pcpus.iter().take(count) {
            let old =
                |address: u64| address >= self.old_slot_base && address - self.old_slot_base < self.old_slot_bytes;
            field(old(cpu.rollback_rip), "way back", cpu.rollback_rip)?;
            field(cpu.reserved == 0, "padding of a pCPU", cpu.reserved.into())?;
        }
        Ok(())
    }

    /// Stores a reason, cut to what fits at a character's boundary.
    pub fn set_reason(&mut self, reason: &str) {
        let mut end = reason.len().min(REASON_BYTES);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        self.reason = [0; REASON_BYTES];
        if let (Some(target), Some(source)) = (self.reason.get_mut(..end), reason.as_bytes().get(..end)) {
            target.copy_from_slice(source);
        }
    }

    /// The reason, as far as it is text.
    #[must_use]
    pub fn reason(&self) -> &str {
        crate::state::text(&self.reason).unwrap_or("(unreadable)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;
    use zerocopy::FromZeros;

    fn block() -> Box<JumpBlock> {
        let mut block = Box::new(JumpBlock::new_zeroed());
        block.magic = MAGIC;
        block.version = VERSION;
        block.pcpu_count = 2;
        (block.region_base, block.region_bytes) = (0x100_0000, 0x1_0000);
        (block.old_slot_base, block.old_slot_bytes) = (0x200_0000, 0x20_0000);
        (block.new_slot_base, block.new_slot_bytes) = (0x220_0000, 0x20_0000);
        (block.scratch_base, block.scratch_bytes) = (0x240_0000, 0x10_0000);
        block.pcpus[0].rollback_rip = 0x200_1000;
        block.pcpus[1].rollback_rip = 0x200_1000;
        block
    }

    /// Numbers written out from SDM 3A 2.5 and 2.2.1.
    #[test]
    fn control_registers() {
        assert_eq!(CR0, 0x8001_0033);
        assert_eq!(EFER_SET, 0xd00);
        assert_eq!(check_entry(0x8001_0033, 0x6a0, 0x1d00), Ok(()));
        assert!(check_entry(0x8001_0033, 0x680, 0xd00).is_err(), "PAE is off");
        assert!(check_entry(0x8001_0033, 0x16a0, 0xd00).is_err(), "LA57 is on");
        assert!(check_entry(0x8001_003b, 0x6a0, 0xd00).is_err(), "TS is on");
        assert!(check_entry(0x8001_0033, 0x6a0, 0x500).is_err(), "NXE is off");
    }

    #[test]
    fn a_sound_block_is_taken_and_a_lie_is_not() {
        let at = 0x240_0000;
        assert_eq!(block().check(at), Ok(()));
        let lies: [fn(&mut JumpBlock); 9] = [
            |block| block.magic ^= 1,
            |block| block.version = 2,
            |block| block.commit = COMMITTED,
            |block| block.pcpu_count = 0,
            |block| block.pcpu_count = 257,
            |block| block.new_slot_base = block.old_slot_base,
            |block| block.scratch_bytes = 4096,
            |block| block.region_bytes = u64::MAX,
            |block| block.pcpus[1].rollback_rip = 0x220_0000,
        ];
        for (index, lie) in lies.iter().enumerate() {
            let mut block = block();
            lie(&mut block);
            assert!(block.check(at).is_err(), "lie {index}");
        }
        assert!(block().check(0x23f_f000).is_err());
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut block = block();
        let long = alloc::format!("{}äöü", "x".repeat(95));
        block.set_reason(&long);
        assert_eq!(block.reason(), "x".repeat(95));
        block.set_reason("unit 0: status");
        assert_eq!(block.reason(), "unit 0: status");
    }
}
