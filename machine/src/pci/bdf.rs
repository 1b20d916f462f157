//! The name of a PCI function.

use core::fmt;
use core::str::FromStr;

/// Segment, bus, device and function, shown as `0000:03:00.0`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    segment: u16,
    requester_id: u16,
}

impl Bdf {
    /// The function `function` (0 to 7) of device `device` (0 to 31) on `bus`; `None`
    /// if a number is too large.
    #[must_use]
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self::from_requester_id(segment, (bus as u16) << 8 | (device as u16) << 3 | function as u16))
    }

    /// The function with this requester id in `segment`.
    #[must_use]
    pub const fn from_requester_id(segment: u16, requester_id: u16) -> Self {
        Self { segment, requester_id }
    }

    /// The segment group.
    #[must_use]
    pub const fn segment(self) -> u16 {
        self.segment
    }

    /// The bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.requester_id >> 8) as u8
    }

    /// The device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        (self.requester_id >> 3 & 31) as u8
    }

    /// The function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        (self.requester_id & 7) as u8
    }

    /// Device and function in one byte, as context tables are indexed (with ARI: the function number).
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.requester_id as u8
    }

    /// What the function's requests carry: bus 15:8, device 7:3, function 2:0.
    #[must_use]
    pub const fn requester_id(self) -> u16 {
        self.requester_id
    }

    /// Another function of the same device.
    #[must_use]
    pub const fn sibling(self, function: u8) -> Self {
        Self { segment: self.segment, requester_id: self.requester_id & !7 | (function & 7) as u16 }
    }

    /// Whether both are functions of one device.
    #[must_use]
    pub fn same_device(self, other: Self) -> bool {
        self.sibling(0) == other.sibling(0)
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text names no PCI function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseBdfError;

impl fmt::Display for ParseBdfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a PCI function; write it as 0000:03:00.0 or 03:00.0 (hexadecimal, device at most 1f, function at most 7)")
    }
}

impl core::error::Error for ParseBdfError {}

impl FromStr for Bdf {
    type Err = ParseBdfError;

    fn from_str(text: &str) -> Result<Self, ParseBdfError> {
        let hex = |text: &str, digits: usize| {
            // from_str_radix would take a sign.
            let plain = !text.is_empty() && text.len() <= digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            plain.then(|| u16::from_str_radix(text, 16).ok()).flatten().ok_or(ParseBdfError)
        };
        let byte = |text| u8::try_from(hex(text, 2)?).map_err(|_| ParseBdfError);
        let (front, function) = text.rsplit_once('.').ok_or(ParseBdfError)?;
        let (front, device) = front.rsplit_once(':').ok_or(ParseBdfError)?;
        let (segment, bus) = match front.rsplit_once(':') {
            Some((segment, bus)) => (hex(segment, 4)?, bus),
            None => (0, front),
        };
        Self::new(segment, byte(bus)?, byte(device)?, byte(function)?).ok_or(ParseBdfError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn text() {
        let nvme: Bdf = "0000:03:00.0".parse().unwrap();
        assert_eq!((nvme.segment(), nvme.bus(), nvme.device(), nvme.function()), (0, 3, 0, 0));
        assert_eq!("3:0.0".parse(), Ok(nvme));
        let last: Bdf = "ffff:FF:1f.7".parse().unwrap();
        assert_eq!(last.requester_id(), 0xffff);
        assert_eq!(last.to_string(), "ffff:ff:1f.7");
        assert_eq!("00:1f.2".parse::<Bdf>().unwrap().requester_id(), 0x00fa);
        for bad in [
            "",
            ".",
            ":",
            "03",
            "03:00",
            "03:00.8",
            "03:20.0",
            "100:00.0",
            "10000:00:00.0",
            "+3:00.0",
            "03:00.0 ",
            "0:0000:03:00.0",
            "0000::00.0",
            "03:00.",
            "g3:00.0",
            "03:-1.0",
        ] {
            assert_eq!(bad.parse::<Bdf>(), Err(ParseBdfError), "{bad:?}");
        }
        assert_eq!(Bdf::new(0, 0, 32, 0), None);
        assert_eq!(last.sibling(2).to_string(), "ffff:ff:1f.2");
    }
}
