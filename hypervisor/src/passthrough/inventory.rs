//! What is on the machine's buses, who may be told apart from whom, and who has what.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use guest_loader::layout::GuestRange;
use hermit_sync::SpinMutex;
use iommu::InterruptSource;
use machine::acpi::dmar::{DeviceScope, Dmar, resolve_scope};
use machine::addr::GuestPhys;
use machine::pci::{self, Bdf, Buses, Decoded, Enumeration, Function, Groups, HeaderKind, Holder, NoReset, Reset};

use super::{sriov, units};
use crate::config::{DeviceSelector, FunctionSelector};
use crate::host;

struct Claim {
    bdf: Bdf,
    owner: String,
}

/// What was found, and how it hangs together.
struct Inventory {
    found: Enumeration,
    groups: Groups,
    /// Known from power-on on, until an upgrade: functions in use are not sized, and nothing is assigned any more.
    decoded: Decoded,
}

static INVENTORY: SpinMutex<Option<Inventory>> = SpinMutex::new(None);
/// What firmware says of the units and of memory that it reserved for devices.
static DMAR: SpinMutex<Option<Dmar>> = SpinMutex::new(None);
static CLAIMS: SpinMutex<Vec<Claim>> = SpinMutex::new(Vec::new());

/// Looks at every bus, once. At power-on ports are told to keep devices apart; after an upgrade nothing is written.
pub fn enumerate(power_on: bool) {
    let host = host::get();
    let ranges: Vec<Buses> = host
        .ecam
        .regions()
        .map(|region| Buses { segment: region.segment, first: region.start_bus, last: region.end_bus })
        .collect();
    let mut found = pci::enumerate(&*host.ecam, &ranges);
    // They do not answer as others do, so that no walk finds them.
    let virtual_ones = sriov::found(&found);
    found.functions.extend(virtual_ones);
    for oddity in &found.oddities {
        log::warn!("PCI: {oddity}");
    }
    if power_on {
        for port in pci::enable_acs(&*host.ecam, &found) {
            log::warn!("PCI: ACS of {port} stays off although it says it has it; it counts as without");
        }
    }
    let groups = Groups::compute(&*host.ecam, &found);
    *INVENTORY.lock() = Some(Inventory { found, groups, decoded: Decoded::default() });
}

/// Adds functions that were just made.
pub fn add(functions: impl Iterator<Item = Function>) {
    if let Some(inventory) = INVENTORY.lock().as_mut() {
        inventory.found.functions.extend(functions);
        inventory.groups = Groups::compute(&*host::get().ecam, &inventory.found);
    }
}

/// Keeps what firmware says of units and reserved memory.
pub fn set_dmar(dmar: Option<Dmar>) {
    *DMAR.lock() = dmar;
}

/// Does something with what was found; `None` before [`enumerate`].
pub fn with<R>(f: impl FnOnce(&Enumeration, &Groups) -> R) -> Option<R> {
    INVENTORY.lock().as_ref().map(|inventory| f(&inventory.found, &inventory.groups))
}

/// Memory that firmware reserved for a function, which it may be using right now (RMRR, VT-d 8.4).
pub fn reserved_for(function: &Function) -> Vec<GuestRange> {
    let dmar = DMAR.lock();
    let ecam = &*host::get().ecam;
    let regions = dmar.iter().flat_map(|dmar| dmar.reserved_for(ecam, function));
    // The table's reader has seen that last is not below base.
    regions
        .map(|region| GuestRange {
            start: GuestPhys(region.base.get()),
            bytes: region.last.get().saturating_sub(region.base.get()).saturating_add(1),
        })
        .collect()
}

/// Whether `device` may go to somebody who holds `together` besides.
///
/// # Errors
/// It can't be told apart from devices that are not among them, by name.
pub fn check_group(device: Bdf, together: &[Bdf]) -> Result<(), String> {
    let checked = with(|_, groups| groups.check(device, |bdf| together.contains(&bdf)));
    checked.unwrap_or(Ok(())).map_err(|error| format!("{error}"))
}

/// What the interrupts of `device` come from, if a bridge takes them over.
pub fn bridged_interrupts(device: Bdf) -> Option<InterruptSource> {
    let (first, last) = with(|_, groups| groups.bridged_interrupts(device)).flatten()?;
    let buses = InterruptSource::Buses { first: (first >> 8) as u8, last: (last >> 8) as u8 };
    Some(if first == last { InterruptSource::Function(first) } else { buses })
}

/// Whether firmware says that translations may be cached by `function`: its root port passes them (ATSR, VT-d 8.5), or it is
/// part of the root complex and listed itself (SATC, VT-d 8.8).
pub fn may_cache(function: &Function) -> bool {
    let dmar = DMAR.lock();
    let ecam = &*host::get().ecam;
    let (segment, bdf) = (function.bdf.segment(), function.bdf);
    let names = |scopes: &[DeviceScope], named: Bdf| {
        scopes.iter().any(|scope| resolve_scope(scope, segment, ecam).is_ok_and(|found| found == named))
    };
    dmar.iter().any(|dmar| match function.path.first() {
        Some(port) => dmar
            .ats_ports
            .iter()
            .any(|ports| ports.segment == segment && (ports.all_ports || names(&ports.scopes, *port))),
        None => dmar.caching.iter().any(|devices| devices.segment == segment && names(&devices.scopes, bdf)),
    })
}

/// How `device` is reset for its owner.
///
/// # Errors
/// Not without something that is another's.
pub fn reset_of(device: Bdf) -> Result<Reset, NoReset> {
    let claimed = owner(device);
    let same_owner = |other| claimed.is_some() && owner(other) == claimed;
    let ecam = &*host::get().ecam;
    // Until the buses have been looked at (an upgrade has just ended) only what the function says itself counts.
    with(|found, _| Reset::choose(ecam, found, device, same_owner))
        .unwrap_or_else(|| Reset::choose(ecam, &Enumeration::default(), device, same_owner))
}

/// For devices of one owner: each with the ids, besides its own, that its requests may carry.
pub fn sources(devices: &[Bdf]) -> Vec<(Bdf, Vec<u16>)> {
    with(|_, groups| groups.sources(devices)).unwrap_or_default()
}

/// Silences every function but bridges: nothing may write to memory before it belongs to somebody.
pub fn silence_all() {
    let host = host::get();
    with(|found, _| {
        for function in &found.functions {
            if matches!(function.header, HeaderKind::Endpoint) {
                units::silence(&host.ecam, function.bdf);
            }
        }
    });
}

/// Notes what each function decodes. While all of them are silent, before anybody has one.
pub fn measure() {
    if let Some(inventory) = INVENTORY.lock().as_mut() {
        inventory.decoded = Decoded::measure(&*host::get().ecam, &inventory.found);
    }
}

/// What others than `function` decode.
pub fn decoded_by_others(function: &Function) -> Vec<(Range<u64>, Holder)> {
    let inventory = INVENTORY.lock();
    let of = |inventory: &Inventory| inventory.decoded.others(&*host::get().ecam, &inventory.found, function);
    inventory.as_ref().map(of).unwrap_or_default()
}

/// The bridges above `bdf`, the one at the root first.
pub fn path_to(bdf: Bdf) -> Vec<Bdf> {
    with(|found, _| found.get(bdf).map(|function| function.path.clone())).flatten().unwrap_or_default()
}

/// Every function that is no bridge.
#[cfg(feature = "bench")]
pub fn endpoints() -> Vec<Bdf> {
    let endpoint = |function: &&Function| matches!(function.header, HeaderKind::Endpoint);
    with(|found, _| found.functions.iter().filter(endpoint).map(|function| function.bdf).collect()).unwrap_or_default()
}

/// The function that `selector` means.
///
/// # Errors
/// There is none.
pub fn select(selector: &DeviceSelector) -> Result<Function, String> {
    let absent = || format!("there is no PCI device {selector}: correct `devices` in baton.toml, or remove it");
    let function = with(|found, _| {
        let mut functions = found.functions.iter();
        let function = match &selector.function {
            FunctionSelector::Bdf(bdf) => functions.find(|function| function.bdf == *bdf),
            FunctionSelector::Id { vendor, device, nth } => functions
                .filter(|function| function.ids.vendor == *vendor && function.ids.device == *device)
                .nth(usize::from(*nth)),
        }?;
        let Some(index) = selector.vf else { return Some(function.clone()) };
        let mut virtual_ones = found.functions.iter().filter(|other| other.physical == Some(function.bdf));
        virtual_ones.nth(usize::from(index)).cloned()
    });
    function.flatten().ok_or_else(absent)
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
