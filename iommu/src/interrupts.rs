//! Interrupt remapping entries: allocated by device, bound to one source.

use crate::error::Error;
use crate::fleet::Iommu;
use crate::ids::UnitIndex;
use crate::intel::cold::InterruptRegion;
use crate::intel::remap::{Allocated, InterruptTarget, blocked};
use crate::intel::spec::interrupts::{InterruptEntry, PostedEntry};
use crate::platform::Platform;
use crate::posted::PostedDescriptor;
use crate::sources::InterruptSource;
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

    /// Entries that are allocated, over all units.
    #[must_use]
    pub fn interrupts_in_use(&self) -> u64 {
        self.units.iter().filter_map(|unit| unit.interrupts.as_ref()).map(|table| table.entries.len() as u64).sum()
    }

    /// Allocates `count` entries in a row for the messages of `device`. None is present
    /// yet: interrupts through them are blocked. The aliases that it was attached with may use
    /// them as well.
    pub fn allocate_interrupts(
        &mut self,
        platform: &mut Platform<'_>,
        device: Bdf,
        count: u16,
    ) -> Result<InterruptRange, Error> {
        let unit = self.unit_of(device).ok_or(Error::NoUnit { device })?;
        let aliases = self.devices.get(&device).map_or(&[][..], |attachment| &attachment.aliases);
        let source = InterruptSource::covering(device, aliases);
        self.allocate(platform, unit, source, Some(device), count)
    }

    /// Likewise for a device whose messages a bridge sends as its own, and as those of others behind it.
    pub fn allocate_interrupts_as(
        &mut self,
        platform: &mut Platform<'_>,
        device: Bdf,
        source: InterruptSource,
        count: u16,
    ) -> Result<InterruptRange, Error> {
        let unit = self.unit_of(device).ok_or(Error::NoUnit { device })?;
        self.allocate(platform, unit, source, Some(device), count)
    }

    /// Likewise for a source that is no PCI function (an IOAPIC, an HPET) or whose
    /// messages bear another requester id: `unit` and `source` as the DMAR table says.
    pub fn allocate_interrupts_at(
        &mut self,
        platform: &mut Platform<'_>,
        unit: UnitIndex,
        source: InterruptSource,
        count: u16,
    ) -> Result<InterruptRange, Error> {
        self.allocate(platform, unit, source, None, count)
    }

    fn allocate(
        &mut self,
        platform: &mut Platform<'_>,
        unit: UnitIndex,
        source: InterruptSource,
        owner: Option<Bdf>,
        count: u16,
    ) -> Result<InterruptRange, Error> {
        self.must_be_live()?;
        let unit_ref = self.unit_mut(unit)?;
        let base = unit_ref.base();
        let table = unit_ref.interrupt_table(platform)?;
        let first = table.find(count).ok_or(Error::NoInterruptEntry { unit: base, count })?;
        let entry = source.bind(InterruptEntry::new());
        let count = count.max(1);
        for index in first..=first + (count - 1) {
            // Not present before and after, and forgotten when it was freed.
            table.store(platform, index, Allocated { entry, owner });
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
        let destination = Error::Destination { unit: unit.base(), apic_id: target.apic_id };
        unit.set_interrupt(platform, index, |table, old| table.entry(old, target).ok_or(destination))
    }

    /// Has the interrupts of an entry noted in a posted interrupt descriptor, from one store on;
    /// the source stays. [`set_interrupt`](Self::set_interrupt) turns it back.
    pub fn post_interrupt(
        &mut self,
        platform: &mut Platform<'_>,
        unit: UnitIndex,
        index: u16,
        descriptor: PostedDescriptor,
        vector: u8,
        urgent: bool,
    ) -> Result<(), Error> {
        self.must_be_live()?;
        let at = descriptor.place();
        self.posted.check(at)?;
        let unit = self.unit_mut(unit)?;
        if !unit.cap.posted_interrupts() {
            return Err(Error::Unsupported { unit: unit.base(), what: "posted interrupts (CAP.PI); remap them" });
        }
        unit.set_interrupt(platform, index, |_, old| {
            Ok(InterruptEntry::from_bits(PostedEntry::of(old, at, vector, urgent).into_bits()))
        })
    }

    /// Blocks an entry. It stays allocated.
    pub fn clear_interrupt(&mut self, platform: &mut Platform<'_>, unit: UnitIndex, index: u16) -> Result<(), Error> {
        self.must_be_live()?;
        self.unit_mut(unit)?.set_interrupt(platform, index, |_, old| Ok(blocked(old)))
    }

    /// Blocks and frees entries. They may be given to others when this returns `Ok`;
    /// after an error they stay allocated.
    pub fn free_interrupts(&mut self, platform: &mut Platform<'_>, range: InterruptRange) -> Result<(), Error> {
        self.must_be_live()?;
        let unit = self.unit_mut(range.unit)?;
        let base = unit.base();
        let table = unit.interrupt_table(platform)?;
        let last = range.first.saturating_add(range.count.saturating_sub(1));
        let missing = (range.first..=last).find(|index| !table.entries.contains_key(index));
        if let Some(index) = missing {
            return Err(Error::NoSuchInterrupt { unit: base, index });
        }
        for index in range.first..=last {
            // Its source stays, should this fail and the entry be used again.
            if let Some(old) = table.entries.get(&index).copied() {
                table.store(platform, index, Allocated { entry: blocked(old.entry), ..old });
            }
        }
        let forget = unit.forget_interrupts(range.first, last);
        unit.submit(platform, &[forget])?;
        let table = unit.interrupt_table(platform)?;
        for index in range.first..=last {
            table.entries.remove(&index);
        }
        Ok(())
    }

    /// Gives a unit a larger remapping table; indices stay, and remapping stays on. Returns the
    /// old one, when it was a region of the caller's, to be freed.
    ///
    /// After a time-out both tables stay with the unit, and entries cannot be changed until it has
    /// taken the new one, which every later call tries again. `Busy` while a domain is frozen.
    pub fn grow_interrupts(
        &mut self,
        platform: &mut Platform<'_>,
        unit: UnitIndex,
        region: InterruptRegion,
    ) -> Result<Option<InterruptRegion>, Error> {
        self.must_be_live()?;
        self.domains.values().try_for_each(|domain| domain.mutable("a larger interrupt remapping table"))?;
        self.unit_mut(unit)?.grow_interrupts(platform, region)
    }

    /// Where a unit's remapping table is, and how large.
    #[must_use]
    pub fn interrupt_region(&self, unit: UnitIndex) -> Option<InterruptRegion> {
        let table = self.units.get(unit.0)?.interrupts.as_ref()?;
        Some(InterruptRegion { base: table.base, order: table.order })
    }

    /// Who may use an allocated entry.
    #[must_use]
    pub fn interrupt_source(&self, unit: UnitIndex, index: u16) -> Option<InterruptSource> {
        let table = self.units.get(unit.0)?.interrupts.as_ref()?;
        InterruptSource::of(table.entries.get(&index)?.entry)
    }
}
