//! The oldest way into Linux: its own real-mode code, which asks the BIOS (boot.rst, "Running the Kernel").

use zerocopy::IntoBytes;

use super::header::{self, SetupHeader};
use super::{BzImage, Entry};
use crate::bios;
use crate::entry::put;
use crate::error::{LoadError, Problem};
use crate::layout::{GuestMap, REAL_MODE_KERNEL};
use crate::memory::GuestMemory;
use machine::addr::GuestPhys;

/// The segment of the real-mode code, its heap and its stack.
const SEGMENT: u16 = (REAL_MODE_KERNEL.get() >> 4) as u16;
/// The entry lies one sector behind the header's (boot.rst).
const ENTRY_SEGMENT: u16 = SEGMENT + 0x20;
/// The end of heap and stack in the segment (boot.rst, "the memory layout").
const STACK_TOP: u16 = 0xE000;
/// `heap_end_ptr` is this much below the end.
const STACK_RESERVE: u16 = 0x200;
/// The most bytes of real-mode code: room for heap and stack is left.
const MAX_SETUP: u64 = 0xC000;

impl BzImage<'_> {
    /// Puts the real-mode code with the filled-in `header` into its place, and what it calls.
    pub(super) fn enter_real_mode(
        &self,
        mut header: SetupHeader,
        map: &GuestMap,
        memory: &mut dyn GuestMemory,
    ) -> Result<Entry, LoadError> {
        let sectors = u64::from(header.setup_sects);
        if self.setup.len() as u64 > MAX_SETUP {
            return Err(LoadError::new(self.name, Problem::Malformed { field: "setup_sects", value: sectors }));
        }
        header.loadflags |= header::CAN_USE_HEAP;
        header.heap_end_ptr = (STACK_TOP - STACK_RESERVE).into();
        put(memory, self.name, REAL_MODE_KERNEL, self.setup)?;
        // Fields that the image does not have stay what they are there: code.
        let bytes = header.as_bytes().get(..self.header_bytes).unwrap_or_default();
        put(memory, self.name, GuestPhys(REAL_MODE_KERNEL.get() + header::HEADER_OFFSET as u64), bytes)?;
        bios::install(self.name, map, memory)?;
        Ok(Entry::real16(ENTRY_SEGMENT, 0, SEGMENT, STACK_TOP))
    }
}
