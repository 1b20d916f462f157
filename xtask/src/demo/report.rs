//! target/reports/demo.json. Field names are a contract with whoever reads it.

use std::collections::BTreeMap;

use batonctl::api;
use serde::Serialize;

/// The whole.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Every check held.
    pub ok: bool,
    /// How the machine started.
    pub boot: Boot,
    /// The guest.
    pub guest: Guest,
    /// Its device.
    pub device: Device,
    /// Every image that was sent, in order.
    pub upgrades: Vec<Upgrade>,
    /// The guest's disk I/O.
    pub io: Io,
    /// What had to hold.
    pub checks: Vec<Check>,
}

/// How the machine started.
#[derive(Debug, Default, Serialize)]
pub struct Boot {
    /// The way in.
    pub via: String,
    /// TSC ticks from Baton's first instruction to the guest's.
    pub ticks_to_guest: u64,
}

/// The guest.
#[derive(Debug, Default, Serialize)]
pub struct Guest {
    /// Its kernel's release.
    pub kernel: String,
    /// Its memory.
    pub memory_mib: u64,
}

/// The guest's device.
#[derive(Debug, Default, Serialize)]
pub struct Device {
    /// Its place in the machine.
    pub bdf: String,
    /// The guest's driver.
    pub driver: String,
}

/// What became of an image.
#[derive(Debug, Serialize)]
pub struct Upgrade {
    /// Build id of the image that ran.
    pub from: String,
    /// Build id of the image that was sent.
    pub to: String,
    /// The generation that ran after it.
    pub generation: u64,
    /// `committed`, `rolled_back`, `refused` or `cancelled`.
    pub outcome: String,
    /// Why.
    pub reason: String,
    /// TSC ticks from FREEZE to RUN.
    pub pause_ticks: u64,
    /// TSC ticks of each phase.
    pub phases: BTreeMap<String, u64>,
    /// IOMMU faults in the pause.
    pub iommu_faults: u64,
    /// Device interrupts pending at FREEZE.
    pub interrupts_pending: u64,
    /// Of these, delivered after RUN.
    pub interrupts_delivered: u64,
}

impl From<&api::Report> for Upgrade {
    fn from(report: &api::Report) -> Self {
        Self {
            from: report.from.clone(),
            to: report.to.clone(),
            generation: report.generation,
            outcome: report.outcome.clone(),
            reason: report.reason.clone(),
            pause_ticks: report.pause_ticks,
            phases: report.phases.clone(),
            iommu_faults: report.iommu_faults,
            interrupts_pending: report.interrupts_pending,
            interrupts_delivered: report.interrupts_delivered,
        }
    }
}

/// The guest's disk I/O over the whole story.
#[derive(Debug, Default, Serialize)]
pub struct Io {
    /// I/Os completed.
    pub ops: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// I/Os the guest's kernel refused, and complaints of its driver.
    pub errors: u64,
    /// Blocks read that were not what was written.
    pub checksum_mismatches: u64,
    /// Longest time without a completed I/O.
    pub max_gap_ms: f64,
}

/// What had to hold.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it did.
    pub ok: bool,
}
