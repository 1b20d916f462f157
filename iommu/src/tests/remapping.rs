//! Interrupts: who may raise which.

use super::SHAPE;
use crate::model::{Blocked, Delivered, ModelClock, ModelMemory, ModelUnit};
use crate::tests::rig::{BASE, DISK, NIC, Rig, config, platform, routes};
use crate::tests::std::string::ToString;
use crate::{Access, Error, InterruptRange, InterruptTarget, Iommu, Platform, UnitConfig, UnitIndex, msi_message};
use alloc::vec;
use machine::addr::HostPhys;

const UNIT: UnitIndex = UnitIndex(0);

fn send(rig: &Rig, source: u16, index: u16, subhandle: u16) -> Result<Delivered, Blocked> {
    let (address, data) = msi_message(index, subhandle);
    rig.units[0].msi(source, address, data)
}

#[test]
fn only_the_source_may_use_its_entry() {
    let mut rig = Rig::of(SHAPE);
    let range = rig.iommu.allocate_interrupts(platform!(rig), DISK, 1).unwrap();
    assert_eq!(send(&rig, 0x0300, range.first, 0), Err(Blocked(0x22)));
    let target = InterruptTarget::fixed(0x51, 0x1_0002);
    rig.iommu.set_interrupt(platform!(rig), UNIT, range.first, &target).unwrap();
    rig.service_faults();
    assert_eq!(send(&rig, 0x0300, range.first, 0), Ok(Delivered { vector: 0x51, destination: 0x1_0002 }));
    assert_eq!(send(&rig, 0x0108, range.first, 0), Err(Blocked(0x26)));
    rig.service_faults();
    let fault = rig.iommu.faults().lines()[1].fault;
    assert_eq!((fault.device, fault.access), (NIC, Access::Interrupt(range.first)));
    assert!(fault.to_string().contains("belongs to another source"));
    rig.assert_clean();
}

#[test]
fn entries_are_updated_cleared_and_freed_at_once() {
    let mut rig = Rig::of(SHAPE);
    let range = rig.iommu.allocate_interrupts(platform!(rig), DISK, 4).unwrap();
    assert_eq!(range, InterruptRange { unit: UNIT, first: 0, count: 4 });
    for message in 0..4u8 {
        let target = InterruptTarget::fixed(0x60 + message, 1);
        rig.iommu.set_interrupt(platform!(rig), UNIT, u16::from(message), &target).unwrap();
        // The messages of plain MSI: one handle, and the device adds its number to the data.
        let delivered = send(&rig, 0x0300, range.first, u16::from(message)).unwrap();
        assert_eq!(delivered, Delivered { vector: 0x60 + message, destination: 1 });
    }
    rig.iommu.set_interrupt(platform!(rig), UNIT, 2, &InterruptTarget::fixed(0x99, 7)).unwrap();
    assert_eq!(send(&rig, 0x0300, 2, 0), Ok(Delivered { vector: 0x99, destination: 7 }));
    rig.iommu.clear_interrupt(platform!(rig), UNIT, 2).unwrap();
    assert_eq!(send(&rig, 0x0300, 2, 0), Err(Blocked(0x22)));
    assert_eq!(rig.iommu.interrupt_source(UNIT, 2), Some(0x0300));
    rig.iommu.free_interrupts(platform!(rig), range).unwrap();
    assert_eq!(send(&rig, 0x0300, 0, 0), Err(Blocked(0x22)));
    let again = rig.iommu.free_interrupts(platform!(rig), range);
    assert_eq!(again, Err(Error::NoSuchInterrupt { unit: HostPhys(BASE), index: 0 }));
    let next = rig.iommu.allocate_interrupts(platform!(rig), NIC, 1).unwrap();
    assert_eq!((next.first, rig.iommu.interrupt_source(UNIT, 0)), (0, Some(0x0108)));
}

#[test]
fn the_table_runs_out() {
    let mut rig = Rig::of(SHAPE);
    let mut given = 0;
    let error = loop {
        match rig.iommu.allocate_interrupts(platform!(rig), DISK, 32) {
            Ok(_) => given += 32,
            Err(error) => break error,
        }
    };
    assert_eq!((given, error), (256, Error::NoInterruptEntry { unit: HostPhys(BASE), count: 32 }));
    let target = InterruptTarget::fixed(0x51, 0);
    let outside = rig.iommu.set_interrupt(platform!(rig), UNIT, 256, &target);
    assert_eq!(outside, Err(Error::NoSuchInterrupt { unit: HostPhys(BASE), index: 256 }));
    assert_eq!(send(&rig, 0x0300, 256, 0), Err(Blocked(0x21)));
}

#[test]
fn ioapics_and_small_apic_ids() {
    let (mut mem, clock) = (ModelMemory::default(), ModelClock::default());
    let unit = ModelUnit::new(&mem, SHAPE.cap, SHAPE.ecap);
    let config = UnitConfig { x2apic: false, ..config(0) };
    let platform = &mut Platform { mem: &mut mem, clock: &clock };
    let mut iommu = Iommu::init_cold(vec![(config, unit.clone())], routes(1), platform).unwrap();
    let range = iommu.allocate_interrupts_at(platform, UNIT, 0xf0f8, 1).unwrap();
    let wide = iommu.set_interrupt(platform, UNIT, range.first, &InterruptTarget::fixed(0x31, 0x100));
    assert_eq!(wide, Err(Error::Destination { unit: HostPhys(BASE), apic_id: 0x100 }));
    let target = InterruptTarget { level: true, ..InterruptTarget::fixed(0x31, 3) };
    iommu.set_interrupt(platform, UNIT, range.first, &target).unwrap();
    let (address, data) = msi_message(range.first, 0);
    assert_eq!(unit.msi(0xf0f8, address, data), Ok(Delivered { vector: 0x31, destination: 3 }));
}
