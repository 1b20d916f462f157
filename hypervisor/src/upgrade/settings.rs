//! What management wants the next image to know of it.

use hermit_sync::SpinMutex;

use super::convert::management::{ManagementState, Totals};
use super::report;
use crate::passthrough::units;

static MANAGEMENT: SpinMutex<Option<ManagementState>> = SpinMutex::new(None);

/// Management says how it is reached: at its start, and when its address changes.
pub fn set_management(management: ManagementState) {
    *MANAGEMENT.lock() = Some(management);
}

/// How management is reached.
pub fn management() -> Option<ManagementState> {
    *MANAGEMENT.lock()
}

/// What is counted since power-on.
pub fn totals() -> Totals {
    let faults = units::with(|units, _| {
        let log = units.faults();
        (log.total, log.unlisted, log.overflows)
    });
    let (faults, faults_unlisted, fault_overflows) = faults.unwrap_or_default();
    Totals { outcomes: report::outcomes(), faults, faults_unlisted, fault_overflows }
}
