//! Whether a device's requests reach the IOMMU under its own name, and nowhere else.

use super::bdf::Bdf;
use super::config::ConfigSpace;
use super::enumerate::{Enumeration, Function};
use super::express::{Express, PortType};
use super::extended::Acs;
use alloc::vec::Vec;
use core::fmt;

/// What keeps a port from routing requests to peers past the IOMMU.
const REDIRECT: Acs = Acs::REQUEST_REDIRECT.union(Acs::COMPLETION_REDIRECT).union(Acs::UPSTREAM_FORWARDING);
/// The same, and that no function poses as another.
const NEEDED: Acs = REDIRECT.union(Acs::SOURCE_VALIDATION);

/// What must be switched on before the device is isolated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// Ports and functions whose ACS controls are off, the one nearest the root first.
    pub enable: Vec<Bdf>,
}

/// Why a device cannot be given away alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsolationError {
    /// The device is not on the list of what was found.
    Absent {
        /// The device.
        device: Bdf,
    },
    /// The device is itself a bridge.
    Bridge {
        /// The device.
        device: Bdf,
    },
    /// A bridge to conventional PCI on the path: everything behind it shares names.
    Conventional {
        /// The device.
        device: Bdf,
        /// The bridge.
        bridge: Bdf,
    },
    /// A port on the path cannot keep peers apart.
    NoAcs {
        /// The device.
        device: Bdf,
        /// The port.
        port: Bdf,
        /// What it lacks.
        lacks: Acs,
    },
    /// Another function of the same device could be reached past the IOMMU.
    Sibling {
        /// The device.
        device: Bdf,
        /// The device or switch port that has siblings and no ACS.
        shared: Bdf,
        /// One such sibling.
        sibling: Bdf,
    },
    /// A control did not stay on when it was written.
    Stuck {
        /// The port or function.
        port: Bdf,
    },
}

impl fmt::Display for IsolationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { device } => write!(f, "there is no device {device}; check the address in baton.toml"),
            Self::Bridge { device } => write!(f, "{device} is a bridge; assign the devices behind it instead"),
            Self::Conventional { device, bridge } => write!(
                f,
                "device {device} is behind {bridge}, a bridge to conventional PCI, where devices share a requester id; \
                 move it to a PCI Express slot"
            ),
            Self::NoAcs { device, port, lacks } => write!(
                f,
                "device {device} is behind port {port}, which cannot keep peers apart (it lacks ACS {lacks:?}); move it \
                 to a slot of its own"
            ),
            Self::Sibling { device, shared, sibling } => write!(
                f,
                "device {device} is not isolated: {shared} has no ACS, so {sibling} is within its reach; assign both to \
                 the same guest or choose another device"
            ),
            Self::Stuck { port } => write!(f, "ACS of {port} stays off although the port says it has it"),
        }
    }
}

impl core::error::Error for IsolationError {}

/// Whether `device` is isolated from everything but `together` (what its owner holds as
/// well), or can be by what the result says. Nothing is written.
///
/// - Root ports and downstream switch ports on the path need ACS source validation,
///   request and completion redirect and upstream forwarding. A root port may lack the
///   redirects: it then has no path between peers (PCIe 6.12.1.1).
/// - A function with siblings needs ACS, unless all siblings are in `together`. So does
///   a switch's upstream port. Controls that the function lacks are not needed there.
/// - A bridge to conventional PCI hides who made a request, which no ACS mends.
pub fn isolation(
    config: &(impl ConfigSpace + ?Sized),
    found: &Enumeration,
    device: Bdf,
    together: &[Bdf],
) -> Result<Isolation, IsolationError> {
    let function = found.get(device).ok_or(IsolationError::Absent { device })?;
    if matches!(function.header, super::HeaderKind::Bridge { .. }) {
        return Err(IsolationError::Bridge { device });
    }
    let mut result = Isolation::default();
    for &port in &function.path {
        let conventional = IsolationError::Conventional { device, bridge: port };
        match Express::find(config, port).ok_or(conventional)?.port_type {
            kind @ (PortType::ROOT_PORT | PortType::DOWNSTREAM) => {
                let can = Acs::find(config, port).map_or(Acs::empty(), |(_, can)| can);
                let must = if kind == PortType::ROOT_PORT { Acs::SOURCE_VALIDATION } else { NEEDED };
                if !can.contains(must) {
                    return Err(IsolationError::NoAcs { device, port, lacks: must - can });
                }
                require(config, port, &mut result);
            }
            PortType::UPSTREAM => siblings(config, found, device, port, &[], &mut result)?,
            _ => return Err(conventional),
        }
    }
    siblings(config, found, device, device, together, &mut result)?;
    Ok(result)
}

/// Refuses `shared` if it has siblings and no ACS to keep them out.
fn siblings(
    config: &(impl ConfigSpace + ?Sized),
    found: &Enumeration,
    device: Bdf,
    shared: Bdf,
    together: &[Bdf],
    result: &mut Isolation,
) -> Result<(), IsolationError> {
    let stranger =
        |other: &&Function| other.bdf != shared && other.bdf.same_device(shared) && !together.contains(&other.bdf);
    match found.functions.iter().find(stranger) {
        None => Ok(()),
        Some(_) if Acs::find(config, shared).is_some() => {
            require(config, shared, result);
            Ok(())
        }
        Some(other) => Err(IsolationError::Sibling { device, shared, sibling: other.bdf }),
    }
}

/// Notes a port whose controls are not all on yet.
fn require(config: &(impl ConfigSpace + ?Sized), port: Bdf, result: &mut Isolation) {
    if let Some((offset, can)) = Acs::find(config, port)
        && !Acs::control(config, port, offset).contains(NEEDED & can)
    {
        result.enable.push(port);
    }
}

/// Switches on what [`isolation`] found to be off, and reads it back. Translated
/// requests stay as they are: ATS is the IOMMU driver's decision.
pub fn enable_acs(config: &(impl ConfigSpace + ?Sized), isolation: &Isolation) -> Result<(), IsolationError> {
    for &port in &isolation.enable {
        let (offset, can) = Acs::find(config, port).ok_or(IsolationError::Stuck { port })?;
        let before = Acs::control(config, port, offset);
        (before | NEEDED & can).set_control(config, port, offset);
        if !Acs::control(config, port, offset).contains(NEEDED & can) {
            return Err(IsolationError::Stuck { port });
        }
    }
    Ok(())
}
