//! What keeps a function from its neighbours: its end, and where its BARs may be.

use alloc::boxed::Box;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::model::{BAR0, Bed, Event, ModelFunction, bed_of, device, window};
use super::*;

/// MSI-X on, both entries routed, memory decoded, bus mastering on.
fn in_use(bed: &mut Bed) {
    bed.write(0x04, 2, 2);
    for entry in 0..2u64 {
        let at = 0xC000_2000 + entry * 16;
        for (offset, value) in [(0, 0xFEE0_0000), (4, 0), (8, 0x30 + entry), (12, 0)] {
            assert!(bed.bus.mmio_write(at + offset, 4, value));
        }
    }
    bed.write(0x42, 2, 0x8000);
    bed.write(0x04, 2, 6);
    bed.bus.take_bar_changes();
    assert_eq!(bed.routes.lock().len(), 2);
    bed.events();
}

#[test]
fn a_guest_s_end_leaves_its_functions_quiet_and_reset() {
    let mut bed = bed_of(2);
    in_use(&mut bed);
    assert_eq!(bed.bus.retire(), []);
    let events = bed.events();
    let quiet = events.iter().position(|event| *event == Event::Config(0x04, 2, 0x0402));
    let resets: Vec<usize> = (0..events.len()).filter(|index| events.get(*index) == Some(&Event::Reset)).collect();
    assert_eq!(resets.len(), 2, "{events:?}");
    assert!(quiet < resets.first().copied(), "bus mastering goes off before the reset: {events:?}");
    assert!(bed.routes.lock().is_empty());
    assert!(bed.bus.functions().is_empty());
    assert_eq!((bed.read(0x00, 4), bed.bus.mmio_read(0xC000_2000, 4)), (0xFFFF_FFFF, None));
}

#[test]
fn a_function_that_does_not_come_back_is_named() {
    let mut bed = bed_of(0);
    for (index, reset) in [(0, Ok(())), (1, Err(ResetError::TimedOut))] {
        let hardware = ModelFunction { reset, ..ModelFunction::nvme(&bed.log) };
        let function = Passthrough::new(device(index), Box::new(hardware), &[BAR0]).expect("sound");
        bed.bus.add(function).expect("a slot");
    }
    assert_eq!(bed.bus.retire(), [(device(1), ResetError::TimedOut)]);
    assert!(bed.bus.functions().is_empty());
}

/// As after a surprise removal: all ones, no BAR, no interrupt; and writes reach nobody.
#[test]
fn a_removed_function_answers_with_ones() {
    let mut bed = bed_of(2);
    in_use(&mut bed);
    bed.bus.remove(device(0));
    assert!(bed.events().contains(&Event::Config(0x04, 2, 0x0402)), "bus mastering is off");
    assert!(bed.routes.lock().is_empty());
    assert!(matches!(bed.bus.take_bar_changes()[..], [BarChange::Unmap(_)]));
    for offset in (0..0x100).step_by(4) {
        assert_eq!(bed.read(offset, 4), 0xFFFF_FFFF, "{offset:#x}");
        bed.write(offset, 4, 0);
        bed.write(offset, 4, 0xFFFF_FFFF);
    }
    assert_eq!((bed.read(0, 2), bed.bus.mmio_read(0xC000_2000, 4)), (0xFFFF, None));
    assert!(!bed.bus.mmio_write(0xC000_200C, 4, 0));
    assert_eq!(bed.events(), []);
    assert!(!bed.bus.has_bar_changes());
    // The neighbour is as it was.
    assert_eq!(bed.bus.ecam_read(2 << 15, 4), 0x0010_1B36);
}

/// Where the model's guest has RAM, ECAM and an IOAPIC.
const TAKEN: [(u64, u64); 3] = [(0, 0x2000_0000), (0xE000_0000, 0x10_0000), (0xFEC0_0000, 0x1000)];

/// Nothing that the guest sees of its BARs covers anything else, and what is mapped is the function's own memory.
fn mappings_are_apart(bus: &PciBus) {
    let mappings: Vec<BarMapping> = bus.functions().iter().flat_map(Passthrough::mappings).collect();
    let range = |mapping: &BarMapping| (mapping.guest.get(), mapping.guest.get() + mapping.bytes);
    for (index, mapping) in mappings.iter().enumerate() {
        let (start, end) = range(mapping);
        assert!(end <= 1 << 40, "{mapping:?} is beyond the guest's addresses");
        let over = TAKEN.iter().find(|(base, bytes)| start < base + bytes && *base < end);
        assert_eq!(over, None, "{mapping:?}");
        let other = mappings.iter().skip(index + 1).map(range).find(|other| start < other.1 && other.0 < end);
        assert_eq!(other, None, "{mapping:?}");
        assert_eq!((mapping.host, mapping.bytes), (BAR0.host, BAR0.bytes), "the physical BAR never moves");
    }
}

#[test]
fn a_bar_over_anything_is_not_there() {
    let mut bed = bed_of(2);
    bed.write(0x04, 2, 2);
    bed.bus.ecam_write(2 << 15 | 0x04, 2, 2);
    mappings_are_apart(&bed.bus);
    // RAM, ECAM, the IOAPIC's page, the other function, the last page below and the first above the address space.
    let targets = [0x1000_0000u64, 0x1FFF_C000, 0xE000_0000, 0xFEC0_0000, 0xC000_4000, 1 << 40, (1 << 40) - 0x4000];
    for (count, target) in (1..).zip(targets) {
        bed.write(0x14, 4, target >> 32);
        bed.write(0x10, 4, target & 0xFFFF_FFFF);
        mappings_are_apart(&bed.bus);
        let there = bed.bus.functions()[0].mappings().count();
        let legal = target == (1 << 40) - 0x4000;
        assert_eq!(there, usize::from(legal), "target {count}: {target:#x}");
        assert_eq!(bed.read(0x10, 8) & !0xF, target, "the register holds what the guest wrote");
    }
    assert!(bed.events().iter().all(|event| !matches!(event, Event::Config(0x10..=0x24, ..))));
}

/// Memory that firmware reserved for a device lies in the window.
#[test]
fn bars_are_placed_around_what_is_blocked() {
    let mut bed = bed_of(2);
    bed.bus.blocked.push(window(0xC000_1000, 0x1000));
    bed.bus.blocked.push(window(0xC000_8000, 0x5000));
    bed.bus.assign_bars(window(0xC000_0000, 0x2000_0000), window(0, 0)).expect("room");
    let places: Vec<u64> = (1..=2u64).map(|slot| bed.bus.ecam_read(slot << 15 | 0x10, 8) & !0xF).collect();
    assert_eq!(places, [0xC000_4000, 0xC001_0000]);
    let full = bed.bus.assign_bars(window(0xC000_0000, 0x1_4000 - 1), window(0, 0));
    assert_eq!(full, Err(PciError::NoRoom(device(1), 0)));
}

proptest! {
    /// Whatever a guest writes to whichever byte, the hardware gets bus mastering and the controls of MSI and
    /// MSI-X, nothing else, with INTx off; and BARs cover nothing.
    #[test]
    fn config_writes_to_every_byte(
        writes in proptest::collection::vec((0u64..2, 0u64..0x1000, 0u32..3, any::<u32>()), 1..200)
    ) {
        let mut bed = bed_of(2);
        for (slot, offset, width, value) in writes {
            bed.bus.ecam_write((slot + 1) << 15 | offset, 1 << width, value.into());
            mappings_are_apart(&bed.bus);
            for event in bed.events() {
                if let Event::Config(offset, width, value) = event {
                    match offset {
                        // The model's firmware set bits 4 and 1 away from what is given through.
                        0x04 => prop_assert_eq!((width, value & !0x0406, value & 0x0400), (2, 0, 0x0400)),
                        0x42 => prop_assert_eq!(width, 2),
                        0x6A..=0x7B => {}
                        _ => prop_assert!(false, "a write to {offset:#x}"),
                    }
                }
            }
        }
    }
}
