//! From a selector in `baton.toml` to a function on a guest's bus.
#![expect(unsafe_code, reason = "a function's registers are taken over")]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use guest_loader::layout::{GuestMap, GuestRange};
use iommu::Token;
use machine::addr::{HostPhys, Iova};
use machine::paging::{LeafSizes, Permissions};
use machine::pci::{
    self, Ats, Bar, BarKind, Bdf, Command, ConfigSpace, Function, HeaderKind, Holder, Msi, Msix, Windows,
};

use super::hardware::{HostFunction, TablePlace};
use super::{inventory, release, requests, sriov, units};
use crate::config::{self, GuestDevice};
use crate::guest::pci::access::BarDescription;
use crate::guest::pci::{Passthrough, PciBus};
use crate::host;
use crate::mem::regions::Owner;
use crate::time::TscClock;
use crate::upgrade::convert::pci::MsixPlace;
use crate::vm;
use crate::vm::memory::GuestRam;

/// A function that a guest may have.
pub struct Candidate {
    function: Function,
    /// Memory that firmware reserved for it, and that the operator lets it go on using.
    reserved: Vec<GuestRange>,
    /// Its translation cache is believed.
    trusted_ats: bool,
}

impl Candidate {
    /// Its place in the machine.
    #[must_use]
    pub const fn bdf(&self) -> Bdf {
        self.function.bdf
    }
}

/// The devices of `guest`, checked and claimed for it.
///
/// # Errors
/// One of them is absent, another's, not isolated, or can't be reset; none is claimed then.
pub fn find(guest: &config::Guest) -> Result<Vec<Candidate>, String> {
    let mut candidates: Vec<Candidate> = Vec::new();
    let result = guest.devices.iter().try_for_each(|device| {
        let candidate = check(device)?;
        inventory::claim(candidate.function.bdf, &guest.name)?;
        candidates.push(candidate);
        Ok(())
    });
    let together: Vec<Bdf> = candidates.iter().map(|candidate| candidate.function.bdf).collect();
    let isolated = || {
        together.iter().try_for_each(|device| {
            inventory::check_group(*device, &together)?;
            inventory::reset_of(*device).map(|_| ()).map_err(|error| error.to_string())
        })
    };
    if let Err(error) = result.and_then(|()| isolated()) {
        together.iter().for_each(|device| inventory::disclaim(*device));
        return Err(error);
    }
    Ok(candidates)
}

/// Takes everything back from a guest that could not start.
///
/// # Errors
/// A unit does not obey: the guest's memory must stay its own.
pub fn withdraw(devices: &[Bdf], token: u64) -> Result<(), iommu::Error> {
    release::detach(devices, Token(token))?;
    devices.iter().for_each(|device| inventory::disclaim(*device));
    Ok(())
}

/// The guest's memory around what is reserved for its devices.
///
/// # Errors
/// Something is reserved where every guest has something else.
pub fn reserve(candidates: &[Candidate], memory: GuestMap) -> Result<GuestMap, String> {
    let mut memory = memory;
    for candidate in candidates {
        for range in &candidate.reserved {
            memory = memory.reserve(*range).map_err(|error| {
                let bdf = candidate.function.bdf;
                format!("the firmware reserves memory for the device {bdf}, and {error}: remove the device")
            })?;
        }
    }
    Ok(memory)
}

fn check(device: &GuestDevice) -> Result<Candidate, String> {
    let selector = &device.selector;
    if !units::present() {
        return Err(format!(
            "it asks for the device {selector}, and the machine has no IOMMU in use: enable VT-d in the firmware (QEMU: \
             -device intel-iommu,intremap=on), or remove the device"
        ));
    }
    let function = inventory::select(selector)?;
    let bdf = function.bdf;
    able(&function)?;
    let reserved = inventory::reserved_for(&function);
    if let Some(range) = reserved.first().filter(|_| !device.allow_rmrr) {
        return Err(format!(
            "the firmware reserved the memory {} to {} for the device {bdf} (RMRR), and may have it use that behind the \
             guest's back: write {{ device = \"{selector}\", allow_rmrr = true }} to allow it, or choose another device",
            range.start,
            range.end()
        ));
    }
    let regions = host::get().regions.lock();
    let usable = |range: &&GuestRange| {
        regions.iter().any(|region| {
            region.owner != Owner::Firmware && region.base < range.end().get() && range.start.get() < region.end()
        })
    };
    let others = vm::all();
    let shared =
        |range: &&GuestRange| others.iter().any(|vm| vm.ram.reserved.iter().any(|known| known.overlaps(**range)));
    if let Some(range) = reserved.iter().find(shared) {
        return Err(format!(
            "the firmware reserved the memory {} to {} for the device {bdf} (RMRR) and for a device of another guest: give \
             both to one guest",
            range.start,
            range.end()
        ));
    }
    match reserved.iter().find(usable) {
        Some(range) => Err(format!(
            "the firmware reserved the memory {} to {} for the device {bdf} (RMRR), and calls it usable at the same time: \
             update the firmware, or choose another device",
            range.start,
            range.end()
        )),
        None => Ok(Candidate { function, reserved, trusted_ats: device.trusted_ats }),
    }
}

/// Whether the function is one that guests can have, apart from what else they have.
fn able(function: &Function) -> Result<(), String> {
    let bdf = function.bdf;
    if !matches!(function.header, HeaderKind::Endpoint) {
        return Err(format!("{bdf} is a bridge: only endpoints can be given to a guest"));
    }
    if units::unit_of(bdf).is_none() {
        return Err(format!(
            "no IOMMU unit translates for the device {bdf}: the firmware's DMAR table does not name it"
        ));
    }
    if let Some(line) = pci::line_only(&*host::get().ecam, bdf) {
        return Err(format!(
            "{bdf} interrupts by the line INT{line}# only (INTx), and guests get MSI and MSI-X: choose another device"
        ));
    }
    Ok(())
}

/// Why a guest could not have the function alone.
pub fn refusal(function: &Function) -> Option<String> {
    let bdf = function.bdf;
    let alone = able(function).and_then(|()| inventory::check_group(bdf, &[bdf]));
    let alone = alone.and_then(|()| inventory::reset_of(bdf).map(|_| ()).map_err(|error| error.to_string()));
    let reserved = || {
        inventory::reserved_for(function)
            .first()
            .map(|range| format!("the firmware reserved memory for it (RMRR) at {}", range.start))
    };
    alone.err().or_else(reserved)
}

/// Whether the BARs lead to the device and nowhere else: they will be mapped, and are the device's word.
pub(super) fn check_bars(function: &Function, bars: &[Bar]) -> Result<(), String> {
    let host = host::get();
    let regions = host.regions.lock();
    // What firmware keeps may well hold the windows of ports; memory it is not.
    let memory = regions.iter().filter(|region| region.owner != Owner::Firmware);
    let memory = memory.map(|region| (region.base..region.end(), Holder::Memory));
    let registers: Vec<_> = host.ecam.regions().filter_map(|region| region.extent()).collect();
    let registers = registers.iter().map(|(base, bytes)| (base.get()..base.get() + bytes, Holder::Registers));
    let windows = function.path.last().map(|port| Windows::read(&*host.ecam, *port));
    let held = memory.chain(registers).chain(inventory::decoded_by_others(function));
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
    (ram, pages): (&GuestRam, LeafSizes),
    bus: &mut PciBus,
) -> Result<Vec<Assigned>, String> {
    let mut assigned = Vec::new();
    if candidates.is_empty() {
        return Ok(assigned);
    }
    let ecam = host::get().ecam.clone();
    let devices: Vec<Bdf> = candidates.iter().map(|candidate| candidate.function.bdf).collect();
    let aliases = inventory::sources(&devices);
    create_domain(token, ram, pages)?;
    for candidate in candidates {
        let bdf = candidate.function.bdf;
        // A virtual function's memory is its physical function's to say.
        let bars = match sriov::bars(bdf) {
            Some(bars) => bars,
            None => pci::bars(&*ecam, bdf, candidate.function.header).map_err(|error| error.to_string())?,
        };
        check_bars(&candidate.function, &bars)?;
        let descriptions = describe(&bars, bdf)?;
        let reset = inventory::reset_of(bdf).map_err(|error| error.to_string())?;
        reset.perform(&*ecam, &TscClock).map_err(|error| error.to_string())?;
        requests::stop(&*ecam, &TscClock, bdf, sriov::physical_of(bdf))?;
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
            identity: sriov::identity(bdf).unwrap_or_else(|| ecam.read32(bdf, 0)),
            slot: 0,
            bars: descriptions,
            msix,
            msi: Msi::find(&*ecam, bdf).map(|msi| msi.offset as u8),
            ats: false,
        };
        let aliases = aliases.iter().find(|(of, _)| *of == bdf).map_or(&[][..], |(_, ids)| ids);
        let ats = attach(&candidate, aliases, token)?;
        let function = Assigned { ats, ..function };
        let slot = function.put_on(bus)?;
        assigned.push(Assigned { slot, ..function });
        log::info!("{bdf} is in the domain {token:#x}{}", if ats { ", with its translation cache" } else { "" });
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
    /// Its translation cache is on (ATS).
    pub ats: bool,
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
        let hardware = unsafe { HostFunction::new(self, host::get().ecam.clone(), table) };
        let hardware = hardware.map_err(|error| error.to_string())?;
        let function = Passthrough::new(self.bdf, Box::new(hardware), &self.bars).map_err(|error| error.to_string())?;
        bus.add(function).map_err(|error| error.to_string())
    }
}

/// A domain that shows `ram` where the guest sees it, and what is reserved for the guest's devices where the machine has it.
fn create_domain(token: u64, ram: &GuestRam, pages: LeafSizes) -> Result<(), String> {
    let made = units::with(|units, platform| {
        units.create_domain_of(platform, Token(token), pages)?;
        let extents = ram.extents.iter().map(|extent| (extent.guest, extent.host, extent.bytes));
        // What firmware has a device use lies for it where it always lay.
        let reserved = ram.reserved.iter().map(|range| (range.start, HostPhys(range.start.get()), range.bytes));
        for (guest, host, bytes) in extents.chain(reserved) {
            units.map(platform, Token(token), Iova(guest.get()), host, bytes, Permissions::READ_WRITE)?;
        }
        Ok::<(), iommu::Error>(())
    });
    match made {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the machine has no IOMMU in use".into()),
    }
}

/// Puts the function into the domain. Returns whether its translation cache is on: where the operator, the function, the way
/// to it and the unit all allow it.
fn attach(candidate: &Candidate, aliases: &[u16], token: u64) -> Result<bool, String> {
    let bdf = candidate.function.bdf;
    let ecam = &*host::get().ecam;
    let enter = |depth| match units::with(|units, platform| units.attach(platform, bdf, aliases, Token(token), depth)) {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the machine has no IOMMU in use".into()),
    };
    let cache = if candidate.trusted_ats { Ats::find(ecam, bdf) } else { None };
    // Invalidations for virtual functions wait in their physical one's queue (PCIe 10.5.1.2): theirs says nothing.
    let depth = |own: &Ats| {
        sriov::physical_of(bdf).and_then(|bdf| Ats::find(ecam, bdf)).map_or(own.queue_depth, |of| of.queue_depth)
    };
    let Some(cache) = cache.filter(|_| inventory::may_cache(&candidate.function)) else {
        if candidate.trusted_ats {
            log::warn!("{bdf} has no translation cache that can be used here (ATS): ats = \"trusted\" has no effect");
        }
        return enter(None).map(|()| false);
    };
    if let Err(error) = enter(Some(depth(&cache))) {
        log::warn!("{bdf} goes without its translation cache: {error}");
        return enter(None).map(|()| false);
    }
    cache.enable(ecam).map_err(|error| error.to_string())?;
    Ok(true)
}
