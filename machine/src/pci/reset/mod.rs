//! Resetting a function so that nothing of its last owner is left in it.
//!
//! - `saved`: the registers that place a function on its bus, around a reset
//! - `bus`: the bus behind a bridge
//! - `error`: why there is no way, or what went wrong
//!
//! Ways, the best first: function level reset (PCIe 6.6.2), the same through the advanced features capability (PCI
//! Advanced Capabilities ECN), a reset of the bus behind the bridge above, where nothing else is on it. A trip to
//! D3hot and back is not one of them: without No_Soft_Reset the function is to forget its state (PCIe 5.3.1.4), but
//! nothing says that what it was doing has ended, and there are devices that only change the two bits.

mod bus;
mod error;
mod saved;
#[cfg(test)]
mod tests;

pub use error::{NoReset, ResetError};
pub use saved::SavedConfig;

use super::bdf::Bdf;
use super::capability::{find, id};
use super::config::ConfigSpace;
use super::enumerate::Enumeration;
use super::express::Express;
use super::header::{Command, HeaderKind};
use crate::access::Clock;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

/// Milliseconds that requests in flight get to complete before a reset.
const PENDING_MS: u64 = 1_000;
/// Milliseconds in which a function that was reset must not be spoken to (PCIe 6.6.1, 6.6.2).
const RESET_MS: u64 = 100;
/// Milliseconds more that a slow function may answer "not ready yet".
const READY_MS: u64 = 1_000;

/// Offsets in the advanced features capability.
mod af {
    pub const CAPABILITIES: u16 = 3;
    pub const CONTROL: u16 = 4;
    pub const STATUS: u16 = 5;
    /// Capabilities: transactions pending is told, and there is a reset.
    pub const CAPABLE: u8 = 3;
    /// Control: initiate. Status: transactions pending.
    pub const BIT: u8 = 1;
}

/// A way to reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetWay {
    /// Function level reset.
    Function,
    /// Function level reset of a conventional function; its capability stands here.
    AdvancedFeatures(u16),
    /// Everything on the bus behind a bridge.
    Bus {
        /// The bridge.
        bridge: Bdf,
    },
}

impl fmt::Display for ResetWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Function => "function",
            Self::AdvancedFeatures(_) => "advanced features",
            Self::Bus { .. } => "bus",
        })
    }
}

/// How a function is reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reset {
    device: Bdf,
    way: ResetWay,
    hits: Vec<Bdf>,
}

impl Reset {
    /// The best way to reset `device` for somebody of whom `holds` says which functions are (or will be) theirs.
    /// Nothing is written.
    ///
    /// # Errors
    /// There is none that leaves others alone.
    pub fn choose(
        config: &(impl ConfigSpace + ?Sized),
        found: &Enumeration,
        device: Bdf,
        holds: impl Fn(Bdf) -> bool,
    ) -> Result<Self, NoReset> {
        // A physical function takes its virtual ones with it.
        if let Some(other) = found.functions.iter().find(|other| other.physical == Some(device)) {
            return Err(NoReset { device, shared: Some(other.bdf) });
        }
        if Express::find(config, device).is_some_and(|express| express.flr) {
            return Ok(Self { device, way: ResetWay::Function, hits: vec![device] });
        }
        if let Some(offset) = find(config, device, id::ADVANCED_FEATURES, 6)
            && config.read8(device, offset + af::CAPABILITIES) & af::CAPABLE == af::CAPABLE
        {
            return Ok(Self { device, way: ResetWay::AdvancedFeatures(offset), hits: vec![device] });
        }
        let above = found.get(device).and_then(|function| function.path.last());
        let bridge = *above.ok_or(NoReset { device, shared: None })?;
        let below = found.functions.iter().filter(|function| function.path.contains(&bridge));
        let mut hits = Vec::new();
        for function in below {
            // What is behind a further bridge would have to be set up anew, bridge by bridge.
            let is_bridge = !matches!(function.header, HeaderKind::Endpoint);
            if function.bdf != device && (is_bridge || !holds(function.bdf)) {
                return Err(NoReset { device, shared: Some(function.bdf) });
            }
            hits.push(function.bdf);
        }
        Ok(Self { device, way: ResetWay::Bus { bridge }, hits })
    }

    /// Which way.
    #[must_use]
    pub const fn way(&self) -> ResetWay {
        self.way
    }

    /// All functions that are reset: more than one only if the bus is.
    #[must_use]
    pub fn hits(&self) -> &[Bdf] {
        &self.hits
    }

    /// Resets: no new requests, wait for those in flight, reset, wait until the function answers, put it back on its bus.
    /// Afterwards it decodes what it decoded before; bus mastering, MSI, MSI-X, ATS, PRI and PASID are off.
    ///
    /// Takes at least 100 ms. The caller sees to the IOMMU: a function with ATS is detached before.
    ///
    /// # Errors
    /// Requests did not complete (then nothing was reset), or a function did not come back: it is not to be given away.
    pub fn perform(
        &self,
        config: &(impl ConfigSpace + ?Sized),
        clock: &(impl Clock + ?Sized),
    ) -> Result<(), ResetError> {
        let saved: Vec<SavedConfig> = self.hits.iter().map(|bdf| SavedConfig::save(config, *bdf)).collect();
        for bdf in &self.hits {
            quiet(config, *bdf);
        }
        if let Err(error) = self.drained(config, clock) {
            for saved in &saved {
                saved.restore_command(config);
            }
            return Err(error);
        }
        match self.way {
            ResetWay::Function => {
                if let Some(express) = Express::find(config, self.device) {
                    express.initiate_reset(config);
                }
            }
            ResetWay::AdvancedFeatures(offset) => config.write8(self.device, offset + af::CONTROL, af::BIT),
            ResetWay::Bus { bridge } => bus::reset(config, clock, bridge)?,
        }
        // Configuration space must not be touched meanwhile, so there is nothing to poll:
        // the time itself is what is waited for, and running out of it is the success.
        let _elapsed = clock.wait_for(RESET_MS, &mut || false);
        for bdf in &self.hits {
            if !clock.wait_for(READY_MS, &mut || answers(config, *bdf)) {
                return Err(ResetError::Lost { device: *bdf });
            }
        }
        for saved in &saved {
            saved.restore(config);
        }
        Ok(())
    }

    /// Waits for requests in flight. A bus reset ends them, wherever the function can't say.
    fn drained(&self, config: &(impl ConfigSpace + ?Sized), clock: &(impl Clock + ?Sized)) -> Result<(), ResetError> {
        for bdf in &self.hits {
            let express = Express::find(config, *bdf);
            let pending = &mut || match (self.way, express) {
                (ResetWay::AdvancedFeatures(offset), _) => config.read8(*bdf, offset + af::STATUS) & af::BIT != 0,
                (_, Some(express)) => express.is_pending(config),
                (_, None) => false,
            };
            if !clock.wait_for(PENDING_MS, &mut || !pending()) {
                return Err(ResetError::Pending { device: *bdf });
            }
        }
        Ok(())
    }
}

/// No requests, no interrupts, no decoding.
fn quiet(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) {
    let command = Command::read(config, bdf) - (Command::BUS_MASTER | Command::MEMORY | Command::IO);
    (command | Command::INTX_DISABLE).write(config, bdf);
}

/// Whether the function is there and ready. A virtual function has no vendor (PCIe 9.3.4.1.1).
pub(super) fn answers(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> bool {
    config.is_present(bdf) || config.read32(bdf, 0) == u32::MAX && config.read32(bdf, 4) != u32::MAX
}
