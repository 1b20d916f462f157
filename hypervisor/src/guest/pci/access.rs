//! How an assigned function reaches its hardware, and how its interrupts reach the guest.

use core::fmt;

use machine::addr::HostPhys;
use machine::pci::Bdf;

use crate::guest::message::MsiMessage;

/// A function reset failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetError {
    /// The function has no reset that leaves its neighbours alone.
    Unsupported,
    /// The function did not come back in time.
    TimedOut,
}

impl fmt::Display for ResetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unsupported => "it has no reset of its own",
            Self::TimedOut => "it did not come back from its reset in time; power-cycle the machine",
        })
    }
}

/// The physical function's configuration space. The integrator has set its BARs and its
/// memory-enable bit; only what is said here is ever written.
pub trait PhysicalFunction: Send {
    /// Reads `width` (1, 2 or 4) bytes at `offset` (naturally aligned).
    fn config_read(&mut self, offset: u16, width: u8) -> u32;
    /// Writes `width` (1, 2 or 4) bytes at `offset`: of the command register, or of the
    /// MSI or MSI-X capability.
    fn config_write(&mut self, offset: u16, width: u8, value: u32);
    /// Resets the function alone (FLR). Afterwards its BARs and memory enable are as before,
    /// bus mastering and all interrupts are off.
    ///
    /// # Errors
    /// There is no such reset, or the function did not come back.
    fn reset(&mut self) -> Result<(), ResetError>;
}

/// The physical MSI-X table.
pub trait MsixHardware {
    /// Writes entry `index`: message first, vector control last when unmasking, first when
    /// masking; then a read that makes sure the writes have arrived.
    fn write_entry(&mut self, index: u16, message: MsiMessage, masked: bool);
}

/// Registers behind the parts of a BAR that the guest does not reach by itself.
pub trait BarAccess {
    /// A load of `width` (1, 2, 4 or 8) bytes, naturally aligned, from byte `offset` of `bar`.
    fn read(&mut self, bar: u8, offset: u64, width: u8) -> u64;
    /// A store, likewise.
    fn write(&mut self, bar: u8, offset: u64, width: u8, value: u64);
}

/// All that an assigned function needs of its hardware.
pub trait PassthroughHardware: PhysicalFunction + MsixHardware + BarAccess {}
impl<T: PhysicalFunction + MsixHardware + BarAccess> PassthroughHardware for T {}

/// An interrupt of a device cannot be routed; the entry stays masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// The guest's message names no interrupt: its fault.
    InvalidMessage(MsiMessage),
    /// No host vector or no remapping entry is free.
    Exhausted,
    /// Routes are immutable while an upgrade is under way.
    Busy,
    /// The interrupt remapping unit refused.
    Hardware,
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidMessage(message) => {
                write!(
                    f,
                    "the guest programmed MSI {:#x}/{:#x}, which is no interrupt; its driver is at fault",
                    message.address, message.data
                )
            }
            Self::Exhausted => f.write_str("no interrupt remapping entry or host vector is free; assign fewer devices"),
            Self::Busy => {
                f.write_str("interrupt routes are frozen by an upgrade; the guest's entry stays masked until it ends")
            }
            Self::Hardware => {
                f.write_str("the interrupt remapping unit did not take the entry; check the IOMMU's fault log")
            }
        }
    }
}

/// The number of a function's one MSI, apart from all MSI-X indices (at most 2047).
pub const MSI_ENTRY: u16 = u16::MAX;

/// Gives device interrupts a way through the host: a remapping entry and a host vector whose
/// handler delivers the guest's message.
pub trait InterruptRouter: Send {
    /// Routes interrupt `entry` (MSI-X index, or [`MSI_ENTRY`]) of `device` to what `guest` says and returns what
    /// the device must be programmed with. Called again for a routed entry, it changes the route in place.
    ///
    /// # Errors
    /// See [`RouteError`]; an existing route of the entry is gone then.
    fn route(&mut self, device: Bdf, entry: u16, guest: MsiMessage) -> Result<MsiMessage, RouteError>;
    /// Gives back what [`route`](Self::route) took.
    fn release(&mut self, device: Bdf, entry: u16);
}

/// One memory BAR of the physical function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarDescription {
    /// BAR number, 0 to 5; a 64-bit BAR also takes the next one.
    pub index: u8,
    /// 64-bit address.
    pub wide: bool,
    /// Prefetchable.
    pub prefetchable: bool,
    /// Where the physical BAR points.
    pub host: HostPhys,
    /// Size in bytes, a power of two.
    pub bytes: u64,
}

/// Hardware, router and name of a function while it handles an access.
pub(super) struct Context<'a> {
    pub device: Bdf,
    pub hardware: &'a mut dyn PassthroughHardware,
    pub router: &'a mut dyn InterruptRouter,
    pub counters: &'a mut super::PciCounters,
}

/// A guest's message and what the device was programmed with for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// As the guest programmed it.
    pub guest: MsiMessage,
    /// As the hardware has it.
    pub host: MsiMessage,
}

impl Context<'_> {
    /// Routes `guest` for `entry`; counts and drops what cannot be routed.
    pub(super) fn route(&mut self, entry: u16, guest: MsiMessage, old: Option<Route>) -> Option<Route> {
        let result = if crate::guest::message::InterruptMessage::from_msi(guest).is_some() {
            self.router.route(self.device, entry, guest)
        } else {
            if old.is_some() {
                self.router.release(self.device, entry);
            }
            Err(RouteError::InvalidMessage(guest))
        };
        match result {
            Ok(host) => Some(Route { guest, host }),
            Err(error) => {
                self.counters.route_failures = self.counters.route_failures.saturating_add(1);
                self.counters.last_route_error = Some(error);
                None
            }
        }
    }
}
