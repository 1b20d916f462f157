//! What a network card's driver offers.

use core::fmt;

/// The longest Ethernet frame sent or received, without its checksum:
/// 14 bytes of header and 1500 of payload.
pub const MAX_FRAME: usize = 1514;

/// Why a network card does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicError {
    /// All registers read as ones.
    Absent,
    /// The reset did not end in time (milliseconds).
    ResetTimeout(u64),
    /// The card did not load its settings from its EEPROM in time (milliseconds).
    EepromTimeout(u64),
    /// The card's EEPROM holds no usable station address.
    NoAddress([u8; 6]),
    /// The DMA memory handed in is too small.
    DmaTooSmall {
        /// Bytes needed.
        needed: usize,
        /// Bytes handed in.
        given: usize,
    },
    /// The card would not end its memory accesses in time (milliseconds).
    NotQuiet(u64),
}

impl fmt::Display for NicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(
                f,
                "management NIC: registers read as all ones (hardware): the card is off the bus or its memory \
                 decoding is off; reseat it or choose another card"
            ),
            Self::ResetTimeout(ms) => write!(
                f,
                "management NIC: reset did not end within {ms} ms (hardware): power-cycle the card or choose another"
            ),
            Self::EepromTimeout(ms) => write!(
                f,
                "management NIC: EEPROM was not loaded within {ms} ms (hardware): the card's EEPROM is damaged; \
                 choose another card"
            ),
            Self::NoAddress(mac) => write!(
                f,
                "management NIC: {mac:02x?} is no station address (hardware): program the card's EEPROM or choose \
                 another card"
            ),
            Self::DmaTooSmall { needed, given } => {
                write!(f, "management NIC: {given} bytes of DMA memory, {needed} needed (a defect of Baton)")
            }
            Self::NotQuiet(ms) => write!(
                f,
                "management NIC: memory accesses did not end within {ms} ms (hardware): its domain must stay blocked"
            ),
        }
    }
}

impl core::error::Error for NicError {}

/// An Ethernet card, polled; its interrupt only says that polling is worth while.
pub trait Nic {
    /// The station address.
    fn mac(&self) -> [u8; 6];
    /// Whether the card sees a link.
    fn link_up(&self) -> bool;
    /// Resets the card and starts it with empty rings. Also the way back after
    /// [`stop`](Self::stop), and the remedy for a card that hangs.
    ///
    /// # Errors
    /// The card is left stopped.
    fn start(&mut self) -> Result<(), NicError>;
    /// Copies the next received frame into `frame` and returns its length, or
    /// `None` when none is waiting.
    fn receive(&mut self, frame: &mut [u8; MAX_FRAME]) -> Option<usize>;
    /// Whether [`transmit`](Self::transmit) has room for a frame. Reclaims what the card has sent.
    fn transmit_ready(&mut self) -> bool;
    /// Queues a frame. Returns whether it was taken; it is not when there is no
    /// room, when it is empty or longer than [`MAX_FRAME`].
    fn transmit(&mut self, frame: &[u8]) -> bool;
    /// Takes back the card's interrupt, so that the next event raises a new one.
    /// To be called before the rings are looked at, never after.
    fn acknowledge_interrupt(&mut self);
    /// Stops the card: no interrupt and no memory access follows a success.
    ///
    /// # Errors
    /// [`NicError::NotQuiet`] when the card may still access memory.
    fn stop(&mut self) -> Result<(), NicError>;
}
