//! Interrupt remapping entries: allocated by device, bound to one source.

use crate::error::Error;
use crate::fleet::Iommu;
use crate::ids::UnitIndex;
use crate::intel::remap::{InterruptTable, InterruptTarget};
use crate::intel::spec::interrupts::{InterruptEntry, SourceValidation};
use crate::intel::spec::invalidation::Descriptor;
use crate::intel::unit::Unit;
use crate::platform::Platform;
use machine::access::Registers;
use machine::pci::Bdf;

/// A run of interrupt remapping entries of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptRange {
    /// The unit whose table they are in.
    pub unit: UnitIndex,
    /// The first index.
    pub first: u16,
    /// How many.
    pub count: u16,
}

impl<R: Registers> Iommu<R> {
    /// Whether the unit of a device remaps interrupts.
    #[must_use]
    pub fn remaps_interrupts(&self, device: Bdf) -> bool {
        let unit = self.unit_of(device).and_then(|unit| self.units.get(unit.0));
        unit.is_some_and(|unit| unit.interrupts.is_some())
    }

    /// Allocates `count` entries in a row for the messages of `device`. None is present
    /// yet: interrupts through them are blocked.
    pub fn allocate_interrupts(
        &mut self,
        platform: &mut Platform<'_>,
        device: Bdf,
        count: u16,
    ) -> Result<InterruptRange, Error> {
        let unit = self.unit_of(device).ok_or(Error::NoUnit { device })?;
        self.allocate_interrupts_at(platform, unit, device.requester_id(), count)
    }

    /// Likewise for a source that is no PCI function (an IOAPIC, an HPET) or whose
    /// messages bear another requester id: `unit` and `source` as the DMAR table says.
    pub fn allocate_interrupts_at(
        &mut self,
        platform: &mut Platform<'_>,
        unit: UnitIndex,
        source: u16,
        count: u16,
    ) -> Result<InterruptRange, Error> {
        self.must_be_live()?;
        let unit_ref = self.unit_mut(unit)?;
        let base = unit_ref.base();
        let table = interrupts(unit_ref)?;
        let first = table.find(count).ok_or(Error::NoInterruptEntry { unit: base, count })?;
        let entry = InterruptEntry::new().with_source(source).with_validation(SourceValidation::SOURCE);
        let count = count.max(1);
        for index in first..=first + (count - 1) {
            // Not present before and after, and forgotten when it was freed.
            table.store(platform, index, entry);
        }
        Ok(InterruptRange { unit, first, count })
    }

    /// Points an entry at `target`, in one store; the source that it was allocated for
    /// stays. Interrupts in flight arrive at the old or the new target.
    pub fn set_interrupt(
        &mut self,
        platform: &mut Platform<'_>,
        unit: UnitIndex,
        index: u16,
        target: &InterruptTarget,
    ) -> Result<(), Error> {
        self.must_be_live()?;
        let unit = self.unit_mut(unit)?;
        let base = unit.base();
        let table = interrupts(unit)?;
        let source = table.entries.get(&index).ok_or(Error::NoSuchInterrupt { unit: base, index })?.source();
        let entry = table.entry(source, target).ok_or(Error::Destination { unit: base, apic_id: target.apic_id })?;
        unit.set_interrupt(platform, index, entry)
    }

    /// Blocks an entry. It stays allocated.
    pub fn clear_interrupt(&mut self, platform: &mut Platform<'_>, unit: UnitIndex, index: u16) -> Result<(), Error> {
        self.must_be_live()?;
        let unit = self.unit_mut(unit)?;
        let base = unit.base();
        let table = interrupts(unit)?;
        let old = table.entries.get(&index).ok_or(Error::NoSuchInterrupt { unit: base, index })?;
        let entry = InterruptEntry::new().with_source(old.source()).with_validation(SourceValidation::SOURCE);
        unit.set_interrupt(platform, index, entry)
    }

    /// Blocks and frees entries. They may be given to others when this returns `Ok`;
    /// after an error they stay allocated.
    pub fn free_interrupts(&mut self, platform: &mut Platform<'_>, range: InterruptRange) -> Result<(), Error> {
        self.must_be_live()?;
        let unit = self.unit_mut(range.unit)?;
        let base = unit.base();
        let table = interrupts(unit)?;
        let last = range.first.saturating_add(range.count.saturating_sub(1));
        let missing = (range.first..=last).find(|index| !table.entries.contains_key(index));
        if let Some(index) = missing {
            return Err(Error::NoSuchInterrupt { unit: base, index });
        }
        for index in range.first..=last {
            table.store(platform, index, InterruptEntry::new());
        }
        let batch: alloc::vec::Vec<Descriptor> =
            (range.first..=last).map(|index| Descriptor::interrupt_index(index, 0)).collect();
        unit.submit(platform, &batch)?;
        let table = interrupts(unit)?;
        for index in range.first..=last {
            table.entries.remove(&index);
        }
        Ok(())
    }

    /// The source that may use an allocated entry.
    #[must_use]
    pub fn interrupt_source(&self, unit: UnitIndex, index: u16) -> Option<u16> {
        self.units.get(unit.0)?.interrupts.as_ref()?.entries.get(&index).map(|entry| entry.source())
    }
}

fn interrupts<R: Registers>(unit: &mut Unit<R>) -> Result<&mut InterruptTable, Error> {
    let base = unit.base();
    let what = "interrupt remapping (ECAP.IR)";
    unit.interrupts.as_mut().ok_or(Error::Unsupported { unit: base, what })
}
