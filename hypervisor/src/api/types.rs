//! The JSON bodies of the API. Field names are a contract with `batonctl`, the
//! tests and operators' scripts: add, never rename.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Serialize, Serializer};

use super::error::Blame;

/// A number that people read in hexadecimal: `"0xfed90000"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hex(pub u64);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

/// GET /v1/status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Always `baton`.
    pub product: &'static str,
    /// Version of the running image.
    pub version: String,
    /// Build id of the running image, 64 hexadecimal digits.
    pub build_id: String,
    /// A name for people.
    pub build_name: String,
    /// Upgrades since power-on.
    pub generation: u64,
    /// Handover versions.
    pub handover: HandoverVersions,
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
    /// What is handed out of what there is only so much of.
    pub resources: Resources,
}

/// What the running image has handed out. An upgrade, a way back, a dry run and a cancel leave each number as it was; the heap is the
/// running image's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Resources {
    /// Frames of the arena in use.
    pub arena_frames: u64,
    /// Of these, the ones that nobody has claimed after the last upgrade (kept, never freed).
    pub arena_unclaimed: u64,
    /// Domain ids in use, over all units.
    pub domain_ids: u64,
    /// Interrupt remapping entries in use, over all units.
    pub interrupt_entries: u64,
    /// Vectors bound to guests' interrupts, over all pCPUs.
    pub vectors: u64,
    /// Bytes of the heap in use.
    pub heap_bytes: u64,
}

/// Handover versions of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct HandoverVersions {
    /// The version it writes.
    pub writes: u32,
    /// The oldest and the newest it reads.
    pub reads: [u32; 2],
}

/// How an image was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// `ipxe`, `qemu`, `upgrade` or another name of the way in.
    pub via: String,
    /// TSC ticks from the image's first instruction to the first guest's.
    pub ticks_to_guest: u64,
}

/// The machine's memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Usable RAM by the firmware's map.
    pub total_bytes: u64,
    /// Slots, scratch, arena, heap.
    pub hypervisor_bytes: u64,
    /// Memory objects of guests.
    pub guest_bytes: u64,
    /// Owned by nobody.
    pub free_bytes: u64,
}

/// GET /v1/guests.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Guests {
    /// In the order of `baton.toml`.
    pub guests: Vec<Guest>,
}

/// One guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// Its name in `baton.toml`.
    pub name: String,
    /// What it does.
    pub state: GuestState,
    /// Why it is stopped or refused.
    pub reason: Option<String>,
    /// RAM in MiB.
    pub memory_mib: u64,
    /// Its virtual CPUs.
    pub vcpus: Vec<Vcpu>,
    /// Its devices, by segment:bus:device.function.
    pub devices: Vec<String>,
    /// The module its kernel came from.
    pub kernel: String,
    /// `preserve` or `stop`.
    pub on_upgrade: String,
}

/// What a guest does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestState {
    /// It runs.
    Running,
    /// It ran.
    Stopped,
    /// It never ran.
    Refused,
}

/// Numbers by name: a JSON object.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Counts(pub Vec<(&'static str, u64)>);

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// One virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vcpu {
    /// Its number in its guest.
    pub index: u32,
    /// The physical CPU it runs on.
    pub pcpu: u32,
    /// Exits by reason, since this image runs it.
    pub exits: Counts,
    /// `running`, `halted`, `stopped` or another word for what it does.
    pub state: String,
}

/// GET /v1/iommu.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Iommu {
    /// The units.
    pub units: Vec<Unit>,
    /// The domains, one entry per unit a domain is on.
    pub domains: Vec<Domain>,
    /// The devices with a mapping.
    pub devices: Vec<Device>,
    /// The remapped interrupts.
    pub interrupts: Vec<Interrupt>,
    /// The kinds of faults met, oldest first.
    pub faults: Vec<Fault>,
    /// Times a unit ran out of registers for faults and lost some.
    pub faults_lost: u64,
}

/// One IOMMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unit {
    /// Address of its registers.
    pub base: Hex,
    /// Version register, as `major.minor`.
    pub version: String,
    /// Capability register.
    pub cap: Hex,
    /// Extended capability register.
    pub ecap: Hex,
    /// Global status register, read now.
    pub status: Hex,
    /// Whether it translates, read now.
    pub translation_enabled: bool,
    /// Whether it remaps interrupts, read now.
    pub interrupt_remapping_enabled: bool,
    /// Root table address register, read now.
    pub root_table: Hex,
    /// Interrupt remapping table address register, read now.
    pub interrupt_table: Hex,
    /// Faults since power-on.
    pub faults_total: u64,
}

/// One domain on one unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Domain {
    /// Its name across images.
    pub token: Hex,
    /// The guest, or `baton`.
    pub owner: String,
    /// Its id on this unit.
    pub did: u16,
    /// Address of the unit's registers.
    pub unit: Hex,
    /// Address of its top-level table.
    pub table_root: Hex,
    /// Levels of its table.
    pub levels: u8,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Segment:bus:device.function.
    pub bdf: String,
    /// The guest, or `baton`.
    pub owner: String,
    /// Token of its domain.
    pub domain: Hex,
    /// The domain's id on the device's unit.
    pub did: u16,
}

/// One interrupt remapping table entry in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interrupt {
    /// Its place in the table.
    pub index: u32,
    /// The only source it accepts, by segment:bus:device.function.
    pub source: String,
    /// Vector on the destination.
    pub vector: u8,
    /// APIC id.
    pub destination: u32,
}

/// One IOMMU fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Address of the unit's registers.
    pub unit: Hex,
    /// The device, by segment:bus:device.function.
    pub source: String,
    /// The address it used last, page-aligned.
    pub address: Hex,
    /// Fault reason code (VT-d 7.1).
    pub reason: Hex,
    /// `read`, `write`, `atomic`, `page_request` or `interrupt`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The guest that has the device, or `baton`; empty for nobody's.
    pub owner: String,
    /// The reason in words.
    pub words: &'static str,
    /// The PASID of the request, if it had one.
    pub pasid: Option<u32>,
    /// How often this was met, at whatever address.
    pub count: u64,
}

/// GET /v1/devices.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Devices {
    /// Every function but bridges.
    pub devices: Vec<PciDevice>,
    /// Groups of more than one function, or with a reason.
    pub groups: Vec<Group>,
}

/// One function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PciDevice {
    /// Segment:bus:device.function.
    pub bdf: String,
    /// Vendor:device, as `baton.toml` names it.
    pub id: String,
    /// Base class, subclass, programming interface: six hexadecimal digits.
    pub class: String,
    /// `free`, `assigned` or `quarantined`.
    pub state: &'static str,
    /// The guest, or `baton`; empty for nobody's.
    pub owner: String,
    /// The lowest function of its group.
    pub group: String,
    /// Address of its unit's registers.
    pub unit: Option<Hex>,
    /// `function`, `advanced features` or `bus`; empty if it can't be reset.
    pub reset: String,
    /// Its translation cache: `none`, `off` or `on`.
    pub ats: &'static str,
    /// The physical function, of a virtual one.
    pub physical: Option<String>,
    /// Why it can't be given to a guest as it stands; empty if it can.
    pub refused: String,
}

/// Functions that have to have one owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its lowest function.
    pub id: String,
    /// Its functions but for bridges.
    pub members: Vec<String>,
    /// What joins them.
    pub why: Vec<String>,
}

/// GET /v1/upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upgrade {
    /// Where the running upgrade stands.
    pub state: UpgradeState,
    /// How much of the image has arrived.
    pub progress: Progress,
    /// The running upgrade.
    pub id: Option<u64>,
    /// The last report.
    pub last: Option<Report>,
    /// The reports kept, oldest first, `last` included.
    pub history: Vec<Report>,
}

/// The phases of DESIGN.md, as states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeState {
    /// None runs.
    Idle,
    /// The image arrives.
    Staging,
    /// Every preserved object is asked.
    Planning,
    /// The new image runs in its sandbox.
    Warming,
    /// Virtual CPUs leave their guests.
    Freezing,
    /// Physical CPUs change images.
    Switching,
    /// The new image compares.
    Verifying,
    /// The old image's memory is given back.
    Retiring,
    /// The old image takes over again.
    RollingBack,
}

/// Bytes of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Progress {
    /// Arrived.
    pub received: u64,
    /// Announced.
    pub total: u64,
}

/// How one upgrade went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its number since power-on.
    pub id: u64,
    /// Build id of the image that ran.
    pub from: String,
    /// Build id of the image that was sent; empty when it had none.
    pub to: String,
    /// Version of the image that ran.
    pub from_version: String,
    /// Version of the image that was sent; empty when it had none.
    pub to_version: String,
    /// The generation that ran after it.
    pub generation: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why; empty when committed.
    pub reason: String,
    /// Who can change it; none when committed.
    pub blame: Option<Blame>,
    /// TSC ticks from FREEZE to RUN.
    pub pause_ticks: u64,
    /// TSC ticks of each phase.
    pub phases: Phases,
    /// How often memory was taken in the pause.
    pub pause_allocations: u64,
    /// IOMMU faults in the pause.
    pub iommu_faults: u64,
    /// Device interrupts found pending at FREEZE.
    pub interrupts_pending: u64,
    /// Of these, delivered after RUN.
    pub interrupts_delivered: u64,
    /// Guests that it stopped, as their `on_upgrade` says.
    pub stopped: Vec<String>,
    /// Anything else worth knowing.
    pub notes: Vec<String>,
}

/// How an upgrade ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new image runs.
    Committed,
    /// The old image runs again after WARM or later.
    RolledBack,
    /// Refused at STAGE or PLAN.
    Refused,
    /// Cancelled before FREEZE.
    Cancelled,
}

/// TSC ticks of each phase; 0 for a phase that was not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Phases {
    /// The image arrives.
    pub stage: u64,
    /// Objects are asked.
    pub plan: u64,
    /// The sandbox.
    pub warm: u64,
    /// Guests stop.
    pub freeze: u64,
    /// The jump.
    pub switch: u64,
    /// The comparison.
    pub verify: u64,
    /// The atomic store.
    pub commit: u64,
    /// Guests enter.
    pub run: u64,
    /// The old image's memory is given back.
    pub retire: u64,
}

/// Upgrades by outcome, since power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Outcomes {
    /// Committed.
    pub committed: u64,
    /// Rolled back.
    pub rolled_back: u64,
    /// Refused.
    pub refused: u64,
    /// Cancelled.
    pub cancelled: u64,
}

/// What a dry run found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Whether the upgrade would be tried.
    pub ok: bool,
    /// Every object that would have to be preserved.
    pub objects: Vec<PlanObject>,
    /// Expected pause in TSC ticks.
    pub estimated_pause_ticks: u64,
    /// What that is taken from: `last_upgrade`, or `dry_run` when there was none; empty when the upgrade would be refused.
    pub estimated_from: &'static str,
    /// Memory that the upgrade needs, all of it.
    pub memory_bytes: u64,
    /// The same piece by piece.
    pub memory: Vec<PlanMemory>,
}

/// A piece of memory that an upgrade needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanMemory {
    /// `image slot`, `scratch` or `records`.
    pub what: &'static str,
    /// Bytes needed.
    pub needed_bytes: u64,
    /// Bytes there are for it.
    pub available_bytes: u64,
}

/// One object of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanObject {
    /// `unit`, `domain`, `device`, `guest` or another kind of record.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Whether it can be preserved.
    pub preserved: bool,
    /// Why not; empty when it can. What is not meant to be preserved does not make the plan fail.
    pub reason: String,
}
