//! A guest that attacks, and what is watched meanwhile. Each attack has to be blocked and logged; the neighbour works on, and
//! neither Baton nor the structures that hardware walks change by a byte.
//!
//! - here: the machine of all attacks, and the watch
//! - `dma`: the disk reads and writes what isn't its guest's
//! - `edu`: likewise by a DMA engine that needs no driver
//! - `interrupts`: messages that are not the device's own
//! - `config`: BARs and configuration space
//! - `toggle`: bus mastering off and on during an upgrade
//! - `storm`: a device that does nothing but fault
//! - `leave`: a guest that ends with DMA under way

pub mod config;
pub mod dma;
pub mod edu;
pub mod interrupts;
pub mod leave;
pub mod storm;
pub mod toggle;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use batonctl::api::Fault;

use super::Bed;
use crate::config::Guest;
use crate::guest_log::complaints;
use crate::log::wait_for;
use crate::machine::Machine;
use crate::outside::Registers;
use crate::spec::{Device, Iommu, Offer, Spec};
use crate::tables::{PAGE, Piece, Structures};

/// Memory of each guest: the devices' addresses from here on are nobody's.
pub const GUEST_BYTES: u64 = 2 << 20;
/// A page of the attacker's memory that it has no use for.
pub const GUEST_FREE: u64 = 0x4_0000;
/// Where QEMU's loader puts the image, and how much of it never changes: code and constants.
const IMAGE: (u64, u64) = (0x20_0000, 0x8_0000);
/// The machine's configuration space (q35), 4 KiB a function.
const ECAM: u64 = 0xb000_0000;
/// Beyond all of Baton's own patience.
const PATIENCE: Duration = Duration::from_secs(30);

/// An attacker with the first disk and the third, a neighbour that works on the second and tells by Baton's log.
pub fn spec() -> Spec {
    spec_with(&[])
}

/// The same, where the attacker has more devices.
fn spec_with(devices: &[&str]) -> Spec {
    let devices = [&["03:00.0", "05:00.0"], devices].concat();
    let attacker = Guest::bare("attacker", "attacker", &devices);
    let neighbour = Guest { pcpu: 2, console: "com1".into(), ..Guest::bare("neighbour", "disk", &["04:00.0"]) };
    let mut spec = Spec::bare(&["attacker", "disk"], &[attacker, neighbour]);
    (spec.devices, spec.cpus, spec.memory_mib, spec.typed) = (vec![Device::DISK; 3], 3, 256, true);
    spec
}

/// The same on another IOMMU.
pub fn spec_on(offer: Offer) -> Spec {
    Spec { iommu: Some(Iommu { offer, ..Iommu::default() }), ..spec() }
}

/// An attacker and a neighbour on virtual functions of one controller; each has a namespace of its own.
pub fn virtual_spec() -> Spec {
    let attacker = Guest::bare("attacker", "attacker", &["1b36:0010/vf0", "1b36:0010/vf2"]);
    let neighbour = Guest { pcpu: 2, console: "com1".into(), ..Guest::bare("neighbour", "disk", &["1b36:0010/vf1"]) };
    let mut spec = Spec::virtual_disks(&["attacker", "disk"], &[attacker, neighbour]);
    (spec.cpus, spec.typed) = (3, true);
    spec
}

/// The machine of the attacks that leave it as it was, booted once.
pub fn machine(bed: &mut Bed) -> Result<&Machine> {
    bed.shared("attack", spec, ready)
}

/// Likewise on another IOMMU.
pub fn machine_on(bed: &mut Bed, offer: Offer) -> Result<&Machine> {
    match offer {
        Offer::Legacy => machine(bed),
        Offer::Scalable | Offer::FirstStage => bed.shared(&format!("attack-{offer:?}"), || spec_on(offer), ready),
    }
}

/// Both guests have begun.
pub fn ready(machine: &Machine) -> Result<()> {
    machine.wait_guest("attacker: ready", 60)?;
    machine.wait_baton(" neighbour: ioload t=", 60)?;
    machine.wait_api(30)?;
    Ok(())
}

/// A device of a guest.
#[derive(Clone, Debug)]
pub struct Owned {
    /// Segment:bus:device.function.
    pub name: String,
    /// Bus, device, function.
    pub id: u16,
}

impl Owned {
    /// Device number `index` of a guest.
    ///
    /// # Errors
    /// It has none.
    pub fn of(machine: &Machine, guest: &str, index: usize) -> Result<Self> {
        let guests = machine.api().guests()?.guests;
        let guest = guests.into_iter().find(|entry| entry.name == guest).context("no such guest")?;
        Self::named(guest.devices.get(index).context("the guest has no such device")?.clone())
    }

    /// The device of that name.
    ///
    /// # Errors
    /// It is no name.
    pub fn named(name: String) -> Result<Self> {
        // 0000:03:00.0
        let field = |range: std::ops::Range<usize>| {
            name.get(range).and_then(|text| u16::from_str_radix(text, 16).ok()).with_context(|| name.clone())
        };
        let id = field(5..7)? << 8 | field(8..10)? << 3 | field(11..12)?;
        Ok(Self { name, id })
    }

    /// Where its configuration space is in the machine.
    #[must_use]
    pub fn config_at(&self) -> u64 {
        ECAM + u64::from(self.id) * PAGE
    }

    /// The device's configuration space, as the machine has it.
    ///
    /// # Errors
    /// When QEMU doesn't answer.
    pub fn config(&self, machine: &Machine) -> Result<Piece> {
        let name = format!("configuration space of {}", self.name);
        let piece = Piece::read(machine, &name, self.config_at(), PAGE)?;
        // A virtual function has no vendor (PCIe 9.3.4.1.1).
        ensure!(piece.long(4) != u32::MAX, "{} does not answer", self.name);
        Ok(piece)
    }

    /// Whether it may ask the IOMMU for translations: ATS is enabled (PCIe 10.5.1).
    ///
    /// # Errors
    /// It has no ATS.
    pub fn translates(&self, machine: &Machine) -> Result<bool> {
        let config = self.config(machine)?;
        let at = extended(&config, 0x000f).with_context(|| format!("{} has no ATS", self.name))?;
        Ok(config.long(at + 4) & 1 << 31 != 0)
    }

    /// Where its BAR 0, of 64 bits, is in the machine.
    ///
    /// # Errors
    /// When QEMU doesn't answer.
    pub fn bar(&self, machine: &Machine) -> Result<u64> {
        let config = self.config(machine)?;
        let at = |config: &Piece, at| u64::from(config.long(at + 4)) << 32 | u64::from(config.long(at) & !0xf);
        if config.long(0) != u32::MAX {
            return Ok(at(&config, 0x10));
        }
        // The BARs of virtual functions follow each other from an address in the capability of their physical one
        // (PCIe 9.3.3.14). Its size is not to be read; QEMU's end with the bits of pending interrupts.
        let listed = machine.api().devices()?.devices;
        let own = listed.into_iter().find(|listed| listed.bdf == self.name).context("Baton does not list it")?;
        let physical = Self::named(own.physical.context("it is no virtual function")?)?;
        let card = physical.config(machine)?;
        let sriov = extended(&card, 0x0010).context("no SR-IOV")?;
        let (first, stride) = (card.long(sriov + 0x14) & 0xffff, card.long(sriov + 0x14) >> 16);
        let index = (u32::from(self.id - physical.id) - first).checked_div(stride).unwrap_or(0);
        let pending = config.long(capability(&config, 0x11).context("no MSI-X")? + 8) & !7;
        Ok(at(&card, sriov + 0x24) + u64::from(index) * u64::from((pending + 8).next_power_of_two()))
    }

    /// Where the address of entry `entry` of its MSI-X table, in BAR 0, is in the machine (PCIe 7.7.2).
    ///
    /// # Errors
    /// It has no such table.
    pub fn message(&self, machine: &Machine, entry: u64) -> Result<u64> {
        let config = self.config(machine)?;
        let at = capability(&config, 0x11).with_context(|| format!("{} has no MSI-X", self.name))?;
        let table = config.long(at + 4);
        ensure!(table & 7 == 0, "the MSI-X table is not in BAR 0");
        Ok(self.bar(machine)? + u64::from(table) + entry * 16)
    }
}

/// Where a capability is in configuration space (PCI 3.0 6.7).
fn capability(config: &Piece, id: u8) -> Option<usize> {
    let mut at = usize::from(config.bytes[0x34]);
    // A list that is not a list ends it.
    for _ in 0..48 {
        if config.bytes[at] == id {
            return Some(at);
        }
        at = usize::from(config.bytes[at + 1]);
    }
    None
}

/// Where an extended capability is in configuration space (PCIe 7.6.3).
fn extended(config: &Piece, id: u32) -> Option<usize> {
    let mut at = 0x100;
    // A list that is not a list ends it.
    for _ in 0..64 {
        let head = config.long(at);
        if head & 0xffff == id {
            return Some(at);
        }
        at = (head >> 20) as usize;
    }
    None
}

/// The machine before an attack.
pub struct Watch<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// The attacker's device.
    pub attacker: Owned,
    /// The neighbour's device.
    pub neighbour: Owned,
    /// What the unit walks.
    pub structures: Structures,
    /// Where the neighbour's own page lies in the machine.
    pub secret: u64,
    image: Piece,
    registers: Registers,
    lines: usize,
}

impl<'a> Watch<'a> {
    /// Looks at everything that must not change.
    ///
    /// # Errors
    /// When somebody doesn't answer.
    pub fn begin(machine: &'a Machine) -> Result<Self> {
        let (attacker, neighbour) = (Owned::of(machine, "attacker", 0)?, Owned::of(machine, "neighbour", 0)?);
        let structures = Structures::read(machine)?;
        let pattern = machine.wait_baton(" neighbour: pattern at 0x", 1)?;
        let page = pattern.rsplit("0x").next().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let secret = structures.translate(neighbour.id, page.context("no address")?)?;
        Ok(Self {
            machine,
            attacker,
            neighbour,
            structures,
            secret,
            image: Piece::read(machine, "Baton's image", IMAGE.0, IMAGE.1)?,
            registers: Registers::read(machine.qmp()?)?,
            lines: machine.samples().len(),
        })
    }

    /// The attacker's third device.
    ///
    /// # Errors
    /// It has none.
    pub fn engine(&self) -> Result<Owned> {
        Owned::of(self.machine, "attacker", 2)
    }

    /// Baton's own memory.
    #[must_use]
    pub fn image(&self) -> u64 {
        self.image.base
    }

    /// Gives the attacker an order; what it says when it is done.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn order(&self, command: &str) -> Result<String> {
        let prefix = format!("attacker: {command}: ");
        let answers = || {
            let lines = self.machine.guest.lines();
            lines.iter().filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned)).collect::<Vec<_>>()
        };
        let before = answers().len();
        self.machine.type_line(command)?;
        let failed = || match self.machine.guest.find("guest failed: ") {
            Some(line) => anyhow::bail!("the attacker has failed: {line}"),
            None => self.machine.healthy(),
        };
        wait_for(&format!("end of `{command}`"), PATIENCE, failed, || answers().into_iter().nth(before))
    }

    /// Waits for Baton to tell of a fault: by the API with its address, and in the log in words.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn fault(&self, source: &str, kind: &str, address: u64) -> Result<Fault> {
        let api = self.machine.api();
        let wanted = format!("{address:#x}");
        let found = || {
            let faults = api.iommu().ok()?.faults;
            faults.into_iter().find(|fault| fault.source == source && fault.kind == kind && fault.address == wanted)
        };
        let what = format!("fault of {source}: {kind} at {wanted}");
        let fault = wait_for(&what, PATIENCE, || self.machine.healthy(), found).map_err(|error| {
            let faults = api.iommu().map(|iommu| iommu.faults).unwrap_or_default();
            error.context(format!("the API knows {faults:?}"))
        })?;
        self.machine.wait_baton(&format!("device {source}: {kind} "), 5)?;
        Ok(fault)
    }

    /// Waits until Baton has taken a device back from its guest: quiet, reset, blocked.
    ///
    /// # Errors
    /// When it doesn't.
    pub fn returned(&self, device: &Owned) -> Result<()> {
        self.machine.wait_baton(&format!("{} is nobody's again", device.name), PATIENCE.as_secs())?;
        Ok(())
    }

    /// Something may change: every structure with such a word in its name.
    pub fn except(&mut self, word: &str) {
        self.structures.pieces.retain(|piece| !piece.name.contains(word));
    }

    /// Compares, once the neighbour has worked on for a while.
    ///
    /// # Errors
    /// With everything that changed.
    pub fn end(self) -> Result<()> {
        let machine = self.machine;
        let now = machine.samples().len();
        let more = || Some(machine.samples()).filter(|lines| lines.len() >= now + 2);
        let lines = wait_for("further lines of the neighbour", PATIENCE, || machine.healthy(), more)?;
        let mut wrong = complaints(&lines[self.lines.saturating_sub(1)..]);
        for piece in self.structures.pieces.iter().chain([&self.image]) {
            if piece.again(machine)? != *piece {
                wrong.push(format!("the {} at {:#x} has changed", piece.name, piece.base));
            }
        }
        let registers = Registers::read(machine.qmp()?)?;
        if registers != self.registers {
            wrong.push(format!("the IOMMU's registers were {:x?} and are {registers:x?}", self.registers));
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }
}
