//! Descriptor tables: SDM 3A 3.4, 6.14 and 8.7; APM2 4.8, 8.9 and 12.2.5.
#![expect(unsafe_code, reason = "LGDT, LIDT, LTR and the segment registers")]

use core::arch::asm;

/// A segment descriptor of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Segment(pub u64);

impl Segment {
    /// The mandatory first entry.
    pub const NULL: Self = Self(0);
    /// 64-bit code, ring 0: present, S, execute/read, accessed, L.
    pub const CODE: Self = Self(0x00af_9b00_0000_ffff);
    /// Data, ring 0: present, S, read/write, accessed.
    pub const DATA: Self = Self(0x00cf_9300_0000_ffff);

    /// The two entries of an available 64-bit TSS at `base` (SDM 3A 8.2.3).
    #[must_use]
    pub const fn tss(base: u64, bytes: u32) -> [Self; 2] {
        let limit = bytes.saturating_sub(1) as u64;
        let low = (limit & 0xffff)
            | (base & 0x00ff_ffff) << 16
            | 0x89 << 40
            | (limit >> 16 & 0xf) << 48
            | (base >> 24 & 0xff) << 56;
        [Self(low), Self(base >> 32)]
    }
}

/// A 64-bit task state segment without an I/O bitmap.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
pub struct Tss {
    reserved: u32,
    /// Stacks for a change to rings 0 to 2.
    pub rsp: [u64; 3],
    reserved2: u64,
    /// Stacks that a gate can ask for; index 0 here is IST 1 in a gate.
    pub ist: [u64; 7],
    reserved3: u64,
    reserved4: u16,
    /// Where the I/O bitmap would begin; past the end means there is none.
    pub io_map: u16,
}
const _: () = assert!(size_of::<Tss>() == 104);

impl Tss {
    /// All stacks null, no I/O bitmap.
    #[must_use]
    pub const fn new() -> Self {
        Self { reserved: 0, rsp: [0; 3], reserved2: 0, ist: [0; 7], reserved3: 0, reserved4: 0, io_map: 104 }
    }
}

impl Default for Tss {
    fn default() -> Self {
        Self::new()
    }
}

/// A gate of the interrupt descriptor table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    kind: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}
const _: () = assert!(size_of::<Gate>() == 16);

impl Gate {
    /// Nothing: the vector raises #NP.
    pub const MISSING: Self =
        Self { offset_low: 0, selector: 0, ist: 0, kind: 0, offset_middle: 0, offset_high: 0, reserved: 0 };

    /// An interrupt gate (IF is cleared on entry) to `handler` for ring 0. `ist` picks a
    /// stack of the TSS, 1 to 7; 0 stays on the current one.
    #[must_use]
    pub const fn interrupt(handler: u64, selector: u16, ist: u8) -> Self {
        Self {
            offset_low: handler as u16,
            selector,
            ist: ist & 7,
            kind: 0x8e,
            offset_middle: (handler >> 16) as u16,
            offset_high: (handler >> 32) as u32,
            reserved: 0,
        }
    }
}

/// The interrupt descriptor table: a gate for each vector.
#[derive(Clone, Debug)]
#[repr(C, align(16))]
pub struct Idt(pub [Gate; 256]);
const _: () = assert!(size_of::<Idt>() == 4096);

/// What LGDT, LIDT, SGDT and SIDT read and write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, packed)]
pub struct TablePointer {
    /// Bytes in the table minus one.
    pub limit: u16,
    /// Linear address of the table.
    pub base: u64,
}
const _: () = assert!(size_of::<TablePointer>() == 10);

impl TablePointer {
    /// A pointer to a table of `bytes` bytes.
    #[must_use]
    pub const fn new(base: u64, bytes: u16) -> Self {
        Self { limit: bytes.saturating_sub(1), base }
    }
}

/// Loads the global descriptor table register.
///
/// # Safety
/// The table stays there, unchanged where selectors in use point, until another is loaded.
pub unsafe fn load_gdt(table: &TablePointer) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lgdt [{}]", in(reg) table, options(readonly, nostack, preserves_flags)) }
}

/// Loads the interrupt descriptor table register.
///
/// # Safety
/// The table stays there with sound handlers until another is loaded.
pub unsafe fn load_idt(table: &TablePointer) {
    // SAFETY: the caller's promise.
    unsafe { asm!("lidt [{}]", in(reg) table, options(readonly, nostack, preserves_flags)) }
}

/// Loads the task register, which marks the descriptor busy.
///
/// # Safety
/// `selector` names an available TSS descriptor of the loaded GDT; the TSS stays where it is.
pub unsafe fn load_task(selector: u16) {
    // SAFETY: the caller's promise. LTR writes the busy bit, so memory is clobbered.
    unsafe { asm!("ltr {:x}", in(reg) selector, options(nostack, preserves_flags)) }
}

/// The global descriptor table register.
#[must_use]
pub fn gdt() -> TablePointer {
    let mut table = TablePointer::default();
    // SAFETY: SGDT writes the 10 bytes of `table`.
    unsafe { asm!("sgdt [{}]", in(reg) &raw mut table, options(nostack, preserves_flags)) }
    table
}

/// The interrupt descriptor table register.
#[must_use]
pub fn idt() -> TablePointer {
    let mut table = TablePointer::default();
    // SAFETY: SIDT writes the 10 bytes of `table`.
    unsafe { asm!("sidt [{}]", in(reg) &raw mut table, options(nostack, preserves_flags)) }
    table
}

/// The task register's selector.
#[must_use]
pub fn task() -> u16 {
    let selector: u16;
    // SAFETY: reading changes nothing.
    unsafe { asm!("str {:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) }
    selector
}

/// Loads CS with `code`, and SS, DS and ES with `data`; FS and GS (and so their bases) stay.
///
/// # Safety
/// `code` names a 64-bit ring-0 code segment and `data` a ring-0 data segment of the loaded GDT.
pub unsafe fn load_segments(code: u16, data: u16) {
    // SAFETY: the caller's promise. The far return goes to the next instruction. RETFQ
    // pops what was pushed; there is no red zone on this target, and `nostack` is not given.
    unsafe {
        asm!(
            "push {code}",
            "lea {address}, [rip + 2f]",
            "push {address}",
            "retfq",
            "2:",
            "mov ss, {data:x}",
            "mov ds, {data:x}",
            "mov es, {data:x}",
            code = in(reg) u64::from(code),
            data = in(reg) data,
            // Not `lateout`: it is written before `data` is read.
            address = out(reg) _,
            options(preserves_flags),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tss_descriptor() {
        // SDM 3A figure 8-4: limit 15:0, base 23:0 at 16, type 9 and P at 40, limit 19:16 at 48, base 31:24 at 56.
        let [low, high] = Segment::tss(0xffff_8001_2345_6789, 104);
        assert_eq!(low.0, 0x2300_8945_6789_0067);
        assert_eq!(high.0, 0xffff_8001);
    }

    #[test]
    fn gate() {
        // SDM 3A figure 6-8, as bytes in memory.
        let gate = Gate::interrupt(0x1122_3344_5566_7788, 0x08, 3);
        let words =
            [gate.offset_low, gate.selector, u16::from(gate.kind) << 8 | u16::from(gate.ist), gate.offset_middle];
        assert_eq!(words, [0x7788, 0x0008, 0x8e03, 0x5566]);
        assert_eq!(gate.offset_high, 0x1122_3344);
        assert_eq!(core::mem::offset_of!(Gate, kind), 5);
        assert_eq!(core::mem::offset_of!(Gate, offset_high), 8);
        assert_eq!(core::mem::offset_of!(Tss, ist), 0x24);
        assert_eq!(core::mem::offset_of!(Tss, io_map), 0x66);
    }
}
