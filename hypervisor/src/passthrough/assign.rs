//! From a selector in `baton.toml` to a function on a guest's bus.
#![expect(unsafe_code, reason = "a function's registers are taken over")]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use hermit_sync::SpinMutex;
use iommu::{InterruptSource, Token};
use machine::addr::Iova;
use machine::paging::Permissions;
use machine::pci::{
    self, Bar, BarKind, Bdf, Buses, Command, ConfigSpace, Enumeration, Function, Groups, HeaderKind, Holder, Msi, Msix,
    NoReset, Reset, Windows,
};

use super::hardware::{HostFunction, TablePlace};
use super::units;
use crate::config::{self, DeviceSelector, FunctionSelector};
use crate::guest::pci::access::BarDescription;
use crate::guest::pci::{Passthrough, PciBus};
use crate::host;
use crate::mem::regions::Owner;
use crate::time::TscClock;
use crate::upgrade::convert::pci::MsixPlace;
use crate::vm::memory::GuestRam;

/// A function that a guest may have.
pub struct Candidate {
    function: Function,
}

struct Claim {
    bdf: Bdf,
    owner: String,
}

static FOUND: SpinMutex<Option<Enumeration>> = SpinMutex::new(None);
static GROUPS: SpinMutex<Option<Groups>> = SpinMutex::new(None);
static CLAIMS: SpinMutex<Vec<Claim>> = SpinMutex::new(Vec::new());

/// Looks at every bus, once. At power-on ports are told to keep devices apart; after an upgrade nothing is written.
pub fn enumerate(power_on: bool) {
    let host = host::get();
    let ranges: Vec<Buses> = host
        .ecam
        .regions()
        .map(|region| Buses { segment: region.segment, first: region.start_bus, last: region.end_bus })
        .collect();
    let found = pci::enumerate(&*host.ecam, &ranges);
    for oddity in &found.oddities {
        log::warn!("PCI: {oddity}");
    }
    if power_on {
        for port in pci::enable_acs(&*host.ecam, &found) {
            log::warn!("PCI: ACS of {port} stays off although it says it has it; it counts as without");
        }
    }
    *GROUPS.lock() = Some(Groups::compute(&*host.ecam, &found));
    *FOUND.lock() = Some(found);
}

/// Silences every function but bridges: nothing may write to memory before it belongs to somebody.
pub fn silence_all() {
    let host = host::get();
    let found = FOUND.lock();
    for function in found.iter().flat_map(|found| &found.functions) {
        if matches!(function.header, HeaderKind::Endpoint) {
            units::silence(&host.ecam, function.bdf);
        }
    }
}

/// The bridges above `bdf`, the one at the root first.
pub fn path_to(bdf: Bdf) -> Vec<Bdf> {
    let found = FOUND.lock();
    found.as_ref().and_then(|found| found.get(bdf)).map(|function| function.path.clone()).unwrap_or_default()
}

/// Every function that is no bridge.
#[cfg(feature = "bench")]
pub fn endpoints() -> Vec<Bdf> {
    let found = FOUND.lock();
    let functions = found.iter().flat_map(|found| &found.functions);
    functions.filter(|function| matches!(function.header, HeaderKind::Endpoint)).map(|function| function.bdf).collect()
}

/// The function that `selector` means.
///
/// # Errors
/// There is none.
pub fn select(selector: &DeviceSelector) -> Result<Function, String> {
    let found = FOUND.lock();
    let mut functions = found.iter().flat_map(|found| &found.functions);
    let function = match &selector.function {
        FunctionSelector::Bdf(bdf) => functions.find(|function| function.bdf == *bdf),
        FunctionSelector::Id { vendor, device, nth } => functions
            .filter(|function| function.ids.vendor == *vendor && function.ids.device == *device)
            .nth(*nth as usize),
    };
    function
        .cloned()
        .ok_or_else(|| format!("there is no PCI device {selector}: correct `devices` in baton.toml, or remove it"))
}

/// Makes `bdf` `owner`'s.
///
/// # Errors
/// It is another's.
pub fn claim(bdf: Bdf, owner: &str) -> Result<(), String> {
    let mut claims = CLAIMS.lock();
    if let Some(claim) = claims.iter().find(|claim| claim.bdf == bdf) {
        return Err(format!("the device {bdf} belongs to {} already: remove it from one of the two", claim.owner));
    }
    claims.push(Claim { bdf, owner: owner.into() });
    Ok(())
}

/// Whose `bdf` is.
pub fn owner(bdf: Bdf) -> Option<String> {
    CLAIMS.lock().iter().find(|claim| claim.bdf == bdf).map(|claim| claim.owner.clone())
}

/// Gives up a claim.
pub fn disclaim(bdf: Bdf) {
    CLAIMS.lock().retain(|claim| claim.bdf != bdf);
}

/// The devices of `guest`, checked and claimed for it.
///
/// # Errors
/// One of them is absent, another's, not isolated, or can't be reset; none is claimed then.
pub fn find(guest: &config::Guest) -> Result<Vec<Candidate>, String> {
    let mut candidates: Vec<Candidate> = Vec::new();
    let result = guest.devices.iter().try_for_each(|device| {
        let function = check(&device.selector)?;
        claim(function.bdf, &guest.name)?;
        candidates.push(Candidate { function });
        Ok(())
    });
    if let Err(error) = result.and_then(|()| isolate(&candidates)) {
        for candidate in &candidates {
            disclaim(candidate.function.bdf);
        }
        return Err(error);
    }
    Ok(candidates)
}

fn check(selector: &DeviceSelector) -> Result<Function, String> {
    if !units::present() {
        return Err(format!(
            "it asks for the device {selector}, and the machine has no IOMMU in use: enable VT-d in the firmware (QEMU: \
             -device intel-iommu,intremap=on), or remove the device"
        ));
    }
    let function = select(selector)?;
    let bdf = function.bdf;
    if !matches!(function.header, HeaderKind::Endpoint) {
        return Err(format!("{bdf} is a bridge: only endpoints can be given to a guest"));
    }
    if units::unit_of(bdf).is_none() {
        return Err(format!(
            "no IOMMU unit translates for the device {bdf}: the firmware's DMAR table does not name it"
        ));
    }
    Ok(function)
}

/// What the interrupts of `device` come from, if a bridge takes them over.
pub fn bridged_interrupts(device: Bdf) -> Option<InterruptSource> {
    let (first, last) = GROUPS.lock().as_ref()?.bridged_interrupts(device)?;
    let buses = InterruptSource::Buses { first: (first >> 8) as u8, last: (last >> 8) as u8 };
    Some(if first == last { InterruptSource::Function(first) } else { buses })
}

/// How `device` is reset for its owner.
///
/// # Errors
/// Not without something that is another's.
pub fn reset_of(device: Bdf) -> Result<Reset, NoReset> {
    let found = FOUND.lock();
    let nothing = Enumeration::default();
    let owner = owner(device);
    let same_owner = |other| owner.is_some() && self::owner(other) == owner;
    // Without an enumeration (an upgrade has just ended) only what the function says itself counts.
    Reset::choose(&*host::get().ecam, found.as_ref().unwrap_or(&nothing), device, same_owner)
}

/// Whether all of them together can be kept apart from the rest, and reset.
fn isolate(candidates: &[Candidate]) -> Result<(), String> {
    for candidate in candidates {
        reset_of(candidate.function.bdf).map_err(|error| error.to_string())?;
    }
    let groups = GROUPS.lock();
    let Some(groups) = groups.as_ref() else { return Ok(()) };
    let together = |bdf| candidates.iter().any(|candidate| candidate.function.bdf == bdf);
    candidates
        .iter()
        .try_for_each(|candidate| groups.check(candidate.function.bdf, together).map_err(|error| error.to_string()))
}

/// Whether the BARs lead to the device and nowhere else: they will be mapped, and are the device's word.
fn check_bars(function: &Function, bars: &[Bar]) -> Result<(), String> {
    let host = host::get();
    let regions = host.regions.lock();
    // What firmware keeps may well hold the windows of ports; memory it is not.
    let memory = regions.iter().filter(|region| region.owner != Owner::Firmware);
    let memory = memory.map(|region| (region.base..region.end(), Holder::Memory));
    let registers: Vec<_> = host.ecam.regions().filter_map(|region| region.extent()).collect();
    let registers = registers.iter().map(|(base, bytes)| (base.get()..base.get() + bytes, Holder::Registers));
    let windows = function.path.last().map(|port| Windows::read(&*host.ecam, *port));
    let held = memory.chain(registers);
    pci::check_bars(function.bdf, bars, windows.as_ref(), held).map_err(|clash| clash.to_string())
}

fn describe(bars: &[Bar], bdf: Bdf) -> Result<Vec<BarDescription>, String> {
    let mut descriptions = Vec::new();
    for bar in bars {
        let (wide, prefetchable) = match bar.kind {
            // Ports are not offered to guests.
            BarKind::Io => continue,
            BarKind::Memory32 { prefetchable } => (false, prefetchable),
            BarKind::Memory64 { prefetchable } => (true, prefetchable),
        };
        if bar.address.get() == 0 {
            return Err(format!("the firmware gave BAR {} of the device {bdf} no address", bar.index));
        }
        descriptions.push(BarDescription { index: bar.index, wide, prefetchable, host: bar.address, bytes: bar.bytes });
    }
    Ok(descriptions)
}

/// Puts the candidates on the guest's bus: reset, quiet, in a domain that shows the guest's RAM and nothing else.
///
/// # Errors
/// A device is broken or the arena is exhausted.
pub fn assign(
    candidates: Vec<Candidate>,
    token: u64,
    ram: &GuestRam,
    bus: &mut PciBus,
) -> Result<Vec<Assigned>, String> {
    let mut assigned = Vec::new();
    if candidates.is_empty() {
        return Ok(assigned);
    }
    let ecam = host::get().ecam.clone();
    let devices: Vec<Bdf> = candidates.iter().map(|candidate| candidate.function.bdf).collect();
    let aliases = GROUPS.lock().as_ref().map(|groups| groups.sources(&devices)).unwrap_or_default();
    create_domain(token, ram)?;
    for candidate in candidates {
        let bdf = candidate.function.bdf;
        let bars = pci::bars(&*ecam, bdf, candidate.function.header).map_err(|error| error.to_string())?;
        check_bars(&candidate.function, &bars)?;
        let descriptions = describe(&bars, bdf)?;
        let reset = reset_of(bdf).map_err(|error| error.to_string())?;
        reset.perform(&*ecam, &TscClock).map_err(|error| error.to_string())?;
        Command::MEMORY.union(Command::INTX_DISABLE).write(&*ecam, bdf);
        let msix = Msix::find(&*ecam, bdf).map(|msix| MsixPlace {
            capability: msix.offset as u8,
            entries: msix.vectors,
            table_bar: msix.table.bar,
            table_offset: msix.table.offset,
            pending_bar: msix.pending.bar,
            pending_offset: msix.pending.offset,
        });
        let function = Assigned {
            bdf,
            identity: ecam.read32(bdf, 0),
            slot: 0,
            bars: descriptions,
            msix,
            msi: Msi::find(&*ecam, bdf).map(|msi| msi.offset as u8),
        };
        let slot = function.put_on(bus)?;
        assigned.push(Assigned { slot, ..function });
        attach(bdf, aliases.iter().find(|(of, _)| *of == bdf).map_or(&[], |(_, ids)| ids), token)?;
        log::info!("{bdf} is in the domain {token:#x}");
    }
    Ok(assigned)
}

/// A function on a guest's bus: what does not change about it while the guest has it.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// Its place in the machine.
    pub bdf: Bdf,
    /// Vendor in bits 15:0, device in 31:16.
    pub identity: u32,
    /// Its slot on the guest's bus.
    pub slot: u8,
    /// Memory BARs.
    pub bars: Vec<BarDescription>,
    /// Its MSI-X structures.
    pub msix: Option<MsixPlace>,
    /// Offset of the MSI capability.
    pub msi: Option<u8>,
}

impl Assigned {
    /// Makes the function's front end and puts it on the bus; returns the slot. Only reads the hardware.
    ///
    /// # Errors
    /// The device is broken, or the bus is full.
    pub fn put_on(&self, bus: &mut PciBus) -> Result<u8, String> {
        let table = self.msix.map(|msix| TablePlace { bar: msix.table_bar, offset: msix.table_offset.into() });
        // SAFETY: the BARs were read and sized when the function was first taken, and have not moved since; the function is
        // claimed, so nobody else uses it.
        let hardware = unsafe { HostFunction::new(self.bdf, host::get().ecam.clone(), &self.bars, table) };
        let hardware = hardware.map_err(|error| error.to_string())?;
        let function = Passthrough::new(self.bdf, Box::new(hardware), &self.bars).map_err(|error| error.to_string())?;
        bus.add(function).map_err(|error| error.to_string())
    }
}

/// A domain that shows `ram` where the guest sees it.
fn create_domain(token: u64, ram: &GuestRam) -> Result<(), String> {
    let made = units::with(|units, platform| {
        units.create_domain(platform, Token(token))?;
        for extent in &ram.extents {
            units.map(
                platform,
                Token(token),
                Iova(extent.guest.get()),
                extent.host,
                extent.bytes,
                Permissions::READ_WRITE,
            )?;
        }
        Ok::<(), iommu::Error>(())
    });
    match made {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the machine has no IOMMU in use".into()),
    }
}

fn attach(bdf: Bdf, aliases: &[u16], token: u64) -> Result<(), String> {
    match units::with(|units, platform| units.attach(platform, bdf, aliases, Token(token), None)) {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the machine has no IOMMU in use".into()),
    }
}
