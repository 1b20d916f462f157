//! Instructions that hardware leaves to software: accesses to device memory, string
//! I/O, and the lengths of what exits where hardware does not tell them.
//!
//! - [`walk`]: guest linear to guest physical; [`memory`]: loads and stores by linear address;
//! - [`decode`]: fetching and decoding; [`action`]: which instructions; [`registers`], [`alu`]: operands and flags;
//! - [`mmio`], [`port`]: the instructions themselves.

pub mod action;
pub mod alu;
pub mod decode;
pub mod memory;
pub mod mmio;
pub mod port;
pub mod registers;
pub mod walk;

use machine::addr::GuestPhys;

use super::event::Event;

/// Bytes of a repeated string instruction handled in one exit; the rest exits again, so that interrupts get in.
pub const STRING_BYTES_PER_EXIT: u64 = 4096;

/// The longest instruction (APM3 1.1).
pub const MAX_INSTRUCTION: usize = 15;

/// Instruction bytes, for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct InstructionBytes {
    /// The bytes from RIP on.
    pub bytes: [u8; MAX_INSTRUCTION],
    /// How many could be fetched.
    pub length: usize,
}

impl InstructionBytes {
    /// The bytes that were fetched.
    #[must_use]
    pub fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&[])
    }
}

/// Why an instruction was not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest gets this event; `cr2` is set for page faults.
    Event {
        /// The event.
        event: Event,
        /// The new CR2.
        cr2: Option<u64>,
    },
    /// The instruction is not one that is emulated.
    NotEmulated(InstructionBytes),
    /// The guest's page tables or instructions are not in its RAM.
    NotRam(GuestPhys),
}
