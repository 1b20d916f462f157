//! The PCI Express capability and function level reset: PCIe 7.5.3 and 6.6.2.

use super::bdf::Bdf;
use super::capability::{find, id};
use super::config::ConfigSpace;
use super::header::{Command, register};
use crate::access::Clock;
use core::fmt;

/// Offsets from the capability.
mod at {
    pub const FLAGS: u16 = 0x02;
    pub const DEVICE_CAPABILITIES: u16 = 0x04;
    pub const DEVICE_CONTROL: u16 = 0x08;
    pub const DEVICE_STATUS: u16 = 0x0a;
    pub const DEVICE_CONTROL_2: u16 = 0x28;
}

/// Device capabilities: function level reset.
const FLR_CAPABLE: u32 = 1 << 28;
/// Device capabilities: bits of the function number that can be tags, from bit 3.
const PHANTOM_SHIFT: u32 = 3;
/// Device control: phantom functions.
const PHANTOM_ENABLE: u16 = 1 << 9;
/// Device control: initiate function level reset.
const INITIATE_FLR: u16 = 1 << 15;
/// Device status: transactions pending.
const PENDING: u16 = 1 << 5;

/// Milliseconds that requests in flight get to complete before a reset.
const PENDING_MS: u64 = 1_000;
/// Milliseconds a function may take for a reset (PCIe 6.6.2).
const RESET_MS: u64 = 100;
/// Milliseconds more that a slow function may answer "not ready yet".
const READY_MS: u64 = 1_000;

/// What a function is on a PCI Express link, bits 7:4 of the flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortType(pub u8);

impl PortType {
    /// An endpoint.
    pub const ENDPOINT: Self = Self(0);
    /// A legacy endpoint.
    pub const LEGACY_ENDPOINT: Self = Self(1);
    /// A root port.
    pub const ROOT_PORT: Self = Self(4);
    /// The upstream port of a switch.
    pub const UPSTREAM: Self = Self(5);
    /// A downstream port of a switch.
    pub const DOWNSTREAM: Self = Self(6);
    /// A bridge from PCI Express to conventional PCI.
    pub const TO_PCI: Self = Self(7);
    /// A bridge from conventional PCI to PCI Express.
    pub const FROM_PCI: Self = Self(8);
    /// An endpoint in the root complex.
    pub const INTEGRATED: Self = Self(9);
    /// A root complex event collector.
    pub const EVENT_COLLECTOR: Self = Self(10);
}

/// The PCI Express capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Express {
    bdf: Bdf,
    /// Where the capability stands.
    pub offset: u16,
    /// Its version.
    pub version: u8,
    /// What the function is.
    pub port_type: PortType,
    /// Whether the function can be reset alone.
    pub flr: bool,
}

/// A function could not be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlrError {
    /// The function has no function level reset.
    Unsupported {
        /// The function.
        bdf: Bdf,
    },
    /// Its requests did not complete; it was not reset.
    Pending {
        /// The function.
        bdf: Bdf,
    },
    /// It did not come back.
    Lost {
        /// The function.
        bdf: Bdf,
    },
}

impl fmt::Display for FlrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported { bdf } => write!(f, "device {bdf} has no function level reset; choose another device"),
            Self::Pending { bdf } => {
                write!(
                    f,
                    "device {bdf} still has requests pending after {PENDING_MS} ms; it was not reset, power-cycle it"
                )
            }
            Self::Lost { bdf } => {
                let ms = RESET_MS + READY_MS;
                write!(f, "device {bdf} does not answer {ms} ms after its reset; power-cycle it")
            }
        }
    }
}

impl core::error::Error for FlrError {}

impl Express {
    /// The capability of `bdf`, if it has one that is whole.
    #[must_use]
    pub fn find(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Option<Self> {
        let offset = find(config, bdf, id::EXPRESS, 0x0c)?;
        let flags = config.read16(bdf, offset + at::FLAGS);
        let flr = config.read32(bdf, offset + at::DEVICE_CAPABILITIES) & FLR_CAPABLE != 0;
        Some(Self { bdf, offset, version: (flags & 0xf) as u8, port_type: PortType((flags >> 4 & 0xf) as u8), flr })
    }

    /// How many upper bits of the function number (0 to 3) in its requests are tags now: phantom functions.
    #[must_use]
    pub fn phantom_bits(&self, config: &(impl ConfigSpace + ?Sized)) -> u8 {
        let enabled = config.read16(self.bdf, self.offset + at::DEVICE_CONTROL) & PHANTOM_ENABLE != 0;
        let bits = config.read32(self.bdf, self.offset + at::DEVICE_CAPABILITIES) >> PHANTOM_SHIFT & 3;
        if enabled { bits as u8 } else { 0 }
    }

    /// Whether requests of the function still wait for completion.
    #[must_use]
    pub fn is_pending(&self, config: &(impl ConfigSpace + ?Sized)) -> bool {
        config.read16(self.bdf, self.offset + at::DEVICE_STATUS) & PENDING != 0
    }

    /// Resets the function alone (PCIe 6.6.2): no new requests, wait for those in
    /// flight, reset, wait until it answers. All its registers, BARs and the command
    /// register among them, are as after power-on then: see [`SavedHeader`].
    pub fn reset(&self, config: &(impl ConfigSpace + ?Sized), clock: &(impl Clock + ?Sized)) -> Result<(), FlrError> {
        let bdf = self.bdf;
        if !self.flr {
            return Err(FlrError::Unsupported { bdf });
        }
        let command = Command::read(config, bdf);
        ((command - (Command::BUS_MASTER | Command::MEMORY | Command::IO)) | Command::INTX_DISABLE).write(config, bdf);
        if !clock.wait_for(PENDING_MS, &mut || !self.is_pending(config)) {
            command.write(config, bdf);
            return Err(FlrError::Pending { bdf });
        }
        let control = self.offset + at::DEVICE_CONTROL;
        config.write16(bdf, control, config.read16(bdf, control) | INITIATE_FLR);
        // Configuration space must not be touched meanwhile, so there is nothing to poll:
        // the time itself is what is waited for, and running out of it is the success.
        let _elapsed = clock.wait_for(RESET_MS, &mut || false);
        if clock.wait_for(READY_MS, &mut || config.is_present(bdf)) { Ok(()) } else { Err(FlrError::Lost { bdf }) }
    }
}

/// The registers of an endpoint's header that a reset clears and that place it on its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedHeader {
    bdf: Bdf,
    bars: [u32; 6],
    rom: u32,
    cache_line: u32,
    interrupt: u8,
    command: Command,
    /// Offset of the Express capability, and device control 1 and 2 (payload sizes, timeouts).
    express: Option<(u16, u16, u16)>,
}

impl SavedHeader {
    /// Reads them from an endpoint.
    #[must_use]
    pub fn save(config: &(impl ConfigSpace + ?Sized), bdf: Bdf) -> Self {
        let mut bars = [0; 6];
        for (bar, offset) in bars.iter_mut().zip((register::BAR0..).step_by(4)) {
            *bar = config.read32(bdf, offset);
        }
        let express = Express::find(config, bdf).map(|express| {
            let two = express.version >= 2 && express.offset + at::DEVICE_CONTROL_2 < 0x100;
            let control_2 = if two { config.read16(bdf, express.offset + at::DEVICE_CONTROL_2) } else { 0 };
            (express.offset, config.read16(bdf, express.offset + at::DEVICE_CONTROL), control_2)
        });
        Self {
            bdf,
            bars,
            rom: config.read32(bdf, register::ROM),
            cache_line: config.read32(bdf, register::CACHE_LINE),
            interrupt: config.read8(bdf, register::INTERRUPT),
            command: Command::read(config, bdf),
            express,
        }
    }

    /// Writes them back, the command register last and without bus mastering: whoever
    /// gets the function turns that on, once its translation is in place.
    pub fn restore(&self, config: &(impl ConfigSpace + ?Sized)) {
        for (bar, offset) in self.bars.iter().zip((register::BAR0..).step_by(4)) {
            config.write32(self.bdf, offset, *bar);
        }
        config.write32(self.bdf, register::ROM, self.rom);
        config.write32(self.bdf, register::CACHE_LINE, self.cache_line);
        config.write8(self.bdf, register::INTERRUPT, self.interrupt);
        if let Some((offset, control, control_2)) = self.express {
            config.write16(self.bdf, offset + at::DEVICE_CONTROL, control & !INITIATE_FLR);
            if offset + at::DEVICE_CONTROL_2 < 0x100 && control_2 != 0 {
                config.write16(self.bdf, offset + at::DEVICE_CONTROL_2, control_2);
            }
        }
        (self.command - Command::BUS_MASTER).write(config, self.bdf);
    }
}
