//! What the driver needs from outside, in one hand.

use machine::access::{Clock, TableMemory};
use machine::addr::HostPhys;

/// Memory that units walk, and time. Registers are each unit's own.
pub struct Platform<'a> {
    /// Memory for tables and queues.
    pub mem: &'a mut dyn TableMemory,
    /// Time for bounded waits.
    pub clock: &'a dyn Clock,
}

/// Memory as a set of units needs it: without write-back when all of them snoop.
pub(crate) struct Walked<'a> {
    pub(crate) mem: &'a mut dyn TableMemory,
    /// All walkers snoop the CPU's caches (ECAP.C = 1).
    pub(crate) coherent: bool,
}

impl TableMemory for Walked<'_> {
    fn allocate(&mut self) -> Option<HostPhys> {
        self.mem.allocate()
    }
    fn free(&mut self, frame: HostPhys) {
        self.mem.free(frame);
    }
    fn read(&self, entry: HostPhys) -> u64 {
        self.mem.read(entry)
    }
    fn write(&mut self, entry: HostPhys, value: u64) {
        self.mem.write(entry, value);
    }
    fn update(&mut self, entry: HostPhys, clear: u64, set: u64) -> u64 {
        self.mem.update(entry, clear, set)
    }
    fn write_run(&mut self, first: HostPhys, count: u64, value: u64, step: u64) {
        self.mem.write_run(first, count, value, step);
    }
    fn read_run(&self, first: HostPhys, into: &mut [u64]) {
        self.mem.read_run(first, into);
    }
    fn any_low(&self, first: HostPhys, count: u64) -> u64 {
        self.mem.any_low(first, count)
    }
    fn write_pair(&mut self, entry: HostPhys, value: [u64; 2]) {
        self.mem.write_pair(entry, value);
    }
    fn flush(&mut self, address: HostPhys, bytes: u64) {
        if !self.coherent {
            self.mem.flush(address, bytes);
        }
    }
}
