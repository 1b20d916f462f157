//! The interrupt remapping table of one unit: VT-d 5.1, 9.10.
//!
//! Every entry names the source that may use it; an interrupt of anybody else
//! through it is blocked and recorded as a fault.

use super::spec::interrupts::{DeliveryMode, ENTRY_BYTES, InterruptEntry, MessageAddress, RedirectionEntry};
use super::spec::registers::InterruptTableAddress;
use super::spec::tables::pair;
use super::tables::read_pair;
use crate::platform::Platform;
use machine::access::TableMemory;
use machine::addr::{HostPhys, PAGE_SIZE};
use machine::pci::Bdf;
use machine::sorted::SortedMap;

/// Entries looked at in one go; every table has a multiple of it.
const ENTRIES_AT_ONCE: u32 = 64;

/// Log2 of the entries that one frame holds.
pub const FRAME_ORDER: u8 = 8;
/// Log2 of the most entries that a table can have.
pub const MAX_ORDER: u8 = 16;

/// Where an interrupt shall go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptTarget {
    /// The vector.
    pub vector: u8,
    /// The APIC id, or with `logical` a logical id.
    pub apic_id: u32,
    /// Destination mode.
    pub logical: bool,
    /// Redirection hint: to one of the processors that `apic_id` names.
    pub redirection_hint: bool,
    /// Level triggered.
    pub level: bool,
    /// Delivery mode.
    pub delivery: DeliveryMode,
}

impl InterruptTarget {
    /// An edge, fixed, to one processor.
    #[must_use]
    pub const fn fixed(vector: u8, apic_id: u32) -> Self {
        Self { vector, apic_id, logical: false, redirection_hint: false, level: false, delivery: DeliveryMode::FIXED }
    }
}

/// The address and data of the message that a device must send to use entry `index`
/// plus `subhandle`: VT-d 5.1.5.2. A device with several messages (MSI) adds its
/// message number to the data by itself.
#[must_use]
pub fn msi_message(index: u16, subhandle: u16) -> (u64, u32) {
    (u64::from(MessageAddress::remapped(index).into_bits()), u32::from(subhandle))
}

/// The IOAPIC redirection entry that uses entry `index`: VT-d 5.1.5.1. `vector` and
/// `level` are those of the remapping entry.
#[must_use]
pub fn redirection_entry(index: u16, vector: u8, level: bool, active_low: bool, masked: bool) -> u64 {
    RedirectionEntry::new()
        .with_vector(vector)
        .with_level(level)
        .with_active_low(active_low)
        .with_masked(masked)
        .with_remappable(true)
        .with_handle_low(index & 0x7fff)
        .with_handle_high(index & 0x8000 != 0)
        .into_bits()
}

/// An allocated entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allocated {
    /// As memory holds it.
    pub(crate) entry: InterruptEntry,
    /// The device that it was allocated for; `None`: an IOAPIC, an HPET, Baton itself.
    pub(crate) owner: Option<Bdf>,
}

/// The table and what is allocated of it.
#[derive(Debug)]
pub(crate) struct InterruptTable {
    pub(crate) base: HostPhys,
    pub(crate) order: u8,
    pub(crate) x2apic: bool,
    /// The unit snoops.
    pub(crate) coherent: bool,
    /// The frame came from `Platform::mem`, not from the caller.
    pub(crate) own_frame: bool,
    /// The table before this one, while the unit may still read it, and whether it is a frame of
    /// `Platform::mem`: see [`super::grow`].
    pub(crate) predecessor: Option<(HostPhys, bool)>,
    pub(crate) entries: SortedMap<u16, Allocated>,
}

impl InterruptTable {
    pub(crate) fn new(base: HostPhys, order: u8, x2apic: bool, coherent: bool, own_frame: bool) -> Self {
        Self { base, order, x2apic, coherent, own_frame, predecessor: None, entries: SortedMap::new() }
    }

    pub(crate) fn register(&self) -> InterruptTableAddress {
        InterruptTableAddress::new(self.base, self.order, self.x2apic)
    }

    pub(crate) fn size(&self) -> u32 {
        1 << self.order
    }

    /// Bytes of the table: at least a frame.
    pub(crate) fn bytes(&self) -> u64 {
        (u64::from(self.size()) * ENTRY_BYTES).max(PAGE_SIZE)
    }

    /// Finds `count` free entries in a row, aligned to the next power of two.
    pub(crate) fn find(&self, count: u16) -> Option<u16> {
        let run = u32::from(count.max(1)).next_power_of_two();
        let mut first = 0;
        while first + run <= self.size() {
            let range = u16::try_from(first).ok()?..=u16::try_from(first + run - 1).ok()?;
            if self.entries.range(range).next().is_none() {
                return u16::try_from(first).ok();
            }
            first += run;
        }
        None
    }

    /// A present entry that sends interrupts to `target`; it verifies the source as `old` does.
    /// `None`: the APIC id has no place in it.
    pub(crate) fn entry(&self, old: InterruptEntry, target: &InterruptTarget) -> Option<InterruptEntry> {
        Some(
            blocked(old)
                .with_present(true)
                .with_logical(target.logical)
                .with_redirection_hint(target.redirection_hint)
                .with_level(target.level)
                .with_delivery(target.delivery)
                .with_vector(target.vector)
                .with_destination(destination(self.x2apic, target.apic_id)?),
        )
    }

    /// Writes the allocated entry `index` at once. The cache still holds the old one.
    pub(crate) fn store(&mut self, platform: &mut Platform<'_>, index: u16, new: Allocated) {
        let at = self.place(index);
        platform.mem.write_pair(at, pair(new.entry.into_bits()));
        if !self.coherent {
            platform.mem.flush(at, ENTRY_BYTES);
        }
        self.entries.insert(index, new);
    }

    /// What memory holds at `index`.
    pub(crate) fn read(&self, mem: &dyn TableMemory, index: u16) -> InterruptEntry {
        InterruptEntry::from_bits(read_pair(mem, self.place(index)))
    }

    /// The first entry that is present in memory and that `wanted` asks for.
    pub(crate) fn first_present(&self, mem: &dyn TableMemory, wanted: impl Fn(u16) -> bool) -> Option<u16> {
        // VT-d 9.10: P is bit 0 of the lower half.
        let low = |first: u32, count: u32| {
            mem.any_low(HostPhys(self.base.0 + u64::from(first) * ENTRY_BYTES), u64::from(count)) & 1 != 0
        };
        let full = (0..self.size()).step_by(ENTRIES_AT_ONCE as usize).filter(|first| low(*first, ENTRIES_AT_ONCE));
        let mut present = full.flat_map(|first| first..first + ENTRIES_AT_ONCE).filter(|index| low(*index, 1));
        present.find_map(|index| u16::try_from(index).ok().filter(|index| wanted(*index)))
    }

    /// Calls `visit` with every frame of the table.
    pub(crate) fn for_each_frame(&self, visit: &mut dyn FnMut(HostPhys)) {
        for offset in (0..self.bytes()).step_by(PAGE_SIZE as usize) {
            visit(HostPhys(self.base.0 + offset));
        }
    }

    fn place(&self, index: u16) -> HostPhys {
        HostPhys(self.base.0 + u64::from(index) * ENTRY_BYTES)
    }
}

/// An entry that is not present, and verifies the source as `old` does: the same bits in both formats.
pub(crate) fn blocked(old: InterruptEntry) -> InterruptEntry {
    InterruptEntry::new()
        .with_source(old.source())
        .with_source_qualifier(old.source_qualifier())
        .with_validation(old.validation())
}

/// An APIC id as DST and NDST hold it: with EIME = 0 in bits 15:8 (VT-d 9.10, 9.12).
pub(crate) fn destination(x2apic: bool, apic_id: u32) -> Option<u32> {
    match (x2apic, u8::try_from(apic_id)) {
        (true, _) => Some(apic_id),
        (false, Ok(id)) => Some(u32::from(id) << 8),
        (false, Err(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::InterruptSource;

    /// Addresses as in VT-d 5.1.5.2 and Linux's fill_msi_msg(); the redirection entry as in VT-d 5.1.5.1.
    #[test]
    fn messages() {
        assert_eq!(msi_message(3, 0), (0xfee0_0078, 0));
        assert_eq!(msi_message(0x8001, 2), (0xfee0_003c, 2));
        assert_eq!(redirection_entry(2, 0x31, true, true, true), 0x0005_0000_0001_a031);
        assert_eq!(redirection_entry(0x8000, 0x22, false, false, false), 0x0001_0000_0000_0822);
    }

    fn table(x2apic: bool) -> InterruptTable {
        InterruptTable::new(HostPhys(0x1000), 4, x2apic, true, true)
    }

    #[test]
    fn allocation_is_aligned_and_bounded() {
        struct Marked(InterruptTable);
        impl Marked {
            fn allocate(&mut self, count: u16) -> Option<u16> {
                let first = self.0.find(count)?;
                for index in first..first + count {
                    let free = Allocated { entry: InterruptEntry::new(), owner: None };
                    assert_eq!(self.0.entries.insert(index, free), None);
                }
                Some(first)
            }
        }
        let mut table = Marked(table(true));
        assert_eq!(table.allocate(1), Some(0));
        assert_eq!(table.allocate(3), Some(4));
        assert_eq!(table.allocate(1), Some(1));
        assert_eq!(table.allocate(8), Some(8));
        assert_eq!(table.allocate(2), Some(2));
        assert_eq!(table.allocate(1), Some(7));
        assert_eq!(table.allocate(1), None);
        assert_eq!(table.allocate(u16::MAX), None);
    }

    /// VT-d 9.10: DST is 32 bits wide with EIME, bits 15:8 without.
    #[test]
    fn destinations() {
        let bound = InterruptSource::Function(0x0108).bind(InterruptEntry::new());
        let entry =
            |x2apic, id| table(x2apic).entry(bound, &InterruptTarget::fixed(0x41, id)).map(|e| pair(e.into_bits()));
        assert_eq!(entry(true, 0x300), Some([0x0000_0300_0041_0001, 0x4_0108]));
        assert_eq!(entry(false, 3), Some([0x0000_0300_0041_0001, 0x4_0108]));
        assert_eq!(entry(false, 0x100), None);
    }
}
