//! How logic reaches hardware: traits with one implementation on the bare
//! target and another, a model, in the tests on the host.

use crate::addr::HostPhys;

/// Memory that hardware walks: page tables, IOMMU structures, queues.
///
/// Entries are 8-byte aligned and read and written whole, as hardware sees them.
pub trait TableMemory {
    /// A zeroed 4 KiB frame, or `None` when memory is exhausted.
    fn allocate(&mut self) -> Option<HostPhys>;
    /// Returns a frame got from [`allocate`](Self::allocate). The caller has made
    /// sure that no hardware can still hold a reference to it.
    fn free(&mut self, frame: HostPhys);
    /// Reads the 8-byte entry at `entry`.
    fn read(&self, entry: HostPhys) -> u64;
    /// Writes the 8-byte entry at `entry` in one store, ordered after earlier writes.
    fn write(&mut self, entry: HostPhys, value: u64);
    /// Clears `clear` and sets `set` in the 8-byte entry at `entry` in one atomic step,
    /// ordered after earlier writes, and returns what it held before. Nothing that
    /// hardware sets meanwhile (accessed, dirty) is lost.
    fn update(&mut self, entry: HostPhys, clear: u64, set: u64) -> u64;
    /// Writes `count` consecutive entries of one table from `first`: `value`, then
    /// `step` more each time. Each is one [`write`](Self::write).
    fn write_run(&mut self, first: HostPhys, count: u64, value: u64, step: u64) {
        let mut value = value;
        for entry in (first.0..first.0 + count * 8).step_by(8) {
            self.write(HostPhys(entry), value);
            value = value.wrapping_add(step);
        }
    }
    /// Reads consecutive entries of one table from `first`, each as [`read`](Self::read).
    fn read_run(&self, first: HostPhys, into: &mut [u64]) {
        let mut entry = first;
        for value in into {
            *value = self.read(entry);
            entry.0 += 8;
        }
    }
    /// The lower halves of `count` consecutive 16-byte entries from `first`, or-ed: whether any of them has a bit.
    fn any_low(&self, first: HostPhys, count: u64) -> u64 {
        (0..count).fold(0, |all, index| all | self.read(HostPhys(first.0 + index * 16)))
    }
    /// Writes the 16-byte entry at `entry` in one 16-byte store (`[low, high]`),
    /// ordered after earlier writes. Needed where hardware may fetch both halves
    /// of a live entry (VT-d 9: root, context, interrupt remapping entries).
    fn write_pair(&mut self, entry: HostPhys, value: [u64; 2]);
    /// Writes back `bytes` at `address` from the CPU's caches, for walkers that do
    /// not snoop (VT-d ECAP.C = 0).
    fn flush(&mut self, address: HostPhys, bytes: u64);
}

/// A block of memory-mapped registers, addressed by byte offset.
pub trait Registers {
    /// Reads the 32-bit register at `offset`.
    fn read32(&self, offset: usize) -> u32;
    /// Writes the 32-bit register at `offset`.
    fn write32(&self, offset: usize, value: u32);
    /// Reads the 64-bit register at `offset`.
    fn read64(&self, offset: usize) -> u64;
    /// Writes the 64-bit register at `offset`.
    fn write64(&self, offset: usize, value: u64);
}

/// A source of time for bounded waits.
pub trait Clock {
    /// Ticks since an arbitrary moment; monotonic.
    fn ticks(&self) -> u64;
    /// Ticks per millisecond.
    fn ticks_per_ms(&self) -> u64;
    /// Waits for `condition`, at most `ms` milliseconds. Returns whether it held.
    #[must_use]
    fn wait_for(&self, ms: u64, condition: &mut dyn FnMut() -> bool) -> bool {
        let deadline = self.ticks().saturating_add(ms.saturating_mul(self.ticks_per_ms()));
        loop {
            if condition() {
                return true;
            }
            if self.ticks() >= deadline {
                return condition();
            }
            core::hint::spin_loop();
        }
    }
}

/// How many bytes a port or configuration access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Long,
}

impl Width {
    /// In bytes: 1, 2 or 4.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Long => 4,
        }
    }

    /// The width of so many bytes, if there is one.
    #[must_use]
    pub const fn from_bytes(bytes: u8) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Long),
            _ => None,
        }
    }

    /// What an empty bus answers.
    #[must_use]
    pub const fn all_ones(self) -> u32 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Long => 0xffff_ffff,
        }
    }
}

/// I/O ports. A port that nobody answers reads as all ones.
pub trait Ports {
    /// IN from `port`.
    fn read(&self, port: u16, width: Width) -> u32;
    /// OUT to `port`.
    fn write(&self, port: u16, width: Width, value: u32);
}
