//! What ends a slice of the sandbox (a virtual CPU that runs the next image, `upgrade::warm`), whatever the vendor.

use alloc::string::String;

/// Why the sandbox stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// An interrupt of the machine: it may go on later.
    Interrupted,
    /// It made a hypercall: RAX and RBX.
    Call {
        /// What it wants.
        number: u64,
        /// With what.
        argument: u64,
    },
    /// It did what it must not, and can't go on: what, and where.
    Fault {
        /// What, for a report.
        what: String,
        /// RIP.
        rip: u64,
    },
}
