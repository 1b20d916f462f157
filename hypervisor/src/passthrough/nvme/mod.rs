//! NVMe controllers with virtual functions, which stay with Baton: a virtual function is offline until commands to the
//! physical function's admin queue have given it queues and interrupts.
//!
//! - `admin`: the admin queue
//! - `virtualization`: the commands
//! - `formats`: what the controller says of itself
//! - `error`: what can be wrong
//! - here: the controller in the machine
//!
//! An upgrade sees nothing of it. The queue exists at power-on only: when the virtual functions are online the controller is
//! silenced, taken out of its domain, and the domain with the queue's memory is gone. It stays enabled (a reset would take
//! the virtual functions offline) with no command under way, and without bus mastering: nobody has to remember its queue.
#![expect(unsafe_code, reason = "a controller's registers are taken over, its memory is given back")]

mod admin;
mod error;
mod formats;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
mod virtualization;

use alloc::format;
use alloc::string::{String, ToString};

use iommu::Token;
use machine::addr::Iova;
use machine::mmio::MmioRegion;
use machine::paging::Permissions;
use machine::pci::{self, Bdf, Command, Function, Msix};

use self::admin::{Admin, DMA_BYTES, MOST_REGISTER_BYTES, REGISTER_BYTES};
use self::error::NvmeError;
use super::{inventory, units};
use crate::host;
use crate::mem::dma::DmaBuffer;
use crate::mem::host_map;
use crate::time::TscClock;

/// Base class, subclass and interface: mass storage, non-volatile memory, NVM Express (PCI code and id assignment 1.2).
const CLASS: (u8, u8, u8) = (0x01, 0x08, 0x02);

type Controller = Admin<MmioRegion, DmaBuffer, TscClock>;

/// Whether `function` is such a controller.
pub fn is_controller(function: &Function) -> bool {
    let class = function.class;
    (class.base, class.sub, class.interface) == CLASS
}

/// Before its virtual functions are made: everything that can be theirs is taken from `function`, which is Baton's.
///
/// # Errors
/// It can't be used, with what to change; it is silent then.
pub fn prepare(function: &Function) -> Result<(), String> {
    let mut changed = false;
    administer(function, &mut |admin| {
        changed = admin.release_flexible()?;
        Ok(())
    })?;
    if changed {
        let bdf = function.bdf;
        let reset = inventory::reset_of(bdf).map_err(|error| error.to_string())?;
        reset.perform(&*host::get().ecam, &TscClock).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// After its `count` virtual functions were made: brings them online, with their namespaces if any are named.
///
/// # Errors
/// It can't be done, with what to change. The controller is silent then, and its virtual functions are of no use.
pub fn bring_online(function: &Function, count: u16, namespaces: &[u32]) -> Result<(), String> {
    administer(function, &mut |admin| admin.bring_online(count, namespaces))
}

/// The name of the domain: no guest's, whose tokens leave 7 of 8 alone, nor the management card's.
fn token() -> Token {
    Token(host::get().boot_nonce.wrapping_add(0xba7f))
}

/// Enables the controller and has it administered, in a domain that shows its queue and nothing else. Afterwards it is still
/// enabled, and cut off.
fn administer(
    function: &Function,
    work: &mut dyn FnMut(&mut Controller) -> Result<(), NvmeError>,
) -> Result<(), String> {
    let bdf = function.bdf;
    let ecam = &*host::get().ecam;
    let told = |error: NvmeError| format!("the NVMe controller {bdf}: {error}");
    units::silence(ecam, bdf);
    if units::unit_of(bdf).is_none() {
        return Err(format!("no IOMMU unit translates for {bdf}, and without one it is not let at memory"));
    }
    if let Some(msix) = Msix::find(ecam, bdf) {
        msix.set_control(ecam, false, true);
    }
    let registers = registers(function)?;
    let memory = DmaBuffer::leak(DMA_BYTES).ok_or("the heap has no room for an NVMe controller's queue")?;
    let entered = enter(bdf, &memory);
    let (done, memory) = match entered {
        Err(error) => (Err(error.to_string()), memory),
        Ok(()) => {
            Command::MEMORY.union(Command::INTX_DISABLE).union(Command::BUS_MASTER).write(ecam, bdf);
            match Admin::start(registers, memory, TscClock) {
                Ok(mut admin) => (work(&mut admin).map_err(told), admin.into_memory()),
                Err((error, memory)) => (Err(told(error)), memory),
            }
        }
    };
    units::silence(ecam, bdf);
    match leave(bdf) {
        // SAFETY: the domain is gone, and the unit has confirmed that it holds nothing of it: the controller reaches nothing.
        Ok(()) => unsafe { memory.give_back() },
        Err(error) => {
            let left = format!("{bdf} is silent, but can't be taken out of its domain: {error}");
            // The memory is never used again.
            return Err(left);
        }
    }
    done
}

/// The controller's registers, mapped.
fn registers(function: &Function) -> Result<MmioRegion, String> {
    let bdf = function.bdf;
    let ecam = &*host::get().ecam;
    let bars = pci::bars(ecam, bdf, function.header).map_err(|error| error.to_string())?;
    let fits = |bar: &&pci::Bar| bar.index == 0 && bar.address.get() != 0 && bar.bytes >= REGISTER_BYTES as u64;
    let bar = bars.iter().find(fits).ok_or_else(|| {
        format!("the firmware gave the registers of the NVMe controller {bdf} no address: correct its PCI settings")
    })?;
    super::assign::check_bars(function, &bars)?;
    let bytes = bar.bytes.min(MOST_REGISTER_BYTES as u64);
    Command::MEMORY.union(Command::INTX_DISABLE).write(ecam, bdf);
    host_map::map_device(bar.address, bytes).map_err(|error| error.to_string())?;
    // SAFETY: just mapped one to one and uncached; the BAR was sized to at least this, lies where nothing else is, decodes from
    // here on, and was claimed: nobody else uses it.
    Ok(unsafe { MmioRegion::new(bar.address, bytes as usize) })
}

fn enter(bdf: Bdf, memory: &DmaBuffer) -> Result<(), iommu::Error> {
    let sources = inventory::sources(&[bdf]);
    let aliases = sources.first().map_or(&[][..], |(_, ids)| ids);
    let entered = units::with(|units, platform| {
        units.create_domain(platform, token())?;
        let at = memory.address();
        units.map(platform, token(), Iova(at.get()), at, DMA_BYTES as u64, Permissions::READ_WRITE)?;
        units.attach(platform, bdf, aliases, token(), None)
    });
    entered.unwrap_or(Ok(()))
}

fn leave(bdf: Bdf) -> Result<(), iommu::Error> {
    super::release::detach(&[bdf], token())
}
