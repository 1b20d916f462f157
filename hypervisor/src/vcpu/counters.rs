//! How often a virtual CPU exits, and why.

use super::exit::Exit;

/// The names of the counters, in the order of [`ExitCounters::values`].
pub const NAMES: [&str; 29] = [
    "external_interrupt",
    "nmi",
    "init",
    "interrupt_window",
    "nmi_window",
    "cpuid",
    "halt",
    "pause",
    "invd",
    "wbinvd",
    "rdpmc",
    "monitor",
    "mwait",
    "xsetbv",
    "hypercall",
    "port_read",
    "port_write",
    "msr_read",
    "msr_write",
    "control_read",
    "control_write",
    "nested_fault",
    "exception",
    "task_switch",
    "vendor_instruction",
    "shutdown",
    "invalid",
    "unknown",
    "not_emulated",
];
/// The last of them is no reason of its own: how many of the others ended with #UD for an instruction that is not decoded.
const NOT_EMULATED: usize = NAMES.len() - 1;

/// Exits by reason since the virtual CPU was created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCounters {
    values: [u64; NAMES.len()],
}

impl Default for ExitCounters {
    fn default() -> Self {
        Self { values: [0; NAMES.len()] }
    }
}

impl ExitCounters {
    /// Counts one exit.
    #[inline(always)]
    pub fn count(&mut self, exit: &Exit) {
        if let Some(value) = self.values.get_mut(index(exit)) {
            *value = value.wrapping_add(1);
        }
    }

    /// Counts an instruction that exited and is not emulated.
    pub const fn count_refused(&mut self) {
        self.values[NOT_EMULATED] = self.values[NOT_EMULATED].wrapping_add(1);
    }

    /// The counts, in the order of [`NAMES`].
    #[must_use]
    pub const fn values(&self) -> &[u64; NAMES.len()] {
        &self.values
    }

    /// Name and count of every reason.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NAMES.iter().copied().zip(self.values.iter().copied())
    }

    /// All exits.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.values.iter().take(NOT_EMULATED).fold(0, |sum, value| sum.wrapping_add(*value))
    }
}

#[inline(always)]
const fn index(exit: &Exit) -> usize {
    match exit {
        Exit::ExternalInterrupt => 0,
        Exit::Nmi => 1,
        Exit::Init => 2,
        Exit::InterruptWindow => 3,
        Exit::NmiWindow => 4,
        Exit::Cpuid => 5,
        Exit::Halt => 6,
        Exit::Pause => 7,
        Exit::Invd => 8,
        Exit::Wbinvd => 9,
        Exit::Rdpmc => 10,
        Exit::Monitor => 11,
        Exit::Mwait => 12,
        Exit::Xsetbv => 13,
        Exit::Hypercall => 14,
        Exit::Port(access) => {
            if access.write {
                16
            } else {
                15
            }
        }
        Exit::MsrRead => 17,
        Exit::MsrWrite => 18,
        Exit::ControlRead { .. } => 19,
        Exit::ControlWrite { .. } => 20,
        Exit::NestedFault(_) => 21,
        Exit::Exception { .. } => 22,
        Exit::TaskSwitch => 23,
        Exit::VendorInstruction => 24,
        Exit::Shutdown => 25,
        Exit::Invalid => 26,
        Exit::Unknown { .. } => 27,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_reasons() {
        let mut counters = ExitCounters::default();
        counters.count(&Exit::Cpuid);
        counters.count(&Exit::Cpuid);
        counters.count(&Exit::Unknown { code: 9 });
        counters.count_refused();
        let value = |name| counters.iter().find(|(n, _)| *n == name).map(|(_, v)| v);
        assert_eq!(value("cpuid"), Some(2));
        assert_eq!(value("unknown"), Some(1));
        assert_eq!(value("halt"), Some(0));
        assert_eq!(value("not_emulated"), Some(1), "no exit of its own");
        assert_eq!(counters.total(), 3);
    }
}
