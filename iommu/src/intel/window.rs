//! The registers of one unit, typed, and the bounded waits on them.

use super::spec::registers::{
    Capability, ExtendedCapability, FaultStatus, Global, PMEN_ENABLE, PMEN_STATUS, QUEUE_OFFSET_MASK, QueueError,
    offset,
};
use crate::error::Error;
use machine::access::{Clock, Registers};
use machine::addr::HostPhys;

/// How long a global command may take, in milliseconds. Hardware needs microseconds;
/// outstanding requests are drained meanwhile.
pub(crate) const COMMAND_MS: u64 = 1_000;

/// The registers of one unit.
#[derive(Debug)]
pub(crate) struct Window<R> {
    pub(crate) base: HostPhys,
    pub(crate) regs: R,
}

impl<R: Registers> Window<R> {
    pub(crate) fn timeout(&self, wait: &'static str) -> Error {
        Error::Timeout { unit: self.base, wait }
    }

    pub(crate) fn capability(&self) -> Capability {
        Capability::from_bits(self.regs.read64(offset::CAP))
    }

    pub(crate) fn extended_capability(&self) -> ExtendedCapability {
        ExtendedCapability::from_bits(self.regs.read64(offset::ECAP))
    }

    pub(crate) fn status(&self) -> Global {
        Global::from_bits_truncate(self.regs.read32(offset::GSTS))
    }

    pub(crate) fn fault_status(&self) -> FaultStatus {
        FaultStatus::from_bits_truncate(self.regs.read32(offset::FSTS))
    }

    /// Clears write-one-to-clear bits of FSTS, and no others.
    pub(crate) fn clear_fault_status(&self, bits: FaultStatus) {
        self.regs.write32(offset::FSTS, bits.bits());
    }

    /// IQERCD; zero on units that do not have it.
    pub(crate) fn queue_error(&self) -> QueueError {
        QueueError::from_bits(self.regs.read64(offset::IQERCD))
    }

    /// Head of the queue: the next descriptor's offset in bytes.
    pub(crate) fn head(&self) -> u64 {
        self.regs.read64(offset::IQH) & QUEUE_OFFSET_MASK
    }

    /// Tail of the queue, likewise.
    pub(crate) fn tail(&self) -> u64 {
        self.regs.read64(offset::IQT) & QUEUE_OFFSET_MASK
    }

    pub(crate) fn set_tail(&self, offset: u64) {
        self.regs.write64(offset::IQT, offset);
    }

    /// Turns one persistent bit of GCMD on or off and waits until GSTS shows it.
    pub(crate) fn switch(&self, clock: &dyn Clock, bit: Global, on: bool, wait: &'static str) -> Result<(), Error> {
        let mut command = self.status() & Global::PERSISTENT;
        command.set(bit, on);
        self.regs.write32(offset::GCMD, command.bits());
        let reached = clock.wait_for(COMMAND_MS, &mut || self.status().contains(bit) == on);
        if reached { Ok(()) } else { Err(self.timeout(wait)) }
    }

    /// Has a one-shot bit of GCMD act and waits until GSTS shows `done` as the bit.
    pub(crate) fn fire(&self, clock: &dyn Clock, bit: Global, done: bool, wait: &'static str) -> Result<(), Error> {
        let command = (self.status() & Global::PERSISTENT) | bit;
        self.regs.write32(offset::GCMD, command.bits());
        let reached = clock.wait_for(COMMAND_MS, &mut || self.status().contains(bit) == done);
        if reached { Ok(()) } else { Err(self.timeout(wait)) }
    }

    /// Flushes the unit's write buffer: VT-d 6.8.
    pub(crate) fn flush_write_buffer(&self, clock: &dyn Clock) -> Result<(), Error> {
        self.fire(clock, Global::WBF, false, "the write buffer flush (GSTS.WBFS clear)")
    }

    /// Turns protected memory regions off: VT-d 11.4.16.
    pub(crate) fn disable_protected_memory(&self, clock: &dyn Clock) -> Result<(), Error> {
        let value = self.regs.read32(offset::PMEN);
        if value & (PMEN_ENABLE | PMEN_STATUS) == 0 {
            return Ok(());
        }
        self.regs.write32(offset::PMEN, value & !PMEN_ENABLE);
        let off = clock.wait_for(COMMAND_MS, &mut || self.regs.read32(offset::PMEN) & PMEN_STATUS == 0);
        if off { Ok(()) } else { Err(self.timeout("protected memory regions going off (PMEN.PRS clear)")) }
    }

    /// Waits until every descriptor of whoever had the queue is consumed.
    pub(crate) fn wait_idle(&self, clock: &dyn Clock, ms: u64) -> bool {
        clock.wait_for(ms, &mut || self.head() == self.tail())
    }
}
