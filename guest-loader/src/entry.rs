//! The state in which a guest's first virtual CPU starts, for either vendor's virtual CPU to take on.

use machine::addr::GuestPhys;

use crate::error::{LoadError, Problem};
use crate::layout::{BOOT_GDT, BOOT_STACK_TOP};
use crate::memory::GuestMemory;

/// Selector of the flat code segment (Linux `__BOOT_CS`).
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the flat data segment (Linux `__BOOT_DS`), for DS, ES and SS.
pub const DATA_SELECTOR: u16 = 0x18;

/// 64-bit code, accessed, ring 0 (SDM 3A 3.4.5).
const CODE_64: u64 = 0x00AF_9B00_0000_FFFF;
/// 32-bit code, accessed, ring 0, base 0, limit 4 GiB.
const CODE_32: u64 = 0x00CF_9B00_0000_FFFF;
/// Writable data, accessed, ring 0, base 0, limit 4 GiB.
const DATA: u64 = 0x00CF_9300_0000_FFFF;
/// Null, unused, code, data.
const GDT_ENTRIES: usize = 4;

/// The mode of the CPU at the entry point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit mode: CR0.PE and PG, CR4.PAE, EFER.LME and LMA set; CS is 64-bit code.
    Long64,
    /// 32-bit protected mode without paging: CR0.PE set; CS is flat 32-bit code, limit 4 GiB.
    Protected32,
    /// Real mode; the IDTR is that of real mode, vectors at 0.
    Real16 {
        /// The segment of the code: CS.
        code: u16,
        /// The segment of everything else: DS, ES, FS, GS, SS.
        data: u16,
    },
}

/// The registers at the guest's entry. Those not named are zero; RFLAGS is 2
/// (interrupts off); but for real mode IDTR's limit is 0 and TR is a busy TSS with base 0 and limit 0x67.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The mode of the CPU.
    pub mode: Mode,
    /// The first instruction; in real mode its offset in the code's segment.
    pub rip: GuestPhys,
    /// The stack: room for one page below; in real mode an offset, too.
    pub rsp: GuestPhys,
    /// Multiboot: the loader's magic; otherwise 0.
    pub rax: u64,
    /// Linux: the address of `boot_params`; otherwise 0.
    pub rsi: u64,
    /// PVH: the address of `hvm_start_info`; multiboot: of the information; otherwise 0.
    pub rbx: u64,
    /// The root of the identity page tables, or 0 where paging is off.
    pub cr3: u64,
    /// Base of the GDT, which holds [`CODE_SELECTOR`] and [`DATA_SELECTOR`]; 0 in real mode.
    pub gdt_base: GuestPhys,
    /// Limit of the GDT: its size in bytes less one; 0 in real mode.
    pub gdt_limit: u16,
}

impl Entry {
    /// 32-bit protected mode at `rip`; writes the GDT on behalf of `module`.
    pub(crate) fn protected32(rip: GuestPhys, module: &str, memory: &mut dyn GuestMemory) -> Result<Self, LoadError> {
        let gdt_limit = write_gdt(Mode::Protected32, module, memory)?;
        Ok(Self {
            mode: Mode::Protected32,
            rip,
            rsp: BOOT_STACK_TOP,
            rax: 0,
            rsi: 0,
            rbx: 0,
            cr3: 0,
            gdt_base: BOOT_GDT,
            gdt_limit,
        })
    }

    /// Real mode at `code`:`ip` with the stack at `data`:`sp`.
    pub(crate) const fn real16(code: u16, ip: u16, data: u16, sp: u16) -> Self {
        Self {
            mode: Mode::Real16 { code, data },
            rip: GuestPhys(ip as u64),
            rsp: GuestPhys(sp as u64),
            rax: 0,
            rsi: 0,
            rbx: 0,
            cr3: 0,
            gdt_base: GuestPhys(0),
            gdt_limit: 0,
        }
    }
}

/// Writes the GDT for `mode` and returns its limit.
pub(crate) fn write_gdt(mode: Mode, module: &str, memory: &mut dyn GuestMemory) -> Result<u16, LoadError> {
    let code = if mode == Mode::Long64 { CODE_64 } else { CODE_32 };
    let mut bytes = [0; GDT_ENTRIES * 8];
    for (slot, descriptor) in bytes.chunks_exact_mut(8).zip([0, 0, code, DATA]) {
        slot.copy_from_slice(&u64::to_le_bytes(descriptor));
    }
    put(memory, module, BOOT_GDT, &bytes)?;
    Ok(bytes.len() as u16 - 1)
}

/// Writes `bytes` on behalf of `module`.
pub(crate) fn put(memory: &mut dyn GuestMemory, module: &str, at: GuestPhys, bytes: &[u8]) -> Result<(), LoadError> {
    memory.write(at, bytes).map_err(|error| LoadError::new(module, Problem::Memory(error)))
}
