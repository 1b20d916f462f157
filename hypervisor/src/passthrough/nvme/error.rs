//! What can be wrong with an NVMe controller of ours.

use core::fmt;

/// A controller can't be used, or not for virtual functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NvmeError {
    /// Its registers read as all ones.
    Absent,
    /// It lacks something.
    Unsupported(&'static str),
    /// CSTS.RDY did not follow CC.EN.
    NotReady {
        /// What it was to become.
        wanted: bool,
        /// How long was waited, in milliseconds.
        ms: u64,
    },
    /// CSTS.CFS.
    Fatal,
    /// A command was not completed.
    Silent {
        /// Its opcode.
        opcode: u8,
        /// How long was waited, in milliseconds.
        ms: u64,
    },
    /// A completion of a command that was not given.
    Confused {
        /// The command that was.
        opcode: u8,
    },
    /// A command was completed with an error.
    Refused {
        /// Its opcode.
        opcode: u8,
        /// Status type in bits 10:8, code in 7:0 (NVMe 1.4 4.6.1).
        status: u16,
    },
    /// No secondary controller is said to be in the virtual function, or more than one.
    NoController {
        /// The virtual function, from 0.
        function: u16,
    },
    /// There is not enough of a resource for every virtual function.
    TooFew {
        /// What.
        what: &'static str,
        /// What each would get.
        each: u16,
        /// What each needs.
        needed: u16,
    },
    /// A secondary controller is not what it was made.
    NotOnline {
        /// The virtual function, from 0.
        function: u16,
    },
    /// The namespace can't be given to a virtual function.
    Namespace {
        /// Its id.
        namespace: u32,
        /// Status type in bits 10:8, code in 7:0 (NVMe 1.4 4.6.1).
        status: u16,
    },
}

impl fmt::Display for NvmeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let power = "power-cycle the machine";
        match self {
            Self::Absent => write!(f, "its registers do not answer; {power}"),
            Self::Unsupported(what) => write!(f, "it lacks {what}; choose another card"),
            Self::NotReady { wanted, ms } => {
                let what = if *wanted { "become ready" } else { "stop" };
                write!(f, "it did not {what} within {ms} ms; {power}")
            }
            Self::Fatal => write!(f, "it reports a fatal error (CSTS.CFS); {power}"),
            Self::Silent { opcode, ms } => write!(f, "it did not answer command {opcode:#04x} within {ms} ms; {power}"),
            Self::Confused { opcode } => {
                write!(f, "it answered another command than {opcode:#04x}; update its firmware")
            }
            Self::Refused { opcode, status } => {
                write!(f, "it refuses command {opcode:#04x} with status {status:#05x}; update its firmware")
            }
            Self::NoController { function } => {
                write!(f, "it does not say which controller is in virtual function {function}; update its firmware")
            }
            Self::TooFew { what, each, needed } => {
                write!(f, "there are {each} {what} for each virtual function, and it takes {needed}; choose fewer")
            }
            Self::NotOnline { function } => {
                write!(f, "virtual function {function} did not come online; update its firmware")
            }
            Self::Namespace { namespace, status } => write!(
                f,
                "namespace {namespace} can't be given to a virtual function (status {status:#05x}); correct \
                 sriov.namespaces, or create the namespace"
            ),
        }
    }
}
