//! GDT, TSS and IDT (SDM 3A 3.4, 6.10, 7.2). One set per pCPU, on the heap for ever.
#![expect(unsafe_code, reason = "descriptor tables are loaded by instructions")]

use alloc::boxed::Box;
use alloc::vec;
use core::arch::asm;

use super::stubs;

/// The selectors, as the jump contract of the handover fixes them too.
pub mod selector {
    /// 64-bit code.
    pub const CODE: u16 = 0x08;
    /// Data.
    pub const DATA: u16 = 0x10;
    /// The task-state segment.
    pub const TSS: u16 = 0x18;
}

const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;
const STACK_BYTES: usize = 16 << 10;

/// Exceptions that come on a stack of their own, by interrupt stack table index.
mod ist {
    pub const DOUBLE_FAULT: u8 = 1;
    pub const NMI: u8 = 2;
    pub const MACHINE_CHECK: u8 = 3;
    pub const PAGE_FAULT: u8 = 4;
    pub const COUNT: usize = 4;
}

/// The 64-bit task-state segment (SDM 3A 7.7).
#[repr(C, packed(4))]
struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

const _: () = assert!(size_of::<Tss>() == 104);

/// A gate of the IDT (SDM 3A 6.14.1).
#[derive(Clone, Copy)]
#[repr(C)]
struct Gate {
    offset_low: u16,
    selector: u16,
    ist: u8,
    attributes: u8,
    offset_middle: u16,
    offset_high: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Gate>() == 16);

impl Gate {
    /// A present interrupt gate: interrupts are off behind it.
    const fn interrupt(offset: u64, ist: u8) -> Self {
        Self {
            offset_low: offset as u16,
            selector: selector::CODE,
            ist,
            attributes: 0x8e,
            offset_middle: (offset >> 16) as u16,
            offset_high: (offset >> 32) as u32,
            reserved: 0,
        }
    }
}

/// The operand of LGDT, LIDT, SGDT, SIDT.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed)]
pub struct TablePointer {
    /// Bytes less one.
    pub limit: u16,
    /// Linear address.
    pub base: u64,
}

/// The tables of one pCPU.
pub struct Tables {
    gdt: [u64; 5],
    tss: Tss,
    idt: [Gate; 256],
}

impl Tables {
    /// Builds tables with fresh exception stacks; they live as long as the image.
    pub fn leak() -> &'static mut Self {
        let mut stacks = [0; 7];
        for stack in stacks.iter_mut().take(ist::COUNT) {
            let memory = vec![0u8; STACK_BYTES].leak();
            *stack = (memory.as_ptr() as u64 + STACK_BYTES as u64) & !15;
        }
        let tables = Box::leak(Box::new(Self {
            gdt: [0, CODE_DESCRIPTOR, DATA_DESCRIPTOR, 0, 0],
            tss: Tss {
                reserved0: 0,
                rsp: [0; 3],
                reserved1: 0,
                ist: stacks,
                reserved2: 0,
                reserved3: 0,
                io_map: size_of::<Tss>() as u16,
            },
            idt: [Gate::interrupt(0, 0); 256],
        }));
        for (vector, gate) in tables.idt.iter_mut().enumerate() {
            let stack = match vector {
                2 => ist::NMI,
                8 => ist::DOUBLE_FAULT,
                14 => ist::PAGE_FAULT,
                18 => ist::MACHINE_CHECK,
                _ => 0,
            };
            *gate = Gate::interrupt(stubs::first() + vector as u64 * stubs::STRIDE, stack);
        }
        let base = &raw const tables.tss as u64;
        // An available 64-bit TSS (SDM 3A 7.2.3).
        tables.gdt[3] = (size_of::<Tss>() as u64 - 1)
            | (base & 0xff_ffff) << 16
            | 0x89 << 40
            | (base >> 24 & 0xff) << 56;
        tables.gdt[4] = base >> 32;
        tables
    }

    /// Loads them on this pCPU; GS base is left alone.
    pub fn load(&mut self) {
        // LTR marks the descriptor busy; it has to be available again when the tables are loaded once more.
        self.gdt[3] &= !(2 << 40);
        let gdt = TablePointer { limit: size_of_val(&self.gdt) as u16 - 1, base: self.gdt.as_ptr() as u64 };
        let idt = TablePointer { limit: size_of_val(&self.idt) as u16 - 1, base: self.idt.as_ptr() as u64 };
        // SAFETY: the tables are complete and live for ever; selector::CODE and DATA mean the same as before (flat
        // segments), so code and stack go on; FS and GS get null selectors, their bases are set by MSR later.
        unsafe {
            asm!(
                "lgdt [{gdt}]",
                "lidt [{idt}]",
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "mov ds, {data:x}",
                "mov es, {data:x}",
                "mov ss, {data:x}",
                "ltr {tss:x}",
                gdt = in(reg) &gdt,
                idt = in(reg) &idt,
                code = const selector::CODE as u64,
                data = in(reg) u32::from(selector::DATA),
                tss = in(reg) u32::from(selector::TSS),
                scratch = out(reg) _,
            );
        }
    }
}
