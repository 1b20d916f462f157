//! The DMAR table: where the IOMMUs are and what is behind each. VT-d 8.
//!
//! Safe code over a byte slice. What matters for isolation (units, reserved memory) is
//! either understood whole or refused; the rest is skipped with a warning.

mod error;
mod parse;
mod scope;
mod structures;
#[cfg(test)]
mod tests;
mod topology;

pub use error::{DmarError, DmarWarning, ReservedError, ScopeError};
pub use scope::{DeviceScope, ScopeKind, resolve_scope};
pub use structures::{Andd, Atsr, Dmar, DmarFlags, Drhd, Rhsa, Rmrr, Satc, Sidp};
pub use topology::UnitRange;
