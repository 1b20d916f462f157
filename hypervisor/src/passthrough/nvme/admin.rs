//! The admin queue of an NVMe controller: one command at a time, polled. Numbers in brackets are sections of the NVM
//! Express base specification 1.4; the device is not trusted: every wait ends, and only copies of what it wrote are looked at.

use core::sync::atomic::{Ordering, fence};

use machine::access::{Clock, Registers};

use super::error::NvmeError;
use crate::net::dma::DmaMemory;

/// Bytes of DMA memory that [`Admin::start`] needs, a page each: submissions, completions, data.
pub const DMA_BYTES: usize = DATA + PAGE;
/// Bytes of registers that must be there: all that is used with the smallest doorbell stride.
pub const REGISTER_BYTES: usize = DOORBELLS + 8;
/// Bytes of registers with the largest stride: 128 KiB from one doorbell to the next.
pub const MOST_REGISTER_BYTES: usize = DOORBELLS + (4 << 15) + 4;
/// Bytes of data that a command moves at most.
pub const PAGE: usize = 4096;

const COMPLETIONS: usize = PAGE;
const DATA: usize = 2 * PAGE;

/// Registers [3.1].
const CAP: usize = 0x00;
const INTMS: usize = 0x0c;
const CC: usize = 0x14;
const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
const DOORBELLS: usize = 0x1000;

/// CC [3.1.5]: enabled, 64-byte submissions, 16-byte completions, 4 KiB pages.
const CC_ENABLE: u32 = 1 | 6 << 16 | 4 << 20;
/// CC.CSS: a controller without I/O commands is enabled like this.
const CC_ADMIN_ONLY: u32 = 7 << 4;
/// CAP.CSS, bit 37: the NVM command set.
const CAP_NVM: u64 = 1 << 37;
const CSTS_READY: u32 = 1;
const CSTS_FATAL: u32 = 2;

/// Entries of both queues.
const ENTRIES: u16 = 16;
/// Opcode of Identify [5.15].
const IDENTIFY: u8 = 0x06;
/// Longest wait for a command's completion, in milliseconds. The specification names none.
const COMMAND_MS: u64 = 10_000;

/// A command as far as it differs from others [4.2].
#[derive(Clone, Copy, Debug, Default)]
pub struct Command {
    /// Opcode.
    pub opcode: u8,
    /// Namespace.
    pub namespace: u32,
    /// The data page goes with it, or comes back.
    pub data: bool,
    /// Double words 10 and 11.
    pub words: [u32; 2],
}

/// An enabled controller's admin queue. `R` is BAR 0, `M` the DMA memory, `C` the clock of the bounded waits.
pub struct Admin<R, M, C> {
    registers: R,
    memory: M,
    clock: C,
    /// Bytes from a doorbell to the next.
    stride: usize,
    tail: u16,
    head: u16,
    /// Of a completion that is new.
    phase: bool,
    id: u16,
}

impl<R: Registers, M: DmaMemory, C: Clock> Admin<R, M, C> {
    /// Resets the controller and enables it with an admin queue of its own [7.6.1].
    ///
    /// Memory decoding and bus mastering are on and the DMA memory is mapped in the controller's domain before.
    ///
    /// # Errors
    /// The controller is not one that can be used, or does not obey.
    pub fn start(registers: R, memory: M, clock: C) -> Result<Self, (NvmeError, M)> {
        let mut admin = Self { registers, memory, clock, stride: 4, tail: 0, head: 0, phase: true, id: 0 };
        match admin.enable() {
            Ok(()) => Ok(admin),
            Err(error) => Err((error, admin.memory)),
        }
    }

    /// The DMA memory. The controller stays enabled, and whatever it does it must not reach the memory any more.
    pub fn into_memory(self) -> M {
        self.memory
    }

    fn enable(&mut self) -> Result<(), NvmeError> {
        let bar = &self.registers;
        let capabilities = bar.read64(CAP);
        if capabilities == u64::MAX {
            return Err(NvmeError::Absent);
        }
        // CAP.MPSMIN: the smallest page is 4 KiB << this.
        if capabilities >> 48 & 0xf != 0 || self.memory.bytes() < DMA_BYTES {
            return Err(NvmeError::Unsupported("pages of 4 KiB (CAP.MPSMIN)"));
        }
        // CAP.DSTRD: 4 << this.
        self.stride = 4 << (capabilities >> 32 & 0xf);
        // CAP.TO: units of 500 ms; two minutes at most.
        let patience = (capabilities >> 24 & 0xff).max(1) * 500;
        bar.write32(CC, 0);
        self.ready(false, patience)?;
        let bar = &self.registers;
        // Polled: all interrupts are masked [3.1.3].
        bar.write32(INTMS, u32::MAX);
        for offset in (0..DATA).step_by(8) {
            self.memory.write_u64(offset, 0);
        }
        let last = u32::from(ENTRIES - 1);
        bar.write32(AQA, last << 16 | last);
        bar.write64(ASQ, self.memory.iova(0));
        bar.write64(ACQ, self.memory.iova(COMPLETIONS));
        fence(Ordering::Release);
        bar.write32(CC, if capabilities & CAP_NVM == 0 { CC_ENABLE | CC_ADMIN_ONLY } else { CC_ENABLE });
        self.ready(true, patience)
    }

    /// Waits until the controller is ready or not.
    fn ready(&self, wanted: bool, patience: u64) -> Result<(), NvmeError> {
        let bar = &self.registers;
        let mut status = 0;
        let come = self.clock.wait_for(patience, &mut || {
            status = bar.read32(CSTS);
            // A fatal state stays until the reset that is waited for.
            status == u32::MAX || (status & CSTS_READY != 0) == wanted || wanted && status & CSTS_FATAL != 0
        });
        match status {
            u32::MAX => Err(NvmeError::Absent),
            _ if wanted && status & CSTS_FATAL != 0 => Err(NvmeError::Fatal),
            _ if !come => Err(NvmeError::NotReady { wanted, ms: patience }),
            _ => Ok(()),
        }
    }

    /// Has a command done. Returns double word 0 of the completion.
    ///
    /// # Errors
    /// The controller refuses it, or does not answer; then nothing more can be asked.
    pub fn command(&mut self, command: Command) -> Result<u32, NvmeError> {
        let Command { opcode, namespace, data, words: [word10, word11] } = command;
        self.id = self.id.wrapping_add(1);
        let head = u64::from(opcode) | u64::from(self.id) << 16 | u64::from(namespace) << 32;
        let address = if data { self.memory.iova(DATA) } else { 0 };
        // Opcode, id, namespace; two reserved; metadata; PRP 1 and 2; double words 10 to 15 [4.2].
        let words = [head, 0, 0, address, 0, u64::from(word10) | u64::from(word11) << 32, 0, 0];
        for (index, word) in words.into_iter().enumerate() {
            self.memory.write_u64(usize::from(self.tail) * 64 + index * 8, word);
        }
        self.tail = (self.tail + 1) % ENTRIES;
        fence(Ordering::Release);
        self.registers.write32(DOORBELLS, self.tail.into());
        let [result, last] = self.completion().ok_or(NvmeError::Silent { opcode, ms: COMMAND_MS })?;
        if (last >> 32) as u16 != self.id {
            return Err(NvmeError::Confused { opcode });
        }
        // Status type in bits 10:8, code in 7:0 [4.6.1].
        match (last >> 49) as u16 & 0x7ff {
            0 => Ok(result as u32),
            status => Err(NvmeError::Refused { opcode, status }),
        }
    }

    /// Waits for the next completion [4.6].
    fn completion(&mut self) -> Option<[u64; 2]> {
        let at = COMPLETIONS + usize::from(self.head) * 16;
        let (memory, phase) = (&self.memory, self.phase);
        let mut last = 0;
        let come = self.clock.wait_for(COMMAND_MS, &mut || {
            last = memory.read_u64(at + 8);
            (last >> 48 & 1 != 0) == phase
        });
        if !come {
            return None;
        }
        // The rest was written before the phase.
        fence(Ordering::Acquire);
        let first = self.memory.read_u64(at);
        self.head = (self.head + 1) % ENTRIES;
        if self.head == 0 {
            self.phase = !self.phase;
        }
        self.registers.write32(DOORBELLS + self.stride, self.head.into());
        Some([first, last])
    }

    /// Asks for a data structure [5.15], which [`data`](Self::data) then has.
    ///
    /// # Errors
    /// See [`command`](Self::command).
    pub fn identify(&mut self, structure: u8, controller: u16, namespace: u32) -> Result<(), NvmeError> {
        self.fill(&[]);
        let words = [u32::from(structure) | u32::from(controller) << 16, 0];
        self.command(Command { opcode: IDENTIFY, namespace, data: true, words })?;
        Ok(())
    }

    /// Copies out of the data page.
    #[must_use]
    pub fn data<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read(DATA + offset, &mut bytes);
        bytes
    }

    /// Puts `words` into the data page, and zeroes behind them.
    pub fn fill(&mut self, words: &[u64]) {
        let words = words.iter().copied().chain(core::iter::repeat(0));
        for (offset, word) in (0..PAGE).step_by(8).zip(words) {
            self.memory.write_u64(DATA + offset, word);
        }
    }
}
