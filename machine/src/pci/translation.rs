//! What a device has to say to the IOMMU beyond plain requests: ATS (PCIe 10.5.1), page requests (10.5.2), address
//! spaces of processes (7.8.9). Whether a device is trusted with them is the caller's decision: with ATS it sends
//! addresses that nobody checks again.
//!
//! They depend on each other: PASID must not change while ATS is on (PCIe 7.8.9.3), and page requests need ATS. So
//! going on: PASID, ATS; going off: page requests, ATS, PASID. A virtual function has an ATS capability of its own, and
//! uses its physical function's page requests and PASID (PCIe 9.3.7.11, 9.3.7.14).

use super::bdf::Bdf;
use super::capability::{find_extended, id};
use super::config::ConfigSpace;
use crate::access::Clock;
use core::fmt;

/// Milliseconds that page requests get to be answered before they count as stuck.
const STOP_MS: u64 = 1_000;

/// ATS capability: smallest invalidation is a page.
const ATS_PAGE_ALIGNED: u16 = 1 << 5;
/// ATS capability: an invalidation may go to all PASIDs at once.
const ATS_GLOBAL: u16 = 1 << 6;
/// ATS control: enabled.
const ATS_ENABLE: u16 = 1 << 15;
/// Page request control: enabled.
const PRI_ENABLE: u16 = 1 << 0;
/// Page request control: forget what was sent.
const PRI_RESET: u16 = 1 << 1;
/// Page request status: nothing more is sent, and all was answered.
const PRI_STOPPED: u16 = 1 << 8;
/// PASID control: enabled.
const PASID_ENABLE: u16 = 1 << 0;

/// A function does not do as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TranslationError {
    /// PASID was to change while ATS is on.
    Order {
        /// The function.
        device: Bdf,
    },
    /// A control does not stay as it was written.
    Stuck {
        /// The function.
        device: Bdf,
        /// Which.
        what: &'static str,
    },
    /// Page requests are not answered.
    Pending {
        /// The function.
        device: Bdf,
    },
}

impl fmt::Display for TranslationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order { device } => write!(f, "PASIDs of {device} can't be switched while its ATS is on"),
            Self::Stuck { device, what } => {
                write!(f, "{what} of device {device} can't be switched; do not mark it as trusted")
            }
            Self::Pending { device } => {
                write!(f, "page requests of device {device} are unanswered after {STOP_MS} ms; it has to be reset")
            }
        }
    }
}

impl core::error::Error for TranslationError {}

/// Address translation services: the device caches translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ats {
    bdf: Bdf,
    /// Where the capability stands.
    pub offset: u16,
    /// Invalidations it can queue, 1 to 32.
    pub queue_depth: u8,
    /// Whether untranslated addresses of its requests are page-aligned.
    pub page_aligned: bool,
    /// Whether one invalidation can be for all PASIDs.
    pub global: bool,
}

impl Ats {
    /// The capability of `bdf`, if it has one.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        let offset = find_extended(config, bdf, id::ATS, 8)?;
        let capability = config.read16(bdf, offset + 4);
        // Zero means 32.
        let queue_depth = match (capability & 0x1f) as u8 {
            0 => 32,
            depth => depth,
        };
        let (page_aligned, global) = (capability & ATS_PAGE_ALIGNED != 0, capability & ATS_GLOBAL != 0);
        Some(Self { bdf, offset, queue_depth, page_aligned, global })
    }

    /// Whether it is enabled.
    #[must_use]
    pub fn is_enabled(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        config.read16(self.bdf, self.offset + 6) & ATS_ENABLE != 0
    }

    /// Enables with a smallest translation unit of 4 KiB (that of a virtual function is the physical one's), once the
    /// device is attached to a domain as one with a device TLB.
    ///
    /// # Errors
    /// It stays off.
    pub fn enable(&self, config: &(impl ConfigSpace + ?Sized)) -> Result<(), TranslationError> {
        self.switch(config, true)
    }

    /// Disables: the device forgets what it cached. Before it is detached.
    ///
    /// # Errors
    /// It stays on.
    pub fn disable(&self, config: &(impl ConfigSpace + ?Sized)) -> Result<(), TranslationError> {
        self.switch(config, false)
    }

    fn switch(&self, config: &(impl ConfigSpace + ?Sized), on: bool) -> Result<(), TranslationError> {
        config.write16(self.bdf, self.offset + 6, if on { ATS_ENABLE } else { 0 });
        let stuck = TranslationError::Stuck { device: self.bdf, what: "ATS" };
        if self.is_enabled(config) == on { Ok(()) } else { Err(stuck) }
    }
}

/// Page requests: the device asks for pages that are not mapped. There is no way to enable them here, since nobody would
/// answer: only to make sure that they are off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pri {
    bdf: Bdf,
    /// Where the capability stands.
    pub offset: u16,
}

impl Pri {
    /// The capability of `bdf`, if it has one.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        find_extended(config, bdf, id::PRI, 0x10).map(|offset| Self { bdf, offset })
    }

    /// Whether it is enabled.
    #[must_use]
    pub fn is_enabled(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        config.read16(self.bdf, self.offset + 4) & PRI_ENABLE != 0
    }

    /// Switches it off if it is on, waits until all requests were answered, and has the device forget the rest.
    ///
    /// # Errors
    /// It stays on, or requests stay open.
    pub fn stop(
        &self,
        config: &(impl ConfigSpace + ?Sized),
        clock: &(impl Clock + ?Sized),
    ) -> Result<(), TranslationError> {
        let device = self.bdf;
        if self.is_enabled(config) {
            config.write16(device, self.offset + 4, 0);
            if self.is_enabled(config) {
                return Err(TranslationError::Stuck { device, what: "the page request interface" });
            }
        }
        let stopped = &mut || config.read16(device, self.offset + 6) & PRI_STOPPED != 0;
        if !clock.wait_for(STOP_MS, stopped) {
            return Err(TranslationError::Pending { device });
        }
        config.write16(device, self.offset + 4, PRI_RESET);
        Ok(())
    }
}

/// Address spaces of processes: requests carry a number of up to 20 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pasid {
    bdf: Bdf,
    /// Where the capability stands.
    pub offset: u16,
    /// Bits of the numbers, 0 to 20.
    pub bits: u8,
}

impl Pasid {
    /// The capability of `bdf`, if it has one that makes sense.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        let offset = find_extended(config, bdf, id::PASID, 8)?;
        let bits = (config.read16(bdf, offset + 4) >> 8 & 0x1f) as u8;
        (bits <= 20).then_some(Self { bdf, offset, bits })
    }

    /// Whether it is enabled.
    #[must_use]
    pub fn is_enabled(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        config.read16(self.bdf, self.offset + 6) & PASID_ENABLE != 0
    }

    /// Enables, without execute and privileged requests, or disables.
    ///
    /// # Errors
    /// ATS is on, or the control does not stay.
    pub fn set_enabled(&self, config: &(impl ConfigSpace + ?Sized), on: bool) -> Result<(), TranslationError> {
        let device = self.bdf;
        if self.is_enabled(config) == on {
            return Ok(());
        }
        if Ats::find(config, device).is_some_and(|ats| ats.is_enabled(config)) {
            return Err(TranslationError::Order { device });
        }
        config.write16(device, self.offset + 6, if on { PASID_ENABLE } else { 0 });
        let stuck = TranslationError::Stuck { device, what: "PASID" };
        if self.is_enabled(config) == on { Ok(()) } else { Err(stuck) }
    }
}
