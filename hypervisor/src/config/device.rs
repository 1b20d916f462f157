//! How the operator names a device: by its place or by what it is.

use core::fmt;

use machine::pci::Bdf;

/// A device as the operator names it. The same device may be named in several ways:
/// whether two selectors mean one device shows only where the devices are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceSelector {
    /// The function.
    pub function: FunctionSelector,
    /// Of that function's virtual functions this one, counted from 0.
    pub vf: Option<u16>,
}

/// A function as the operator names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FunctionSelector {
    /// By its place.
    Bdf(Bdf),
    /// By what it is, the `nth` one in the order of the places, counted from 0.
    Id {
        /// The vendor id.
        vendor: u16,
        /// The device id.
        device: u16,
        /// Which of several, counted from 0.
        nth: u16,
    },
}

/// The text names no device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectorError;

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "write a place like 0000:03:00.0 or 03:00.0, or vendor:device like 8086:10d3, with #1 for the second of its kind, \
             and /vf0 behind it for the first virtual function of that one",
        )
    }
}

impl core::error::Error for SelectorError {}

impl core::str::FromStr for DeviceSelector {
    type Err = SelectorError;

    /// A [`FunctionSelector`], or one with `/vf` and a decimal number behind it.
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let (function, vf) = match text.split_once("/vf") {
            Some((function, vf)) => (function, Some(decimal(vf)?)),
            None => (text, None),
        };
        Ok(Self { function: function.parse()?, vf })
    }
}

impl core::str::FromStr for FunctionSelector {
    type Err = SelectorError;

    /// `[segment:]bus:device.function` or `vendor:device[#nth]`, hexadecimal but for `nth`.
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.contains('.') {
            return text.parse().map(Self::Bdf).map_err(|_| SelectorError);
        }
        let (id, nth) = match text.split_once('#') {
            Some((id, nth)) => (id, decimal(nth)?),
            None => (text, 0),
        };
        let (vendor, device) = id.split_once(':').ok_or(SelectorError)?;
        let vendor = hex4(vendor)?;
        // 0xFFFF is what an empty slot answers: no vendor has it.
        if vendor == 0xFFFF {
            return Err(SelectorError);
        }
        Ok(Self::Id { vendor, device: hex4(device)?, nth })
    }
}

/// Exactly four hexadecimal digits: fewer are more often a mistake than an id.
fn hex4(text: &str) -> Result<u16, SelectorError> {
    if text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        u16::from_str_radix(text, 16).map_err(|_| SelectorError)
    } else {
        Err(SelectorError)
    }
}

/// A decimal number without sign.
fn decimal(text: &str) -> Result<u16, SelectorError> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().map_err(|_| SelectorError)
    } else {
        Err(SelectorError)
    }
}

impl fmt::Display for DeviceSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.function.fmt(f)?;
        self.vf.map_or(Ok(()), |vf| write!(f, "/vf{vf}"))
    }
}

impl fmt::Display for FunctionSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bdf(bdf) => write!(f, "{bdf}"),
            Self::Id { vendor, device, nth: 0 } => write!(f, "{vendor:04x}:{device:04x}"),
            Self::Id { vendor, device, nth } => write!(f, "{vendor:04x}:{device:04x}#{nth}"),
        }
    }
}
