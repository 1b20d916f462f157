//! AMD nested paging: APM2 15.25.

use super::format::Format;
use super::host::{LONG_MODE, US};

/// A guest's physical address space under SVM.
///
/// The host's format with U/S set at every level: a nested walk is a user access
/// (APM2 15.25.5), and without it every access faults. The memory type is combined
/// with the guest's own (APM2 15.25.8). Nested paging has no way to make memory
/// unreadable. Accessed and dirty are set from the start, so that the walker never
/// writes and a checksum over the tables holds while the guest runs.
pub static NPT: Format = Format {
    name: "NPT",
    // Guest physical addresses are not sign-extended.
    canonical: false,
    table: LONG_MODE.table | US,
    leaf: LONG_MODE.leaf | US,
    ..LONG_MODE
};
