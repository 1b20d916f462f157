//! What firmware says about the machine.
//!
//! [`read`] finds the tables, checks every length in them (`vet`), lets the `acpi`
//! crate decode what passed, and gives back plain owned values. The crate trusts
//! lengths, so it only ever sees private, padded copies of tables that were vetted;
//! no reference to firmware's memory is kept.
//!
//! The DMAR table is parsed here, in [`dmar`].

mod copies;
pub mod dmar;
mod error;
mod find;
mod platform;
#[cfg(test)]
mod tests;
mod vet;

pub use error::{AcpiError, AcpiWarning, Signature};
pub use find::find_rsdp;
pub use platform::{Hpet, InterruptOverride, IoApic, Platform, PmTimer, Processor, read};

use crate::addr::HostPhys;

/// How firmware's memory is reached: by copying, so that nothing can change after
/// it was checked.
pub trait Mapper {
    /// Copies `buffer.len()` bytes at `address` into `buffer`; `false` if any of them
    /// cannot be read (and `buffer` may then hold anything).
    #[must_use]
    fn read(&self, address: HostPhys, buffer: &mut [u8]) -> bool;
}
