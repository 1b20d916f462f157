//! What the tables say, as plain values.
#![expect(unsafe_code, reason = "the acpi crate's constructors trust their addresses")]

use super::Mapper;
use super::copies::{Copy, Handler};
use super::dmar::{Dmar, DmarError};
use super::error::{AcpiError, AcpiWarning, Signature};
use super::vet;
use crate::addr::HostPhys;
use crate::pci::EcamRegion;
use acpi::address::AddressSpace;
use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::Mcfg;
use acpi::{AcpiTables, HpetInfo};
use alloc::vec::Vec;

/// One CPU, as the MADT lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Processor {
    /// Its APIC id.
    pub apic_id: u32,
    /// What AML calls it.
    pub uid: u32,
    /// Whether it may be started.
    pub enabled: bool,
}

/// One I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its id, which a DMAR scope refers to.
    pub id: u8,
    /// Its registers.
    pub address: HostPhys,
    /// The global interrupt of its first pin.
    pub first_interrupt: u32,
}

/// An ISA interrupt that does not arrive where one would think.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptOverride {
    /// The ISA interrupt.
    pub irq: u8,
    /// The global interrupt it arrives at.
    pub interrupt: u32,
    /// Whether it is active low.
    pub active_low: bool,
    /// Whether it is level-triggered.
    pub level: bool,
}

/// The high precision event timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hpet {
    /// Its registers.
    pub address: HostPhys,
    /// Its number, which a DMAR scope refers to.
    pub number: u8,
}

/// The power management timer, 3,579,545 ticks a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PmTimer {
    /// Its 32-bit port.
    Port {
        /// The port.
        port: u16,
        /// Whether it counts 32 bits, not 24.
        wide: bool,
    },
    /// Its register in memory.
    Memory {
        /// The register.
        address: HostPhys,
        /// Whether it counts 32 bits, not 24.
        wide: bool,
    },
}

/// What firmware says about the machine.
#[derive(Clone, Debug, Default)]
pub struct Platform {
    /// The CPUs, each APIC id once.
    pub processors: Vec<Processor>,
    /// Registers of the local APICs.
    pub local_apic: HostPhys,
    /// Whether there are two 8259s to be masked.
    pub has_8259: bool,
    /// The I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// ISA interrupts that are not where their number says.
    pub overrides: Vec<InterruptOverride>,
    /// Configuration space.
    pub ecam: Vec<EcamRegion>,
    /// The HPET, if there is one.
    pub hpet: Option<Hpet>,
    /// The PM timer, if there is one.
    pub pm_timer: Option<PmTimer>,
    /// The IOMMUs: nothing if there is no DMAR table, an error if it is unusable.
    pub dmar: Option<Result<Dmar, DmarError>>,
    /// Tables that were left out, and why.
    pub warnings: Vec<AcpiWarning>,
}

/// Reads the tables that the root pointer at `rsdp` leads to. A table that is broken
/// is left out with a warning; only without a root is there nothing to say.
pub fn read(mapper: &(impl Mapper + ?Sized), rsdp: HostPhys) -> Result<Platform, AcpiError> {
    let roots = vet::root_pointer(mapper, rsdp).ok_or(AcpiError::RootPointer { at: rsdp })?;
    let mut platform = Platform::default();
    let wide = roots.xsdt.and_then(|xsdt| match vet::tree(mapper, xsdt, true, &mut platform.warnings) {
        Ok(copies) => Some((2, xsdt, copies)),
        Err(warning) => {
            platform.warnings.push(warning);
            None
        }
    });
    let (revision, root, copies) = match wide {
        Some(found) => found,
        None => match vet::tree(mapper, roots.rsdt, false, &mut platform.warnings) {
            Ok(copies) => (0, roots.rsdt, copies),
            Err(why) => return Err(AcpiError::RootTable { at: rsdp, why }),
        },
    };
    decode(&mut platform, &copies, revision, root).map_err(|why| AcpiError::RootTable { at: rsdp, why })?;
    Ok(platform)
}

fn decode(platform: &mut Platform, copies: &[Copy], revision: u8, root: HostPhys) -> Result<(), AcpiWarning> {
    let wrong = AcpiWarning::Wrong { table: Signature(*b"XSDT"), at: root };
    let root = copies.iter().find(|copy| copy.address() as u64 == root.0).ok_or(wrong)?;
    // SAFETY: the handler answers any address, with a vetted copy or with zeroes; the
    // root's copy is at least a header long.
    let tables = unsafe { AcpiTables::from_rsdt(Handler(copies), revision, root.address()) }.map_err(|_| wrong)?;
    if let Ok(madt) = tables.find_table::<Madt>() {
        interrupts(platform, madt.get());
    }
    if let Ok(mcfg) = tables.find_table::<Mcfg>() {
        for (index, entry) in mcfg.entries().iter().enumerate() {
            let region = EcamRegion {
                base: HostPhys(entry.base_address),
                segment: entry.pci_segment_group,
                start_bus: entry.bus_number_start,
                end_bus: entry.bus_number_end,
            };
            // The same functions under two names would be given away twice.
            let is_new = platform.ecam.iter().all(|known| known.is_apart(&region));
            if region.extent().is_some() && is_new {
                platform.ecam.push(region);
            } else {
                let table = Signature(*b"MCFG");
                platform.warnings.push(AcpiWarning::Value { table, offset: 44 + index * 16 });
            }
        }
    }
    if let Ok(hpet) = HpetInfo::new(&tables) {
        let address = HostPhys(hpet.base_address as u64);
        platform.hpet = (address.0 != 0).then_some(Hpet { address, number: hpet.hpet_number });
    }
    if let Ok(fadt) = tables.find_table::<Fadt>() {
        platform.pm_timer = pm_timer(&fadt);
    }
    let dmar = copies.iter().find(|copy| copy.signature().0 == *b"DMAR");
    platform.dmar = dmar.map(|copy| Dmar::parse(copy.bytes()));
    Ok(())
}

fn interrupts(platform: &mut Platform, madt: core::pin::Pin<&Madt>) {
    platform.local_apic = HostPhys(madt.local_apic_address.into());
    platform.has_8259 = madt.supports_8259();
    let mut processor = |apic_id: u32, uid: u32, flags: u32, none: u32| {
        // Firmware may list a CPU twice, as APIC and as x2APIC.
        if apic_id != none && platform.processors.iter().all(|known| known.apic_id != apic_id) {
            platform.processors.push(Processor { apic_id, uid, enabled: flags & 1 != 0 });
        }
    };
    // The walk ends: no structure is empty or leaves the table (see `vet`).
    for entry in madt.entries() {
        match entry {
            MadtEntry::LocalApic(it) => processor(it.apic_id.into(), it.processor_id.into(), it.flags, 0xff),
            MadtEntry::LocalX2Apic(it) => processor(it.x2apic_id, it.processor_uid, it.flags, u32::MAX),
            MadtEntry::IoApic(it) => platform.io_apics.push(IoApic {
                id: it.io_apic_id,
                address: HostPhys(it.io_apic_address.into()),
                first_interrupt: it.global_system_interrupt_base,
            }),
            MadtEntry::InterruptSourceOverride(it) if it.bus == 0 => {
                // ACPI table 5.27: 3 means the opposite of ISA's active high and edge, 0 and 1 the same.
                let flags = it.flags;
                platform.overrides.push(InterruptOverride {
                    irq: it.irq,
                    interrupt: it.global_system_interrupt,
                    active_low: flags & 3 == 3,
                    level: flags >> 2 & 3 == 3,
                });
            }
            MadtEntry::LocalApicAddressOverride(it) => platform.local_apic = HostPhys(it.local_apic_address),
            _ => {}
        }
    }
}

fn pm_timer(fadt: &Fadt) -> Option<PmTimer> {
    let block = fadt.pm_timer_block().ok()??;
    let flags = fadt.flags;
    let wide = flags.pm_timer_is_32_bit();
    match block.address_space {
        AddressSpace::SystemIo => Some(PmTimer::Port { port: u16::try_from(block.address).ok()?, wide }),
        AddressSpace::SystemMemory => Some(PmTimer::Memory { address: HostPhys(block.address), wide }),
        _ => None,
    }
}
