//! The JSON bodies, as a client reads them. A field that an older Baton does not send reads as its
//! default, and what a newer one adds is ignored: client and hypervisor need not be of one version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// GET /v1/status.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Status {
    /// Version of the running image.
    pub version: String,
    /// Build id of the running image.
    pub build_id: String,
    /// A name for people.
    pub build_name: String,
    /// Upgrades since power-on.
    pub generation: u64,
    /// Milliseconds since this image took over.
    pub uptime_ms: u64,
    /// TSC ticks per millisecond.
    pub tsc_khz: u64,
    /// Physical CPUs in use.
    pub pcpus: u32,
    /// How this image was started.
    pub boot: Boot,
    /// The machine's memory.
    pub memory: Memory,
    /// What is handed out.
    pub resources: Resources,
}

/// What Baton has handed out; upgrades leave it as it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Resources {
    /// Frames of the handover arena in use.
    pub arena_frames: u64,
    /// Of these, the ones that nobody has claimed.
    pub arena_unclaimed: u64,
    /// Domain ids in use.
    pub domain_ids: u64,
    /// Interrupt remapping entries in use.
    pub interrupt_entries: u64,
    /// Vectors bound to guests' interrupts.
    pub vectors: u64,
    /// Bytes of Baton's heap in use.
    pub heap_bytes: u64,
}

/// How an image was started.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Boot {
    /// The way in.
    pub via: String,
    /// TSC ticks from the image's first instruction to the first guest's.
    pub ticks_to_guest: u64,
}

/// The machine's memory, in bytes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Memory {
    /// Usable RAM by the firmware's map.
    pub total_bytes: u64,
    /// Baton's own.
    pub hypervisor_bytes: u64,
    /// Memory objects of guests.
    pub guest_bytes: u64,
    /// Owned by nobody.
    pub free_bytes: u64,
}

/// GET /v1/guests.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Guests {
    /// In the order of `baton.toml`.
    pub guests: Vec<Guest>,
}

/// One guest.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Guest {
    /// Its name in `baton.toml`.
    pub name: String,
    /// `running`, `stopped` or `refused`.
    pub state: String,
    /// Why it is stopped or refused.
    pub reason: Option<String>,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Its virtual CPUs.
    pub vcpus: Vec<Vcpu>,
    /// Its devices.
    pub devices: Vec<String>,
    /// The module its kernel came from.
    pub kernel: String,
}

/// One virtual CPU.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Vcpu {
    /// Its number in its guest.
    pub index: u32,
    /// The physical CPU it runs on.
    pub pcpu: u32,
    /// Exits by reason.
    pub exits: BTreeMap<String, u64>,
    /// What it does.
    pub state: String,
}

/// GET /v1/iommu.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Iommu {
    /// The units.
    pub units: Vec<Unit>,
    /// The domains, one entry per unit a domain is on.
    pub domains: Vec<Domain>,
    /// The devices with a mapping.
    pub devices: Vec<Device>,
    /// The remapped interrupts.
    pub interrupts: Vec<serde_json::Value>,
    /// The kinds of faults met, oldest first.
    pub faults: Vec<Fault>,
    /// Times a unit had no register left for a fault.
    pub faults_lost: u64,
}

/// One kind of IOMMU fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Fault {
    /// The unit's registers.
    pub unit: String,
    /// The device.
    pub source: String,
    /// The guest that has it, or `baton`.
    pub owner: String,
    /// The address it used last.
    pub address: String,
    /// `read`, `write`, `atomic`, `page_request` or `interrupt`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Reason code (VT-d 7.1).
    pub reason: String,
    /// The reason in words.
    pub words: String,
    /// The PASID of the request.
    pub pasid: Option<u32>,
    /// How often it was met.
    pub count: u64,
}

/// One IOMMU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Unit {
    /// Address of its registers.
    pub base: String,
    /// Version register.
    pub version: String,
    /// Capability register.
    pub cap: String,
    /// Extended capability register.
    pub ecap: String,
    /// Global status register.
    pub status: String,
    /// Whether it translates.
    pub translation_enabled: bool,
    /// Whether it remaps interrupts.
    pub interrupt_remapping_enabled: bool,
    /// Root table address register.
    pub root_table: String,
    /// Interrupt remapping table address register.
    pub interrupt_table: String,
    /// Faults since power-on.
    pub faults_total: u64,
}

/// One domain on one unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Domain {
    /// Its name across images.
    pub token: String,
    /// The guest, or `baton`.
    pub owner: String,
    /// Its id on this unit.
    pub did: u16,
    /// The unit's registers.
    pub unit: String,
    /// Its top-level table.
    pub table_root: String,
    /// Levels of its table.
    pub levels: u8,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Device {
    /// Segment:bus:device.function.
    pub bdf: String,
    /// The guest, or `baton`.
    pub owner: String,
    /// Token of its domain.
    pub domain: String,
    /// The domain's id on the device's unit.
    pub did: u16,
}

/// GET /v1/devices.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Devices {
    /// Every function but bridges.
    pub devices: Vec<PciDevice>,
    /// What can only go together.
    pub groups: Vec<Group>,
}

/// One function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct PciDevice {
    /// Segment:bus:device.function.
    pub bdf: String,
    /// Vendor:device.
    pub id: String,
    /// Class.
    pub class: String,
    /// `free`, `assigned` or `quarantined`.
    pub state: String,
    /// The guest, or `baton`.
    pub owner: String,
    /// The lowest function of its group.
    pub group: String,
    /// The unit's registers.
    pub unit: Option<String>,
    /// How it is reset.
    pub reset: String,
    /// Its translation cache.
    pub ats: String,
    /// The physical function, of a virtual one.
    pub physical: Option<String>,
    /// Why it can't be given to a guest as it stands.
    pub refused: String,
}

/// Functions that have to have one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Group {
    /// Its lowest function.
    pub id: String,
    /// Its functions.
    pub members: Vec<String>,
    /// What joins them.
    pub why: Vec<String>,
}

/// GET /v1/upgrade.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Upgrade {
    /// Where the running upgrade stands; `idle` when none runs.
    pub state: String,
    /// How much of the image has arrived.
    pub progress: Progress,
    /// The running upgrade.
    pub id: Option<u64>,
    /// The last report.
    pub last: Option<Report>,
    /// The reports kept, oldest first.
    pub history: Vec<Report>,
}

impl Upgrade {
    /// The report of one upgrade, if it is written yet.
    #[must_use]
    pub fn report(&self, id: u64) -> Option<&Report> {
        self.last.iter().chain(self.history.iter().rev()).find(|report| report.id == id)
    }
}

/// Bytes of the image.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Progress {
    /// Arrived.
    pub received: u64,
    /// Announced.
    pub total: u64,
}

/// How one upgrade went.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Report {
    /// Its number since power-on.
    pub id: u64,
    /// Build id of the image that ran.
    pub from: String,
    /// Build id of the image that was sent.
    pub to: String,
    /// Version of the image that ran.
    pub from_version: String,
    /// Version of the image that was sent.
    pub to_version: String,
    /// The generation that ran after it.
    pub generation: u64,
    /// `committed`, `rolled_back`, `refused` or `cancelled`.
    pub outcome: String,
    /// Why; empty when committed.
    pub reason: String,
    /// Who can change it.
    pub blame: Option<String>,
    /// TSC ticks from FREEZE to RUN.
    pub pause_ticks: u64,
    /// TSC ticks of each phase.
    pub phases: BTreeMap<String, u64>,
    /// How often memory was taken in the pause; images that don't count it say nothing.
    #[serde(default)]
    pub pause_allocations: u64,
    /// IOMMU faults in the pause.
    pub iommu_faults: u64,
    /// Device interrupts found pending at FREEZE.
    pub interrupts_pending: u64,
    /// Of these, delivered after RUN.
    pub interrupts_delivered: u64,
    /// Guests that it stopped.
    pub stopped: Vec<String>,
    /// Anything else worth knowing.
    pub notes: Vec<String>,
}

/// 202 of POST /v1/upgrade.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Accepted {
    /// The upgrade's number, as in its report.
    pub id: u64,
}

/// 200 of POST /v1/upgrade?dry_run=1.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Planned {
    /// What the dry run found.
    pub plan: Plan,
}

/// What a dry run found.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Plan {
    /// Whether the upgrade would be tried.
    pub ok: bool,
    /// Every object that would have to be preserved.
    pub objects: Vec<PlanObject>,
    /// Expected pause in TSC ticks.
    pub estimated_pause_ticks: u64,
    /// What that is taken from: `last_upgrade` or `dry_run`.
    pub estimated_from: String,
    /// Memory that the upgrade needs.
    pub memory_bytes: u64,
    /// The same piece by piece.
    pub memory: Vec<PlanMemory>,
}

/// A piece of memory that an upgrade needs.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct PlanMemory {
    /// What for.
    pub what: String,
    /// Bytes needed.
    pub needed_bytes: u64,
    /// Bytes there are.
    pub available_bytes: u64,
}

/// One object of a plan.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct PlanObject {
    /// The kind of record.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether it can be preserved.
    pub preserved: bool,
    /// Why not.
    pub reason: String,
}

/// Body of every error.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ErrorBody {
    /// The refusal.
    pub error: Refusal,
}

/// A refusal.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Refusal {
    /// For programs.
    pub code: String,
    /// Cause and remedy, for people.
    pub message: String,
    /// Who can change it.
    pub blame: String,
    /// The report it is written up in.
    pub report_id: Option<u64>,
}
