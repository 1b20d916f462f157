//! The machine's IOMMU units behind one lock.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use handover::state::machine::FrameTag;
use hermit_sync::SpinMutex;
use iommu::{FaultEvent, InterruptRegion, Iommu, Platform, Preference, Route, UnitConfig, UnitIndex};
use machine::access::TableMemory;
use machine::addr::HostPhys;
use machine::mmio::MmioRegion;
use machine::pci::Bdf;

use super::sriov;
use crate::mem::frames::{self, ArenaFrames};
use crate::mem::host_map;
use crate::smp::lapic::vector;
use crate::time::TscClock;

/// The driver over this machine's registers.
pub type Units = Iommu<MmioRegion>;

/// Everything the IOMMU walks is in the arena under this tag.
pub const TAG: FrameTag = FrameTag::new(FrameTag::UNIT_TABLE, 0);
/// Entries of each interrupt remapping table: log2.
const INTERRUPT_ORDER: u8 = 10;
/// Bytes of registers of a unit: the most that a DMAR entry of this revision means, and what QEMU has.
const REGISTER_BYTES: u64 = 4096;

static UNITS: SpinMutex<Option<Units>> = SpinMutex::new(None);

/// A unit as firmware names it.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Register base.
    pub base: HostPhys,
    /// PCI segment.
    pub segment: u16,
}

/// Maps a unit's registers.
///
/// # Errors
/// The heap is exhausted.
pub fn map_registers(base: HostPhys) -> Result<MmioRegion, String> {
    let failed = |error: machine::paging::PagingError| error.to_string();
    host_map::map_device(base, REGISTER_BYTES).map_err(failed)?;
    let first = registers(base, REGISTER_BYTES);
    let bytes = iommu::register_bytes(&first) as u64;
    host_map::map_device(base, bytes).map_err(failed)?;
    Ok(registers(base, bytes))
}

#[expect(unsafe_code, reason = "registers were mapped by the only caller")]
fn registers(base: HostPhys, bytes: u64) -> MmioRegion {
    // SAFETY: `map_registers` has just mapped the range one to one and uncached; firmware says that a unit's registers are
    // there, and nothing else uses them.
    unsafe { MmioRegion::new(base, bytes as usize) }
}

/// Where the units' registers are, and their bytes.
pub fn windows() -> Vec<(HostPhys, u64)> {
    let guard = UNITS.lock();
    let bases = guard.iter().flat_map(|units| (0..units.units()).filter_map(|index| units.unit_base(UnitIndex(index))));
    bases.map(|base| (base, iommu::register_bytes(&registers(base, REGISTER_BYTES)) as u64)).collect()
}

/// Memory and time for an operation.
pub fn with_platform<R>(f: impl FnOnce(&mut Platform<'_>) -> R) -> R {
    let mut memory = ArenaFrames(TAG);
    f(&mut Platform { mem: &mut memory, clock: &TscClock })
}

/// Power-on: takes over all units, in `mode` as far as they have it. Faults come to pCPU 0.
///
/// # Errors
/// A unit does not obey, or lacks what is needed.
pub fn init_cold(units: &[Described], routes: Vec<Route>, apic_id: u32, mode: Preference) -> Result<(), String> {
    let mut configs = Vec::new();
    for unit in units {
        let regs = map_registers(unit.base)?;
        let frames = (16usize << INTERRUPT_ORDER) / 4096;
        // Without 32-bit destinations the entries hold 8 bits, which is enough for processors with such ids: interrupts
        // are never pointed at others (the driver refuses).
        let x2apic = iommu::extended_interrupts(&regs);
        if !x2apic {
            log::warn!(
                "the unit at {} sends interrupts to APIC ids below 256 only (ECAP.EIM is 0): devices of guests whose vCPUs \
                 run on other processors get no interrupts",
                unit.base
            );
        }
        let table = frames::allocate(frames, TAG).ok_or("the arena has no room for an interrupt remapping table")?;
        configs.push((
            UnitConfig {
                base: unit.base,
                segment: unit.segment,
                register_bytes: regs.bytes(),
                x2apic,
                interrupts: Some(InterruptRegion { base: table, order: INTERRUPT_ORDER }),
                fault_event: Some(fault_event(apic_id)),
                mode,
            },
            regs,
        ));
    }
    let iommu =
        with_platform(|platform| Iommu::init_cold(configs, routes, platform)).map_err(|error| error.to_string())?;
    *UNITS.lock() = Some(iommu);
    Ok(())
}

/// The message by which a unit tells of a fault (VT-d 5.1.6: not remapped).
fn fault_event(apic_id: u32) -> FaultEvent {
    let address = 0xfee0_0000 | u64::from(apic_id & 0xff) << 12 | u64::from(apic_id >> 8) << 40;
    FaultEvent { address, data: u32::from(vector::IOMMU_FAULT) }
}

/// Takes over units that the image before this one programmed. Virtual functions are known by then.
pub fn set(mut iommu: Units) {
    sriov::tell(&mut iommu);
    *UNITS.lock() = Some(iommu);
}

/// Does something with the units; `None` when the machine has none.
pub fn with<R>(f: impl FnOnce(&mut Units, &mut Platform<'_>) -> R) -> Option<R> {
    let mut guard = UNITS.lock();
    let units = guard.as_mut()?;
    Some(with_platform(|platform| f(units, platform)))
}

/// Whether there is an IOMMU.
pub fn present() -> bool {
    UNITS.lock().is_some()
}

/// Live registers of a unit that the API shows: GSTS, RTADDR, IRTA, VER, CAP, ECAP.
pub fn live(base: HostPhys) -> [u64; 6] {
    use machine::access::Registers;
    let regs = registers(base, REGISTER_BYTES);
    [
        regs.read32(0x1c).into(),
        regs.read64(0x20),
        regs.read64(0xb8),
        regs.read32(0x00).into(),
        regs.read64(0x08),
        regs.read64(0x10),
    ]
}

/// Logs faults that units have recorded. On a fault event, and now and then.
pub fn service_faults() {
    let told = with(|units, platform| {
        units.service_faults(platform);
        units.faults_mut().report(&TscClock, |line, new| log::warn!("{} (seen {new} times)", line.fault));
    });
    let _ = told;
}

/// Faults since power-on.
pub fn fault_count() -> u64 {
    with(|units, _| units.faults().total).unwrap_or(0)
}

/// Bus mastering off, for a device of nobody's.
pub fn silence(config: &machine::pci::Ecam, device: Bdf) {
    use machine::pci::Command;
    let command = Command::read(config, device);
    command.difference(Command::BUS_MASTER).write(config, device);
}

/// Every frame that units walk, for ownership.
pub fn each_frame(mem: &dyn TableMemory, visit: impl FnMut(HostPhys)) {
    if let Some(units) = UNITS.lock().as_ref() {
        units.frames(mem, visit);
    }
}

/// The unit of a device.
pub fn unit_of(device: Bdf) -> Option<UnitIndex> {
    UNITS.lock().as_ref().and_then(|units| units.unit_of(device))
}
