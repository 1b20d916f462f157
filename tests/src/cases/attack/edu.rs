//! A DMA engine without a driver: it copies to and from any address, a tenth of a second after it was told.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{GUEST_FREE, Watch};
use crate::cases::Bed;
use crate::log::wait_for;
use crate::outside::UNIT;
use crate::spec::{Device, Kind, Place, Spec};
use crate::tables::{PAGE, Structures};

/// Command register, bus mastering (PCI 3.0 6.2.2).
const COMMAND: usize = 0x04;
const BUS_MASTER: u8 = 1 << 2;
const MEMORY: u8 = 1 << 1;
/// The engine's registers and its buffer (QEMU, docs/specs/edu.rst); 3 starts a transfer to memory.
const SOURCE: u64 = 0x80;
const TARGET: u64 = 0x88;
const COUNT: u64 = 0x90;
const START: u64 = 0x98;
const BUFFER: u32 = 0x4_0000;
/// Of the machine of all attacks, the attacker has this one besides.
const ENGINE: &str = "06:00.0";

/// The same behind a bridge to conventional PCI: the engine is device 1 of bus 7, and its requests come as device 0's
/// (PCIe to PCI/PCI-X Bridge 2.3).
const BRIDGED: &str = "07:01.0";
const AS_WHOM: &str = "0000:07:00.0";

fn spec() -> Spec {
    let mut spec = super::spec_with(&[ENGINE]);
    spec.devices.push(Device { kind: Kind::Edu, place: Place::RootPort });
    spec
}

/// It reaches nothing that is not its guest's.
pub fn dma(bed: &mut Bed) -> Result<()> {
    let machine = bed.shared("attack-edu", spec, super::ready)?;
    let watch = Watch::begin(machine)?;
    let engine = watch.engine()?;
    // What it may reach it does reach.
    let at = watch.structures.translate(engine.id, GUEST_FREE)?;
    watch.order(&format!("disk-write {GUEST_FREE:#x}"))?;
    watch.order(&format!("edu-read {GUEST_FREE:#x} 0x100"))?;
    watch.order(&format!("clear {GUEST_FREE:#x}"))?;
    ensure!(machine.memory(at, 8)? == [0; 8], "the attacker's page is not clear");
    watch.order(&format!("edu-write {GUEST_FREE:#x} 8"))?;
    ensure!(machine.memory(at, 8)? == [0xa5; 8], "the engine does not write its guest's memory");
    for target in [watch.image() + PAGE, watch.secret, watch.structures.find("root table")?.base, UNIT] {
        watch.order(&format!("edu-write {target:#x} 0x100"))?;
        watch.fault(&engine.name, "write", target & !(PAGE - 1))?;
        watch.order(&format!("edu-read {target:#x} 0x100"))?;
        watch.fault(&engine.name, "read", target & !(PAGE - 1))?;
    }
    watch.end()
}

/// Behind a bridge it reaches its guest's memory under the bridge's id, and nothing else under any.
pub fn bridged(bed: &mut Bed) -> Result<()> {
    let spec = || {
        let mut spec = super::spec_with(&[BRIDGED]);
        spec.devices.push(Device { kind: Kind::Edu, place: Place::PciBridge });
        spec
    };
    let machine = bed.start("attack-edu-bridged", &spec())?;
    super::ready(&machine)?;
    let watch = Watch::begin(&machine)?;
    let engine = watch.engine()?;
    let at = watch.structures.translate(engine.id, GUEST_FREE)?;
    watch.order(&format!("disk-write {GUEST_FREE:#x}"))?;
    watch.order(&format!("edu-read {GUEST_FREE:#x} 0x100"))?;
    watch.order(&format!("clear {GUEST_FREE:#x}"))?;
    watch.order(&format!("edu-write {GUEST_FREE:#x} 8"))?;
    ensure!(machine.memory(at, 8)? == [0xa5; 8], "the engine does not write its guest's memory");
    for target in [watch.image() + PAGE, watch.secret] {
        watch.order(&format!("edu-write {target:#x} 0x100"))?;
        watch.fault(AS_WHOM, "write", target & !(PAGE - 1))?;
    }
    watch.end()
}

/// The guest ends between the order and the transfer; afterwards the engine, as no honest device would, takes up bus mastering by
/// itself and tries again. It has no reset that stops it, but nothing is left that it could reach.
pub fn leave(bed: &mut Bed) -> Result<()> {
    let machine = bed.start("attack-edu-leave", &spec())?;
    super::ready(&machine)?;
    let mut watch = Watch::begin(&machine)?;
    let engine = watch.engine()?;
    let at = watch.structures.translate(engine.id, GUEST_FREE)?;
    let registers = engine.config(&machine)?.long(0x10);
    watch.order(&format!("disk-write {GUEST_FREE:#x}"))?;
    watch.order(&format!("edu-read {GUEST_FREE:#x} 0x1000"))?;
    watch.order(&format!("clear {GUEST_FREE:#x}"))?;
    machine.type_line(&format!("edu-leave {GUEST_FREE:#x}"))?;
    let gone = || Structures::read(&machine).ok().filter(|structures| structures.root_of(engine.id).is_err());
    wait_for("end of the engine's domain", Duration::from_secs(30), || machine.healthy(), gone)?;
    // Its reset comes after that, and would undo what follows.
    watch.returned(&engine)?;
    ensure!(engine.config(&machine)?.bytes[COMMAND] & BUS_MASTER == 0, "{} may still do DMA", engine.name);
    let page = machine.memory(at, PAGE)?;
    let bus = machine.bus()?;
    bus.write(engine.config_at() + COMMAND as u64, u32::from(BUS_MASTER | MEMORY))?;
    bus.write(engine.config_at() + 0x10, registers)?;
    // The engine takes no other order while the guest's transfer has not had its end.
    let idle = || bus.read(u64::from(registers & !0xf) + START).ok().filter(|command| command & 1 == 0);
    wait_for("end of the guest's transfer", Duration::from_secs(30), || machine.healthy(), idle)?;
    let at_once = [(SOURCE, BUFFER), (TARGET, at as u32), (COUNT, 8), (START, 3)];
    at_once.into_iter().try_for_each(|(register, value)| bus.write(u64::from(registers & !0xf) + register, value))?;
    let fault = watch.fault(&engine.name, "write", at)?;
    ensure!(fault.reason == "0x2", "not blocked for being nobody's: {fault:?}");
    for word in ["context table", "interrupt", "device 0x03", "device 0x05", "device 0x06"] {
        watch.except(word);
    }
    // Lines of the neighbour are a quarter of a second apart: by then the first transfer is over as well.
    watch.end()?;
    ensure!(machine.memory(at, PAGE)? == page, "the engine wrote to memory that is not its guest's any more");
    Ok(())
}
