//! GDT, TSS and IDT of each pCPU, on the heap for ever (SDM 3A 3.4, 6.10, 7.2).
#![expect(unsafe_code, reason = "descriptor tables are loaded by instructions")]

use alloc::boxed::Box;
use alloc::vec;

use handover::jump::{CODE_SELECTOR, DATA_SELECTOR};
use machine::cpu::tables::{self, Gate, Idt, Segment, TablePointer, Tss};

use super::stubs;

/// The task-state segment's selector; those of code and data are fixed by the jump contract.
const TSS_SELECTOR: u16 = 0x18;
const STACK_BYTES: usize = 16 << 10;

/// Exceptions that come on a stack of their own, by interrupt stack table index.
pub mod ist {
    #![allow(missing_docs, reason = "each constant is what it names")]
    pub const DOUBLE_FAULT: u8 = 1;
    pub const NMI: u8 = 2;
    pub const MACHINE_CHECK: u8 = 3;
    pub const PAGE_FAULT: u8 = 4;
    /// Stacks of this image's own handlers.
    pub const COUNT: usize = 4;
    /// From SWITCH to COMMIT (`upgrade::rescue`); the stack lies in the scratch.
    pub const RESCUE: u8 = 5;
    /// Likewise, for NMIs.
    pub const RESCUE_NMI: u8 = 6;
}

/// The tables of one pCPU.
pub struct Tables {
    gdt: [Segment; 5],
    tss: Tss,
    idt: Idt,
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
            gdt: [Segment::NULL, Segment::CODE, Segment::DATA, Segment::NULL, Segment::NULL],
            tss: Tss::new(),
            idt: Idt([Gate::MISSING; 256]),
        }));
        tables.tss.ist = stacks;
        for (vector, gate) in (0u64..).zip(&mut tables.idt.0) {
            let stack = match vector {
                2 => ist::NMI,
                8 => ist::DOUBLE_FAULT,
                14 => ist::PAGE_FAULT,
                18 => ist::MACHINE_CHECK,
                _ => 0,
            };
            *gate = Gate::interrupt(stubs::first() + vector * stubs::STRIDE, CODE_SELECTOR, stack);
        }
        tables
    }

    /// Sets the stacks of the handlers that are in force from SWITCH to COMMIT: exceptions, NMIs.
    pub fn set_rescue_stacks(&mut self, [exceptions, nmis]: [u64; 2]) {
        let mut ist = self.tss.ist;
        ist[usize::from(ist::RESCUE) - 1] = exceptions;
        ist[usize::from(ist::RESCUE_NMI) - 1] = nmis;
        self.tss.ist = ist;
    }

    /// Loads them on this pCPU; GS base is left alone.
    pub fn load(&mut self) {
        // LTR marks the descriptor busy; it is made anew, so that the tables can be loaded once more.
        let task = Segment::tss(&raw const self.tss as u64, size_of::<Tss>() as u32);
        self.gdt = [Segment::NULL, Segment::CODE, Segment::DATA, task[0], task[1]];
        let gdt = TablePointer::new(self.gdt.as_ptr() as u64, size_of_val(&self.gdt) as u16);
        let idt = TablePointer::new(self.idt.0.as_ptr() as u64, size_of_val(&self.idt) as u16);
        // SAFETY: the tables are complete and live for ever; code and data segments are flat as before, so code and stack
        // go on.
        unsafe {
            tables::load_gdt(&gdt);
            tables::load_segments(CODE_SELECTOR, DATA_SELECTOR);
            tables::load_idt(&idt);
            tables::load_task(TSS_SELECTOR);
        }
    }
}
