//! Management: what pCPU 0 does between virtual CPUs.

use crate::config::Config;
use crate::sched::Core;

/// Starts management.
pub fn init(_config: &Config) {}

/// Does what there is to do; when to come back, in ticks of the TSC.
pub fn tend(_core: &mut Core) -> Option<u64> {
    None
}
