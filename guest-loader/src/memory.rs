//! The guest's memory as the loader sees it.

use core::fmt;

use machine::addr::GuestPhys;

/// RAM of a guest that does not run yet. The hypervisor supplies it.
///
/// All of it reads as zero before the first write: the loader relies on that and
/// writes only what differs from zero.
pub trait GuestMemory {
    /// Copies `bytes` to `at`.
    ///
    /// # Errors
    /// [`OutOfGuestMemory`] when any byte of the range is not RAM of this guest;
    /// how much was written before that is unspecified.
    fn write(&mut self, at: GuestPhys, bytes: &[u8]) -> Result<(), OutOfGuestMemory>;
}

/// The range is not wholly RAM of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfGuestMemory {
    /// The first byte of the refused range.
    pub at: GuestPhys,
    /// The length of the refused range in bytes.
    pub bytes: u64,
}

impl fmt::Display for OutOfGuestMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} bytes at guest physical {} are not RAM of this guest", self.bytes, self.at)
    }
}
