//! The guest's PCI bus, with the accesses Linux makes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use machine::addr::{GuestPhys, HostPhys};
use machine::pci::Bdf;
use proptest::prelude::*;

use super::access::{BarDescription, MSI_ENTRY, MsixHardware as _, PhysicalFunction as _};
use super::model::{BAR0, DEVICE, Event, Log, ModelFunction, bed, bed_of, host_message};
use super::*;
use crate::guest::message::MsiMessage;

#[test]
fn linux_finds_mechanism_1_and_a_host_bridge() {
    let mut bus = bed().bus;
    // pci_check_type1() and pci_sanity_check().
    bus.port_write(0xCFB, 1, 1);
    bus.port_write(0xCF8, 4, 0x8000_0000);
    assert_eq!(bus.port_read(0xCF8, 4), 0x8000_0000);
    bus.port_write(0xCF8, 4, 0x8000_0008);
    assert_eq!(bus.port_read(0xCFE, 2), 0x0600);
    bus.port_write(0xCF8, 4, 0x8000_0800);
    assert_eq!(bus.port_read(0xCFC, 4), 0x0010_1B36);
    assert_eq!(bus.port_read(0xCFE, 2), 0x0010);
    assert_eq!(bus.port_read(0xCFD, 1), 0x1B);
    // Nobody at 00:02.0, 00:01.1, on bus 1; a crossing access; a disabled latch.
    for address in [0x8000_1000u32, 0x8000_0900, 0x8001_0800] {
        bus.port_write(0xCF8, 4, address);
        assert_eq!(bus.port_read(0xCFC, 4), 0xFFFF_FFFF, "{address:#x}");
    }
    bus.port_write(0xCF8, 4, 0x8000_0800);
    assert_eq!(bus.port_read(0xCFF, 2), 0xFFFF);
    // Extended registers through bits 27:24 do not alias the header.
    bus.port_write(0xCF8, 4, 0x8100_0800);
    assert_eq!(bus.port_read(0xCFC, 4), 0);
    bus.port_write(0xCF8, 4, 0x0000_0800);
    assert_eq!(bus.port_read(0xCFC, 1), 0xFF);
}

#[test]
fn header_shows_identity_and_hides_the_rest() {
    let mut bed = bed();
    assert_eq!(bed.read(0x00, 4), 0x0010_1B36);
    assert_eq!(bed.read(0x04, 4), 0x0010_0000);
    assert_eq!(bed.read(0x08, 4), 0x0108_0202);
    assert_eq!(bed.read(0x0E, 1), 0x00);
    assert_eq!(bed.read(0x2C, 4), 0x1100_1AF4);
    assert_eq!(bed.read(0x30, 4), 0);
    bed.write(0x30, 4, 0xFFFF_F800);
    assert_eq!(bed.read(0x30, 4), 0);
    assert_eq!(bed.read(0x3C, 2), 0x00FF);
    assert_eq!(bed.read(0x100, 4), 0);
    assert_eq!(bed.read(0xFFC, 4), 0);
    assert_eq!(bed.events(), []);
}

#[test]
fn capability_list_is_filtered() {
    let mut bed = bed();
    let mut found = Vec::new();
    let mut at = bed.read(0x34, 1);
    while at != 0 {
        found.push((at, bed.read(at, 1)));
        at = bed.read(at + 1, 1);
    }
    // The vendor capability at 0x50 is skipped.
    assert_eq!(found, [(0x40, 0x11), (0x60, 0x01), (0x68, 0x05), (0x80, 0x10)]);
    assert_eq!(bed.read(0x54, 4), 0);
    // PM: version 3, no PME, D0 whatever is written.
    assert_eq!(bed.read(0x60, 4), 0x0003_6801);
    bed.write(0x64, 2, 0x0103);
    assert_eq!(bed.read(0x64, 4), 8);
    // PCIe: integrated endpoint, version 2, FLR.
    assert_eq!(bed.read(0x82, 2), 0x92);
    assert_eq!(bed.read(0x84, 4), 0x1000_8001);
    // No link.
    assert_eq!(bed.read(0x8C, 4), 0);
    assert_eq!(bed.read(0x42, 2), 5);
    // MSI: one message, 64 bit, maskable.
    assert_eq!(bed.read(0x6A, 2), 0x0180);
}

#[test]
fn bus_mastering_reaches_hardware_and_intx_never_does() {
    let mut bed = bed();
    bed.write(0x04, 2, 0x0006);
    assert_eq!(bed.events(), [Event::Config(0x04, 2, 0x0406)]);
    assert_eq!(bed.read(0x04, 2), 0x0006);
    // Nothing changes: nothing is written.
    bed.write(0x04, 2, 0x0402);
    assert_eq!(bed.events(), [Event::Config(0x04, 2, 0x0402)]);
    bed.write(0x04, 2, 0xFFFB);
    assert_eq!(bed.read(0x04, 2), 0x0542);
    assert_eq!(bed.events(), []);
}

#[test]
fn bars_size_move_and_follow_memory_enable() {
    let mut bed = bed();
    assert_eq!(bed.read(0x10, 8), 0xC000_0004);
    bed.write(0x04, 2, 2);
    let map = |guest| BarMapping {
        device: DEVICE,
        bar: 0,
        guest: GuestPhys(guest),
        host: HostPhys(0xFEBD_4000),
        bytes: 0x4000,
        trapped: 0x2000..0x3000,
    };
    assert!(bed.bus.has_bar_changes());
    assert_eq!(bed.bus.take_bar_changes(), [BarChange::Map(map(0xC000_0000))]);
    assert!(!bed.bus.has_bar_changes());
    // Linux sizes with decoding off.
    bed.write(0x04, 2, 0);
    for (offset, size) in [(0x10, 0xFFFF_C004), (0x14, 0xFFFF_FFFF)] {
        bed.write(offset, 4, 0xFFFF_FFFF);
        assert_eq!(bed.read(offset, 4), size);
    }
    bed.write(0x10, 4, 0xC800_0000);
    bed.write(0x14, 4, 0);
    assert_eq!(bed.bus.take_bar_changes(), [BarChange::Unmap(map(0xC000_0000))]);
    bed.write(0x04, 2, 2);
    assert_eq!(bed.bus.take_bar_changes(), [BarChange::Map(map(0xC800_0000))]);
    bed.write(0x14, 4, 0x41);
    assert_eq!(bed.bus.take_bar_changes(), [BarChange::Unmap(map(0xC800_0000)), BarChange::Map(map(0x41_C800_0000))]);
    // No physical BAR was written.
    assert_eq!(bed.events(), []);
}

#[test]
fn bars_are_withheld_where_they_may_not_be() {
    let mut bed = bed_of(2);
    bed.write(0x04, 2, 2);
    bed.bus.ecam_write(2 << 15 | 4, 2, 2);
    assert_eq!(bed.bus.take_bar_changes().len(), 2);
    // RAM, ECAM, IOAPIC, the other function, beyond 40 bits.
    for (count, (low, high)) in
        (1..).zip([(0x1000_0000u64, 0u64), (0xE000_C000, 0), (0xFEC0_0000, 0), (0xC000_4000, 0), (0, 0x100)])
    {
        bed.write(0x04, 2, 0);
        bed.write(0x10, 4, low);
        bed.write(0x14, 4, high);
        bed.write(0x04, 2, 2);
        assert_eq!(bed.bus.functions()[0].mappings().count(), 0, "{low:#x}");
        assert_eq!(bed.bus.counters().withheld, count);
    }
    assert_eq!(bed.bus.take_bar_changes().len(), 1);
    // The other one makes room: the first may have its place.
    bed.write(0x14, 4, 0);
    bed.write(0x10, 4, 0xC000_4000);
    bed.bus.ecam_write(2 << 15 | 0x10, 4, 0xC100_0000);
    bed.bus.ecam_write(2 << 15 | 0x3C, 1, 0);
    assert_eq!(bed.bus.functions()[0].mappings().next().map(|mapping| mapping.guest), Some(GuestPhys(0xC000_4000)));
}

/// What Linux's msix_capability_init() and the driver do for `vectors` vectors.
fn enable_msix(bed: &mut model::Bed, vectors: u64) {
    bed.write(0x04, 2, 6);
    bed.bus.take_bar_changes();
    bed.write(0x42, 2, 0xC005);
    for vector in 0..vectors {
        let entry = 0xC000_2000 + vector * 16;
        assert!(bed.bus.mmio_write(entry + 12, 4, 1));
        assert!(bed.bus.mmio_write(entry, 4, 0xFEE0_1000));
        assert!(bed.bus.mmio_write(entry + 4, 4, 0));
        assert!(bed.bus.mmio_write(entry + 8, 4, 0x30 + vector));
    }
    bed.write(0x42, 2, 0x8005);
    for vector in 0..vectors {
        assert!(bed.bus.mmio_write(0xC000_200C + vector * 16, 4, 0));
    }
}

fn guest_message(vector: u32) -> MsiMessage {
    MsiMessage { address: 0xFEE0_1000, data: vector }
}

#[test]
fn msix_is_routed_when_unmasked() {
    let mut bed = bed();
    enable_msix(&mut bed, 2);
    let events = bed.events();
    let zero = MsiMessage::default();
    // All six entries are masked before the function is enabled.
    let mut expected = alloc::vec![Event::Config(0x04, 2, 0x0406)];
    expected.extend((0..6).map(|index| Event::Entry(index, zero, true)));
    expected.extend([
        Event::Config(0x42, 2, 0xC005),
        Event::Config(0x42, 2, 0x8005),
        Event::Route(0, guest_message(0x30)),
        Event::Entry(0, host_message(0), false),
        Event::Route(1, guest_message(0x31)),
        Event::Entry(1, host_message(1), false),
    ]);
    assert_eq!(events, expected);
    // The guest reads back its own message, not the host's.
    assert_eq!(bed.bus.mmio_read(0xC000_2010, 8), Some(0xFEE0_1000));
    assert_eq!(bed.bus.mmio_read(0xC000_2018, 8), Some(0x31));
}

#[test]
fn masked_entries_are_masked_in_hardware_and_keep_their_route() {
    let mut bed = bed();
    enable_msix(&mut bed, 1);
    bed.events();
    assert!(bed.bus.mmio_write(0xC000_200C, 4, 1));
    assert_eq!(bed.events(), [Event::Entry(0, host_message(0), true)]);
    // Same message: only the mask bit moves.
    assert!(bed.bus.mmio_write(0xC000_200C, 4, 0));
    assert_eq!(bed.events(), [Event::Entry(0, host_message(0), false)]);
    // Changed affinity: masked, rewritten, routed anew, unmasked.
    assert!(bed.bus.mmio_write(0xC000_200C, 4, 1));
    assert!(bed.bus.mmio_write(0xC000_2000, 8, 0xFEE0_2000));
    bed.events();
    assert!(bed.bus.mmio_write(0xC000_200C, 4, 0));
    let moved = MsiMessage { address: 0xFEE0_2000, data: 0x30 };
    assert_eq!(bed.events(), [Event::Route(0, moved), Event::Entry(0, host_message(0), false)]);
    // Rewritten while live: masked in between.
    assert!(bed.bus.mmio_write(0xC000_2008, 4, 0x55));
    assert_eq!(
        bed.events(),
        [
            Event::Entry(0, host_message(0), true),
            Event::Route(0, MsiMessage { address: 0xFEE0_2000, data: 0x55 }),
            Event::Entry(0, host_message(0), false),
        ]
    );
    // The function mask is hardware's.
    bed.write(0x42, 2, 0xC005);
    assert_eq!(bed.events(), [Event::Config(0x42, 2, 0xC005)]);
    bed.write(0x42, 2, 0x0005);
    assert_eq!(bed.events(), [Event::Config(0x42, 2, 0x0005), Event::Release(0)]);
}

#[test]
fn unroutable_entries_stay_masked() {
    let mut bed = bed();
    enable_msix(&mut bed, 6);
    assert_eq!(bed.bus.counters().route_failures, 1);
    assert_eq!(bed.bus.counters().last_route_error, Some(RouteError::Exhausted));
    assert!(!bed.events().contains(&Event::Entry(5, host_message(5), false)));
    // A message that is none frees the route.
    assert!(bed.bus.mmio_write(0xC000_2004, 4, 1));
    assert_eq!(bed.events(), [Event::Entry(0, host_message(0), true), Event::Release(0)]);
    assert_eq!(bed.routes.lock().len(), 4);
}

#[test]
fn refused_routes_are_tried_again() {
    let mut bed = bed();
    enable_msix(&mut bed, 6);
    bed.events();
    let freed = bed.routes.lock().remove(&1);
    assert!(freed.is_some());
    bed.bus.retry_routes();
    let guest = MsiMessage { address: 0xFEE0_1000, data: 0x35 };
    assert_eq!(bed.events(), [Event::Route(5, guest), Event::Entry(5, host_message(5), false)]);
    bed.bus.retry_routes();
    assert_eq!(bed.events(), []);
}

#[test]
fn the_rest_of_the_table_page_is_the_devices() {
    let mut bed = bed();
    bed.write(0x04, 2, 2);
    assert_eq!(bed.bus.mmio_read(0xC000_2060, 4), Some(0x2060));
    assert!(bed.bus.mmio_write(0xC000_2FF8, 8, 7));
    assert_eq!(bed.events(), [Event::Bar(0, 0x2FF8, 8, 7)]);
    assert_eq!(bed.bus.mmio_read(0xC000_1FFC, 4), None);
    assert_eq!(bed.bus.mmio_read(0xC000_2FFC, 8), None);
    assert_eq!(bed.bus.mmio_read(0xC000_2001, 4), Some(u64::MAX));
    bed.write(0x04, 2, 0);
    assert_eq!(bed.bus.mmio_read(0xC000_2060, 4), None);
}

#[test]
fn msi_through_configuration_space() {
    let mut bed = bed();
    // Linux: address, data, unmask, enable.
    bed.write(0x6C, 4, 0xFEE0_1000);
    bed.write(0x70, 4, 0);
    bed.write(0x74, 2, 0x41);
    bed.write(0x78, 4, 0);
    assert_eq!(bed.events(), []);
    bed.write(0x6A, 2, 0x0181);
    assert_eq!(
        bed.events(),
        [
            Event::Route(MSI_ENTRY, guest_message(0x41)),
            Event::Config(0x78, 4, 0),
            Event::Config(0x6C, 4, 0xFEFF_FFF8),
            Event::Config(0x70, 4, 0),
            Event::Config(0x74, 2, 0),
            Event::Config(0x6A, 2, 0x0181),
        ]
    );
    assert_eq!((bed.read(0x6A, 2), bed.read(0x6C, 4), bed.read(0x74, 2)), (0x0181, 0xFEE0_1000, 0x41));
    bed.write(0x78, 4, 1);
    assert_eq!(bed.events(), [Event::Config(0x78, 4, 1)]);
    // New vector: only the route changes, the hardware's message is the same.
    bed.write(0x74, 2, 0x42);
    assert_eq!(bed.events(), [Event::Route(MSI_ENTRY, guest_message(0x42))]);
    bed.write(0x6A, 2, 0x0180);
    assert_eq!(bed.events(), [Event::Config(0x6A, 2, 0x0180), Event::Release(MSI_ENTRY)]);
}

#[test]
fn function_level_reset() {
    let mut bed = bed();
    enable_msix(&mut bed, 1);
    bed.events();
    bed.write(0x88, 2, 0xA810);
    let events = bed.events();
    assert_eq!(
        events,
        [Event::Config(0x04, 2, 0x0402), Event::Config(0x42, 2, 0x0005), Event::Release(0), Event::Reset]
    );
    assert_eq!((bed.read(0x04, 2), bed.read(0x10, 4), bed.read(0x42, 2)), (0, 4, 5));
    assert_eq!(bed.read(0x88, 2), 0x2810);
    assert!(matches!(bed.bus.take_bar_changes()[..], [BarChange::Unmap(_)]));
}

#[test]
fn restore_touches_nothing_and_continues() {
    let mut old = bed();
    enable_msix(&mut old, 2);
    assert!(old.bus.mmio_write(0xC000_201C, 4, 1));
    old.bus.take_bar_changes();
    let state = old.bus.save();
    assert_eq!(state.functions[0].mapped[0], 0xC000_0000);

    let mut new = bed();
    new.routes.lock().extend([(0, guest_message(0x30)), (1, guest_message(0x31))]);
    assert_eq!(new.bus.restore(&state), Ok(()));
    assert_eq!(new.events(), []);
    assert!(!new.bus.has_bar_changes());
    assert_eq!(new.bus.save(), state);
    assert!(new.bus.mmio_write(0xC000_201C, 4, 0));
    assert_eq!(new.events(), [Event::Entry(1, host_message(1), false)]);
    new.bus.quiesce();
    assert!(new.routes.lock().is_empty());
}

#[test]
fn changes_not_taken_survive_the_upgrade() {
    let mut old = bed();
    old.write(0x04, 2, 2);
    let mut new = bed();
    assert_eq!(new.bus.restore(&old.bus.save()), Ok(()));
    assert!(matches!(new.bus.take_bar_changes()[..], [BarChange::Map(_)]));
}

#[test]
fn damaged_states_are_refused() {
    let mut old = bed();
    enable_msix(&mut old, 2);
    let state = old.bus.save();
    let damage: [fn(&mut PciFunctionState); 12] = [
        |f| f.requester_id += 1,
        |f| f.identity += 1,
        |f| f.command = 1,
        |f| f.msi = None,
        |f| f.msix = None,
        |f| f.msix.as_mut().expect("there").entries.truncate(3),
        |f| f.msix.as_mut().expect("there").entries[0].routed = 0,
        |f| f.msix.as_mut().expect("there").entries[0].control = 2,
        |f| f.bars[0] |= 0x1000,
        |f| f.mapped[0] = 0x1000_0000,
        |f| f.mapped[0] = 0xC000_1000,
        |f| f.mapped[3] = 0xC000_0000,
    ];
    for (index, damage) in damage.iter().enumerate() {
        let mut damaged = state.clone();
        damage(&mut damaged.functions[0]);
        let error = bed().bus.restore(&damaged).expect_err("refused");
        assert!(matches!(error, PciError::State(..)), "{index}: {error}");
    }
    let error = bed_of(2).bus.restore(&state);
    assert_eq!(error, Err(PciError::FunctionCount { record: 1, present: 2 }));
}

#[test]
fn broken_devices_are_refused() {
    let log = Log::default();
    let build = |damage: fn(&mut [u8; 256]), bars: &[BarDescription]| {
        let mut hardware = ModelFunction::nvme(&log);
        damage(&mut hardware.config);
        Passthrough::new(DEVICE, Box::new(hardware), bars).err()
    };
    assert_eq!(build(|_| {}, &[BAR0]), None);
    assert_eq!(build(|config| config[..4].fill(0xFF), &[BAR0]), Some(PciError::Absent(DEVICE)));
    assert_eq!(build(|config| config[0x0E] = 1, &[BAR0]), Some(PciError::NotAnEndpoint(DEVICE)));
    assert_eq!(build(|config| config[0x81] = 0x40, &[BAR0]), Some(PciError::CapabilityLoop(DEVICE)));
    assert_eq!(build(|config| config[0x81] = 0x10, &[BAR0]), Some(PciError::CapabilityOutside(DEVICE, 0x10)));
    assert_eq!(build(|config| config[0x34] = 0xFC, &[BAR0]), None);
    assert_eq!(
        build(
            |config| {
                config[0x34] = 0xFC;
                config[0xFC] = 0x11;
            },
            &[BAR0]
        ),
        Some(PciError::CapabilityOutside(DEVICE, 0xFC))
    );
    assert_eq!(build(|config| config[0x45] = 0x40, &[BAR0]), Some(PciError::TableOutside(DEVICE)));
    assert_eq!(build(|config| config[0x44] = 6, &[BAR0]), Some(PciError::TableOutside(DEVICE)));
    assert_eq!(build(|_| {}, &[]), Some(PciError::TableOutside(DEVICE)));
    assert_eq!(build(|_| {}, &[BAR0, BAR0]), Some(PciError::BadBar(DEVICE, 0)));
}

#[test]
fn placement() {
    let mut bed = bed_of(3);
    let places: Vec<u64> = (1..=3u64).map(|slot| bed.bus.ecam_read(slot << 15 | 0x10, 8) & !0xF).collect();
    assert_eq!(places, [0xC000_0000, 0xC000_4000, 0xC000_8000]);
    let low = model::window(0xC000_0000, 0x8000);
    let high = model::window(0x40_0000_0000, 0);
    assert_eq!(bed.bus.assign_bars(low, high), Err(PciError::NoRoom(Bdf::from_requester_id(0, 0x500), 0)));
}

#[test]
fn small_bars_are_trapped_whole() {
    let log = Log::default();
    let mut hardware = ModelFunction::nvme(&log);
    hardware.config[0x34] = 0;
    hardware.write_entry(0, MsiMessage::default(), true);
    assert_eq!(hardware.config_read(0x34, 1), 0);
    let small =
        BarDescription { index: 2, wide: false, bytes: 0x100, host: HostPhys(0xFEBF_0100), prefetchable: false };
    let function = Passthrough::new(DEVICE, Box::new(hardware), &[small]).expect("sound");
    let mut bed = bed_of(0);
    bed.bus.add(function).expect("a slot");
    bed.bus.assign_bars(model::window(0xC000_0000, 0x1000), model::window(0, 0)).expect("room");
    bed.write(0x04, 2, 2);
    assert_eq!(bed.bus.mmio_read(0xC000_00FC, 4), Some(2 << 32 | 0xFC));
    assert_eq!(bed.bus.mmio_read(0xC000_0100, 4), None);
    assert!(matches!(&bed.bus.take_bar_changes()[..], [BarChange::Map(map)] if map.trapped == (0..0x100)));
}

proptest! {
    #[test]
    fn no_access_panics_and_no_route_leaks(
        accesses in proptest::collection::vec((0u8..6, any::<u64>(), 0u32..4, any::<u64>()), 1..300)
    ) {
        let mut bed = bed_of(2);
        for (kind, offset, width, value) in accesses {
            let width = 1u8 << width;
            let before = (bed.bus.changes(), bed.bus.save().functions);
            match kind {
                0 => { bed.bus.ecam_read(offset & 0x1F_FFFF, width); }
                1 => bed.bus.ecam_write(1 << 15 | offset & 0x8FFF, width, value),
                2 => bed.bus.port_write(0xCF8 + (offset & 7) as u16, width, value as u32 | 0x8000_0000),
                3 => { bed.bus.port_read(0xCF8 + (offset & 7) as u16, width); }
                4 => { bed.bus.mmio_write(0xC000_2000 + (offset & 0x4FFF), width, value); }
                _ => {
                    bed.bus.mmio_read(offset, width);
                    bed.bus.ecam_write(1 << 15 | 0x42, 2, 0x8000);
                    bed.bus.ecam_write(1 << 15 | 0x04, 2, 2);
                }
            }
            bed.bus.take_bar_changes();
            // An upgrade relies on it: what did not change is not told again.
            prop_assert!(bed.bus.changes() > before.0 || bed.bus.save().functions == before.1);
        }
        let state = bed.bus.save();
        let mut other = bed_of(2);
        prop_assert_eq!(other.bus.restore(&state), Ok(()));
        prop_assert_eq!(other.bus.save(), state);
        let before = bed.bus.changes();
        bed.bus.quiesce();
        prop_assert!(bed.bus.changes() > before);
        prop_assert!(bed.routes.lock().is_empty());
    }
}
