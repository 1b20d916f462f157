//! A PCI function by its place.

use core::fmt;
/// A PCI function by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bdf {
    /// The segment group.
    pub segment: u16,
    /// The bus.
    pub bus: u8,
    /// The device on the bus, 0 to 31.
    pub device: u8,
    /// The function of the device, 0 to 7.
    pub function: u8,
}
impl core::str::FromStr for Bdf {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let hex = |text: &str, digits: usize| {
            (text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .then(|| u16::from_str_radix(text, 16).ok())
                .flatten()
                .ok_or(())
        };
        let (place, function) = text.split_once('.').ok_or(())?;
        let (rest, device) = place.rsplit_once(':').ok_or(())?;
        let (segment, bus) = match rest.split_once(':') {
            Some((segment, bus)) => (hex(segment, 4)?, bus),
            None => (0, rest),
        };
        let (bus, device, function) = (hex(bus, 2)?, hex(device, 2)?, hex(function, 1)?);
        if device > 31 || function > 7 {
            return Err(());
        }
        Ok(Self {
            segment,
            bus: bus as u8,
            device: device as u8,
            function: function as u8,
        })
    }
}
impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{:x}",
            self.segment, self.bus, self.device, self.function
        )
    }
}
