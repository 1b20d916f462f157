//! Virtual functions: made at power-on, before any guest starts, and never changed again. Their physical function stays with
//! Baton, quiet and blocked: it is there to be asked for ids and memory, which a virtual function's own configuration space
//! does not have (PCIe 9.3.4.1).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::Range;

use hermit_sync::SpinMutex;
use machine::pci::{self, Bar, BarKind, Bdf, ConfigSpace, Enumeration, Function, HeaderKind, Room, Sriov, Windows};

use super::units::{self, Units};
use super::{inventory, nvme};
use crate::config;
use crate::host;
use crate::manage::nic::OWNER;
use crate::time::TscClock;

/// A physical function with virtual ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Physical {
    /// The function.
    pub bdf: Bdf,
    /// Vendor in bits 15:0, device in 31:16.
    pub identity: u32,
    /// Device id of the virtual functions.
    pub device: u16,
    /// How many.
    pub count: u16,
    /// From its requester id to the first.
    pub first: u16,
    /// From each to the next.
    pub stride: u16,
    /// Memory of each: what an assignment needs, and so empty after an upgrade, when nothing is assigned any more.
    bars: Vec<(Bdf, Vec<Bar>)>,
}

impl Physical {
    /// As the hardware has it now.
    fn read(bdf: Bdf) -> Option<Self> {
        let ecam = &*host::get().ecam;
        let sriov = Sriov::find(ecam, bdf).filter(|sriov| sriov.enabled)?;
        Some(Self {
            bdf,
            identity: ecam.read32(bdf, 0),
            device: sriov.device,
            count: sriov.count,
            first: sriov.first,
            stride: sriov.stride,
            bars: Vec::new(),
        })
    }

    /// The virtual functions.
    pub fn functions(&self) -> impl Iterator<Item = Bdf> + '_ {
        let id = u32::from(self.bdf.requester_id()) + u32::from(self.first);
        let ids = (0..u32::from(self.count)).map(move |index| id + index * u32::from(self.stride));
        ids.filter_map(|id| Some(Bdf::from_requester_id(self.bdf.segment(), u16::try_from(id).ok()?)))
    }
}

static ALL: SpinMutex<Vec<Physical>> = SpinMutex::new(Vec::new());

/// The physical functions with virtual ones, for the records.
pub fn all() -> Vec<Physical> {
    ALL.lock().clone()
}

/// The physical function of a virtual one.
pub fn physical_of(function: Bdf) -> Option<Bdf> {
    ALL.lock()
        .iter()
        .find(|physical| physical.functions().any(|virtual_one| virtual_one == function))
        .map(|found| found.bdf)
}

/// Vendor in bits 15:0, device in 31:16, of a virtual function, which does not say itself.
pub fn identity(function: Bdf) -> Option<u32> {
    let all = ALL.lock();
    let physical = all.iter().find(|physical| physical.functions().any(|virtual_one| virtual_one == function))?;
    Some(physical.identity & 0xffff | u32::from(physical.device) << 16)
}

/// The memory of a virtual function that was made by this image.
pub fn bars(function: Bdf) -> Option<Vec<Bar>> {
    let all = ALL.lock();
    let mut made = all.iter().flat_map(|physical| &physical.bars);
    made.find(|(bdf, _)| *bdf == function).map(|(_, bars)| bars.clone())
}

/// Makes what `baton.toml` asks for. Whoever names a function that could not be made is refused later.
pub fn make(wanted: &[config::Sriov]) {
    for sriov in wanted {
        match make_one(sriov) {
            Ok(bdf) => log::info!("{bdf} has {} virtual functions and stays with Baton", sriov.vfs),
            Err(error) => log::error!("no virtual functions of {}: {error}", sriov.device),
        }
    }
}

fn make_one(wanted: &config::Sriov) -> Result<Bdf, String> {
    let physical = inventory::select(&wanted.device)
        .map_err(|_| "there is no such PCI device; correct sriov.device in baton.toml".to_string())?;
    let bdf = physical.bdf;
    if Sriov::find(&*host::get().ecam, bdf).is_none() {
        return Err(format!("{bdf} has no virtual functions; remove its [[sriov]]"));
    }
    inventory::claim(bdf, OWNER)?;
    let made = make_claimed(wanted, &physical);
    if made.is_err() {
        inventory::disclaim(bdf);
    }
    made.map(|()| bdf)
}

fn make_claimed(wanted: &config::Sriov, physical: &Function) -> Result<(), String> {
    let bdf = physical.bdf;
    let controller = nvme::is_controller(physical);
    if controller {
        nvme::prepare(physical)?;
    } else if !wanted.namespaces.is_empty() {
        return Err(format!("{bdf} is no NVMe controller; remove sriov.namespaces"));
    }
    let ecam = &*host::get().ecam;
    // After the reset that may just have been.
    let sriov =
        Sriov::find(ecam, bdf).ok_or_else(|| format!("{bdf} does not say any more that it has virtual functions"))?;
    let made = inventory::with(|found, _| {
        let mut room = room(found, physical);
        sriov.enable(ecam, &TscClock, found, wanted.vfs, |bar, bytes| match &mut room {
            Some(room) => room.take(bar, bytes),
            // On a root bus nobody says what is forwarded: only the firmware can have placed them.
            None => Some(bar.address.get()).filter(|at| *at != 0),
        })
    });
    let made = made.ok_or("the buses have not been looked at")?.map_err(|error| error.to_string())?;
    let brought = if controller { nvme::bring_online(physical, wanted.vfs, &wanted.namespaces) } else { Ok(()) };
    let known = brought.and_then(|()| {
        Physical::read(bdf).ok_or_else(|| "its virtual functions went away again; power-cycle the card".to_string())
    });
    let mut known = known.inspect_err(|_| sriov.disable(ecam, &TscClock))?;
    known.bars = made.iter().map(|made| (made.function.bdf, made.bars.clone())).collect();
    units::with(|units, _| name_to(units, &known));
    ALL.lock().push(known);
    inventory::add(made.into_iter().map(|made| made.function));
    Ok(())
}

/// The memory that the bridge above forwards, and who has what of it.
fn room(found: &Enumeration, physical: &Function) -> Option<Room> {
    let ecam = &*host::get().ecam;
    let bridge = *physical.path.last()?;
    let below = found.functions.iter().filter(|function| function.path.contains(&bridge));
    let mut taken: Vec<Range<u64>> = Vec::new();
    for function in below {
        match function.header {
            HeaderKind::Bridge { .. } => {
                let windows = Windows::read(ecam, function.bdf);
                taken.extend([windows.memory, windows.prefetchable]);
            }
            _ => {
                let own = bars(function.bdf).or_else(|| pci::bars(ecam, function.bdf, function.header).ok());
                let memory = own.into_iter().flatten().filter(|bar| bar.kind != BarKind::Io);
                taken.extend(memory.map(|bar| bar.address.get()..bar.address.get().saturating_add(bar.bytes)));
            }
        }
    }
    Some(Room::new(Windows::read(ecam, bridge), taken))
}

/// Takes over the virtual functions of the image before this one: nothing is written.
///
/// # Errors
/// A physical function is not as recorded.
pub fn restore(recorded: Vec<Physical>) -> Result<(), String> {
    for physical in &recorded {
        let live = Physical::read(physical.bdf);
        if live.as_ref() != Some(physical) {
            return Err(format!("the virtual functions of {} are {live:x?}, recorded is {physical:x?}", physical.bdf));
        }
        inventory::claim(physical.bdf, OWNER)?;
    }
    *ALL.lock() = recorded;
    Ok(())
}

/// Tells the units which functions are virtual.
pub fn tell(units: &mut Units) {
    ALL.lock().iter().for_each(|physical| name_to(units, physical));
}

fn name_to(units: &mut Units, physical: &Physical) {
    for function in physical.functions() {
        units.add_virtual_function(physical.bdf, function);
    }
}

/// What a record says of a physical function.
#[must_use]
pub const fn recorded(bdf: Bdf, identity: u32, device: u16, count: u16, first: u16, stride: u16) -> Physical {
    Physical { bdf, identity, device, count, first, stride, bars: Vec::new() }
}

/// The virtual functions there are, for an enumeration that has not seen them.
pub fn found(found: &Enumeration) -> Vec<Function> {
    let ecam = &*host::get().ecam;
    let with_sriov = |physical: &Physical| Some((Sriov::find(ecam, physical.bdf)?, found.get(physical.bdf)?));
    let all = ALL.lock();
    all.iter().filter_map(with_sriov).flat_map(|(sriov, physical)| sriov.functions(ecam, physical)).collect()
}
