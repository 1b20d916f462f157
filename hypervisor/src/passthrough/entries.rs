//! Interrupt remapping entries, from a table that grows when it is full: twice as large each time, up to what IRTA can say
//! (VT-d 11.4.4.1, 11.4.22). Indices stay, and interrupts go on arriving meanwhile. Not while an upgrade is under way: the
//! next image was told which table the unit has.

use handover::state::machine::FrameTag;
use iommu::{Bdf, Error, InterruptRange, InterruptRegion, InterruptSource, Iommu, Platform};
use machine::access::Registers;
use machine::addr::{HostPhys, PAGE_SIZE};

use super::units;
use crate::mem::frames;

/// Bytes of a remapping entry (VT-d 9.10).
const ENTRY_BYTES: u64 = 16;

/// Where tables of several frames come from.
pub trait Room {
    /// `count` zeroed frames in a row.
    fn take(&mut self, count: usize) -> Option<HostPhys>;
    /// Takes them back.
    fn give_back(&mut self, first: HostPhys, count: usize);
}

/// The arena.
pub struct Arena(pub FrameTag);

impl Room for Arena {
    fn take(&mut self, count: usize) -> Option<HostPhys> {
        frames::allocate(count, self.0)
    }

    fn give_back(&mut self, first: HostPhys, count: usize) {
        frames::with(|arena| {
            for frame in 0..count as u64 {
                arena.free(HostPhys(first.get() + frame * PAGE_SIZE));
            }
        });
    }
}

/// `count` entries in a row for the messages of `device`, which come from `source` where a bridge takes them over. `None` on a
/// machine without units.
pub fn allocate(device: Bdf, source: Option<InterruptSource>, count: u16) -> Option<Result<InterruptRange, Error>> {
    units::with(|units, platform| allocate_in(units, platform, &mut Arena(units::TAG), device, source, count))
}

/// Likewise, of these units.
///
/// # Errors
/// The table is full, and can't grow any more: no room, or not now. Or the unit does not obey.
pub fn allocate_in<R: Registers>(
    units: &mut Iommu<R>,
    platform: &mut Platform<'_>,
    room: &mut dyn Room,
    device: Bdf,
    source: Option<InterruptSource>,
    count: u16,
) -> Result<InterruptRange, Error> {
    loop {
        let range = match source {
            None => units.allocate_interrupts(platform, device, count),
            Some(source) => units.allocate_interrupts_as(platform, device, source, count),
        };
        match range {
            Err(full @ Error::NoInterruptEntry { .. }) if !grow(units, platform, room, device)? => return Err(full),
            Err(Error::NoInterruptEntry { .. }) => {}
            decided => return decided,
        }
    }
}

/// Gives the unit of `device` a table of twice the size; `false` when that can't be had.
fn grow<R: Registers>(
    units: &mut Iommu<R>,
    platform: &mut Platform<'_>,
    room: &mut dyn Room,
    device: Bdf,
) -> Result<bool, Error> {
    let Some((unit, old)) = units.unit_of(device).and_then(|unit| Some((unit, units.interrupt_region(unit)?))) else {
        return Ok(false);
    };
    let frames = |region: InterruptRegion| ((ENTRY_BYTES << region.order) / PAGE_SIZE) as usize;
    let order = old.order + 1;
    if order > InterruptRegion::MAX_ORDER {
        return Ok(false);
    }
    let wanted = frames(InterruptRegion { order, ..old });
    let Some(base) = room.take(wanted) else { return Ok(false) };
    let new = InterruptRegion { base, order };
    match units.grow_interrupts(platform, unit, new) {
        Ok(before) => {
            if let Some(before) = before {
                room.give_back(before.base, frames(before));
            }
            log::info!("the remapping table of the unit of {device} has grown to {} entries", 1u32 << order);
            Ok(true)
        }
        Err(error) => {
            // After a time-out nobody knows which table the unit reads: then both stay its own.
            if units.interrupt_region(unit) != Some(new) {
                room.give_back(base, wanted);
            }
            if let Error::Busy { .. } = error { Ok(false) } else { Err(error) }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use iommu::model::{Delivered, Failures, ModelClock, ModelMemory, ModelUnit};
    use iommu::{InterruptTarget, Preference, Route, Token, UnitConfig, UnitIndex, msi_message};
    use machine::access::TableMemory;

    use super::*;

    const DISK: Bdf = Bdf::from_requester_id(0, 0x0300);
    const UNIT: UnitIndex = UnitIndex(0);

    /// Fresh frames in a row, so many in all; and what came back.
    struct Frames {
        mem: ModelMemory,
        left: usize,
        back: Vec<(HostPhys, usize)>,
    }

    impl Room for Frames {
        fn take(&mut self, count: usize) -> Option<HostPhys> {
            self.left = self.left.checked_sub(count)?;
            let frames: Vec<HostPhys> = (0..count).map(|_| self.mem.allocate().unwrap()).collect();
            assert!(frames.windows(2).all(|two| two[1].0 == two[0].0 + PAGE_SIZE));
            frames.first().copied()
        }

        fn give_back(&mut self, first: HostPhys, count: usize) {
            self.left += count;
            self.back.push((first, count));
        }
    }

    struct Machine {
        mem: ModelMemory,
        clock: ModelClock,
        unit: ModelUnit,
        iommu: Iommu<ModelUnit>,
        room: Frames,
        first: HostPhys,
    }

    impl Machine {
        /// A unit with a table of 256 entries, one frame.
        fn new(room: usize) -> Self {
            let (mut mem, clock) = (ModelMemory::default(), ModelClock::default());
            let unit = ModelUnit::new(&mem, ModelUnit::CAP, ModelUnit::ECAP);
            let first = mem.allocate().unwrap();
            let config = UnitConfig {
                base: HostPhys(0xfed9_0000),
                segment: 0,
                register_bytes: 0x1000,
                x2apic: true,
                interrupts: Some(InterruptRegion { base: first, order: 8 }),
                fault_event: None,
                mode: Preference::Auto,
            };
            let routes = vec![Route::segment(0, UNIT)];
            let platform = &mut Platform { mem: &mut mem, clock: &clock };
            let iommu = Iommu::init_cold(vec![(config, unit.clone())], routes, platform).unwrap();
            let room = Frames { mem: mem.clone(), left: room, back: Vec::new() };
            Self { mem, clock, unit, iommu, room, first }
        }

        fn allocate(&mut self, count: u16) -> Result<InterruptRange, Error> {
            let platform = &mut Platform { mem: &mut self.mem, clock: &self.clock };
            allocate_in(&mut self.iommu, platform, &mut self.room, DISK, None, count)
        }

        fn point(&mut self, index: u16, vector: u8) {
            let platform = &mut Platform { mem: &mut self.mem, clock: &self.clock };
            self.iommu.set_interrupt(platform, UNIT, index, &InterruptTarget::fixed(vector, 1)).unwrap();
        }

        fn send(&self, index: u16) -> Option<Delivered> {
            let (address, data) = msi_message(index, 0);
            self.unit.msi(DISK.requester_id(), address, data).ok()
        }
    }

    #[test]
    fn a_full_table_grows_and_interrupts_go_on() {
        let mut machine = Machine::new(512);
        assert_eq!(machine.allocate(256).unwrap().first, 0);
        machine.point(7, 0x41);
        assert!(machine.room.back.is_empty());
        let next = machine.allocate(1).unwrap();
        assert_eq!(next.first, 256);
        machine.point(256, 0x42);
        // The old frame is nobody's any more, the old entries are where they were.
        assert_eq!(machine.room.back, [(machine.first, 1)]);
        assert_eq!(machine.iommu.interrupt_region(UNIT).map(|region| region.order), Some(9));
        assert_eq!(machine.send(7), Some(Delivered { vector: 0x41, destination: 1 }));
        assert_eq!(machine.send(256), Some(Delivered { vector: 0x42, destination: 1 }));
        // As often as it takes, at once.
        assert_eq!(machine.allocate(2_048).unwrap().first, 2_048);
        assert_eq!(machine.iommu.interrupt_region(UNIT).map(|region| region.order), Some(12));
        assert_eq!(machine.send(7), Some(Delivered { vector: 0x41, destination: 1 }));
        assert!(machine.unit.violations().is_empty());
    }

    #[test]
    fn it_ends_at_the_most_that_a_unit_can_have_and_where_there_is_no_room() {
        let mut machine = Machine::new(1_024);
        let mut given = 0u32;
        let full = loop {
            match machine.allocate(4_096) {
                Ok(range) => given += u32::from(range.count),
                Err(error) => break error,
            }
        };
        assert_eq!(full, Error::NoInterruptEntry { unit: HostPhys(0xfed9_0000), count: 4_096 });
        assert_eq!(given, 1 << 16);
        let mut machine = Machine::new(1);
        machine.allocate(256).unwrap();
        assert!(matches!(machine.allocate(1), Err(Error::NoInterruptEntry { count: 1, .. })));
        assert_eq!(machine.room.left, 1);
    }

    /// Not in the middle of an upgrade, and not on a unit that is stuck: what it may still read stays its own.
    #[test]
    fn what_may_still_be_read_is_not_given_back() {
        let mut machine = Machine::new(64);
        machine.allocate(256).unwrap();
        machine.point(7, 0x41);
        let token = Token(9);
        let platform = &mut Platform { mem: &mut machine.mem, clock: &machine.clock };
        machine.iommu.create_domain(platform, token).unwrap();
        machine.iommu.freeze(token).unwrap();
        assert!(matches!(machine.allocate(1), Err(Error::NoInterruptEntry { .. })));
        assert_eq!((machine.room.left, machine.room.back.len()), (64, 1));
        machine.iommu.unfreeze(token).unwrap();

        // GSTS.IRTPS never shows.
        machine.unit.fail(Failures { stuck: 1 << 24, ..Failures::default() });
        assert!(matches!(machine.allocate(1), Err(Error::Timeout { .. })));
        assert_eq!((machine.room.left, machine.room.back.len()), (62, 1));
        assert_eq!(machine.send(7), Some(Delivered { vector: 0x41, destination: 1 }));
        machine.unit.fail(Failures::default());
        assert_eq!(machine.allocate(1).unwrap().first, 256);
        assert_eq!(machine.send(7), Some(Delivered { vector: 0x41, destination: 1 }));
    }
}
