//! The machine as the API shows it: taken at the moment of the request.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use handover::note::Note;
use handover::state::report::ReportV1;
use iommu::intel::spec::interrupts::InterruptEntry;
use iommu::state::{IrteState, Snapshot, UnitState};
use iommu::{Access, FaultLine, FaultLog, Token, UnitIndex};
use machine::addr::HostPhys;
use machine::pci::Bdf;

use super::nic;
use crate::api::control::UploadId;
use crate::api::types::{
    Boot, Counts, Device, Domain, Fault, Guest, GuestState, Guests, HandoverVersions, Hex, Interrupt, Iommu, Memory,
    Outcome, Progress, Report, Resources, Status, Unit, Upgrade, UpgradeState, Vcpu,
};
use crate::config::OnUpgrade;
use crate::mem::regions::{Owner, RegionMap};
use crate::mem::{frames, heap};
use crate::passthrough::inventory;
use crate::passthrough::units::{self, Units};
use crate::smp::pcpu;
use crate::trap::devices;
use crate::upgrade::{convert, report};
use crate::vm::{self, Vm, VmState};
use crate::{cpu, host, time};

/// The image's version; one that was not sealed has only its crate's.
pub fn version(note: &Note) -> String {
    if note.note_offset == 0 { env!("CARGO_PKG_VERSION").into() } else { report::version(note) }
}

/// GET /v1/status.
pub fn status() -> Status {
    let host = host::get();
    let note = &host.note;
    Status {
        product: "baton",
        version: version(note),
        build_id: note.build_id.iter().map(|byte| format!("{byte:02x}")).collect(),
        build_name: host.build_name.into(),
        generation: host.generation,
        handover: HandoverVersions {
            writes: note.writes_max.into(),
            reads: [note.reads_min.into(), note.reads_max.into()],
        },
        uptime_ms: cpu::tsc().wrapping_sub(host.entered) / time::tsc_khz().max(1),
        tsc_khz: time::tsc_khz(),
        pcpus: u32::try_from(pcpu::count()).unwrap_or(u32::MAX),
        boot: Boot { via: host.via.clone(), ticks_to_guest: host::ticks_to_guest() },
        memory: memory(&host.regions.lock()),
        resources: resources(),
    }
}

fn resources() -> Resources {
    let (arena_frames, arena_unclaimed) =
        frames::with(|arena| (arena.used() as u64, arena.unclaimed().count() as u64)).unwrap_or_default();
    let (domain_ids, interrupt_entries) =
        units::with(|units, _| (units.domain_ids_in_use(), units.interrupts_in_use())).unwrap_or_default();
    let (vectors, heap_bytes) = (devices::bound(), heap::used());
    Resources { arena_frames, arena_unclaimed, domain_ids, interrupt_entries, vectors, heap_bytes }
}

/// RAM by owner. Modules and the first MiB are in the total only.
fn memory(regions: &RegionMap) -> Memory {
    Memory {
        total_bytes: regions.bytes(|owner| owner != Owner::Firmware),
        hypervisor_bytes: regions.bytes(|owner| matches!(owner, Owner::Slot(_) | Owner::Scratch | Owner::Arena)),
        guest_bytes: regions.bytes(|owner| matches!(owner, Owner::Object(_))),
        free_bytes: regions.bytes(|owner| owner == Owner::Free),
    }
}

/// GET /v1/guests: those that could not start come last.
pub fn guests() -> Guests {
    let running = vm::all();
    let refused = vm::all_refused();
    Guests { guests: running.iter().map(|vm| guest(vm)).chain(refused.into_iter().map(never_ran)).collect() }
}

fn guest(vm: &Vm) -> Guest {
    let stopped = vm.state() == VmState::Stopped;
    Guest {
        name: vm.name.clone(),
        state: if stopped { GuestState::Stopped } else { GuestState::Running },
        reason: stopped.then(|| vm.reason()),
        memory_mib: vm.ram.bytes() >> 20,
        vcpus: (0..).zip(&vm.vcpus).map(|(index, shared)| vcpu(index, shared, stopped)).collect(),
        devices: vm.devices().iter().map(|device| device.bdf.to_string()).collect(),
        kernel: vm.kernel.clone(),
        on_upgrade: match vm.on_upgrade {
            OnUpgrade::Preserve => "preserve".into(),
            OnUpgrade::Stop => "stop".into(),
        },
    }
}

fn vcpu(index: u32, shared: &vm::VcpuShared, stopped: bool) -> Vcpu {
    let counted = *shared.exits.lock();
    let exits = Counts(counted.iter().filter(|(_, count)| *count > 0).collect());
    let halted = shared.halted.load(core::sync::atomic::Ordering::Relaxed);
    let state = match (stopped, halted) {
        (true, _) => "stopped",
        (_, true) => "halted",
        // The guest has not started it yet; the first one needs no start.
        _ if index != 0 && exits.0.is_empty() => "waiting",
        _ => "running",
    };
    Vcpu { index, pcpu: shared.pcpu, exits, state: state.into() }
}

fn never_ran(refused: vm::Refused) -> Guest {
    Guest {
        name: refused.name,
        state: GuestState::Refused,
        reason: Some(refused.reason),
        memory_mib: refused.memory >> 20,
        vcpus: Vec::new(),
        devices: Vec::new(),
        kernel: refused.kernel,
        // What would have become of it is nobody's concern.
        on_upgrade: String::new(),
    }
}

/// GET /v1/iommu.
pub fn iommu() -> Iommu {
    let owners = Owners::now();
    units::with(|units, _| shown(units, &owners)).unwrap_or_default()
}

fn shown(units: &Units, owners: &Owners) -> Iommu {
    // Fails while an invalidation is outstanding; what the snapshot alone knows is left out then.
    let snapshot = units.snapshot().unwrap_or_default();
    let places = || (0..units.units()).map(UnitIndex).filter_map(|index| Some((index, units.unit_base(index)?)));
    let only = units.units() == 1;
    Iommu {
        units: places().map(|(_, base)| unit(base, units::live(base), faults_of(units.faults(), base, only))).collect(),
        domains: units
            .domains()
            .flat_map(|domain| {
                places().filter_map(move |(index, base)| {
                    Some(Domain {
                        token: Hex(domain.token().0),
                        owner: owners.of(domain.token()),
                        did: domain.id_on(index)?,
                        unit: Hex(base.get()),
                        table_root: Hex(domain.root().get()),
                        levels: domain.levels(),
                    })
                })
            })
            .collect(),
        devices: units
            .devices()
            .map(|(bdf, token)| Device {
                bdf: bdf.to_string(),
                owner: owners.of(token),
                domain: Hex(token.0),
                did: units
                    .domain(token)
                    .zip(units.unit_of(bdf))
                    .and_then(|(domain, unit)| domain.id_on(unit))
                    .unwrap_or(0),
            })
            .collect(),
        interrupts: interrupts(&snapshot),
        faults: units.faults().lines().iter().map(|line| fault(line, inventory::owner(line.fault.device))).collect(),
        faults_lost: units.faults().overflows,
    }
}

/// Whose domains are.
struct Owners(Vec<(u64, String)>);

impl Owners {
    fn now() -> Self {
        let mut owners: Vec<_> = vm::all().iter().map(|vm| (vm::tokens::domain(vm.token), vm.name.clone())).collect();
        owners.push((nic::token().0, nic::OWNER.into()));
        Self(owners)
    }

    fn of(&self, token: Token) -> String {
        let known = self.0.iter().find(|(known, _)| *known == token.0);
        known.map_or_else(String::new, |(_, name)| name.clone())
    }
}

/// `live`: GSTS, RTADDR, IRTA, VER, CAP, ECAP, as [`units::live`] reads them.
fn unit(base: HostPhys, live: [u64; 6], faults_total: u64) -> Unit {
    let [status, root_table, interrupt_table, version, cap, ecap] = live;
    Unit {
        base: Hex(base.get()),
        // VT-d 11.4.1: major in bits 7:4, minor in 3:0.
        version: format!("{}.{}", version >> 4 & 0xf, version & 0xf),
        cap: Hex(cap),
        ecap: Hex(ecap),
        status: Hex(status),
        // VT-d 11.4.5: TES is bit 31, IRES bit 25.
        translation_enabled: status & 1 << 31 != 0,
        interrupt_remapping_enabled: status & 1 << 25 != 0,
        root_table: Hex(root_table),
        interrupt_table: Hex(interrupt_table),
        faults_total,
    }
}

/// Of several units each has what the log lists of it; the only one has all.
fn faults_of(log: &FaultLog, unit: HostPhys, only: bool) -> u64 {
    if only {
        return log.total;
    }
    let lines = log.lines().iter().filter(|line| line.fault.unit == unit);
    lines.fold(0, |sum, line| sum.saturating_add(line.count))
}

/// The entries that let an interrupt through.
fn interrupts(snapshot: &Snapshot) -> Vec<Interrupt> {
    let unit_of = |entry: &IrteState| snapshot.units.iter().find(|unit| unit.base == entry.unit);
    snapshot.irtes.iter().filter_map(|entry| interrupt(entry, unit_of(entry)?)).collect()
}

fn interrupt(state: &IrteState, unit: &UnitState) -> Option<Interrupt> {
    let entry = InterruptEntry::from_bits(u128::from(state.high) << 64 | u128::from(state.low));
    // VT-d 11.4.23: EIME is bit 11 of IRTA; without it the APIC id is in bits 15:8 (VT-d 9.10).
    let x2apic = unit.irta & 1 << 11 != 0;
    let destination = entry.destination();
    entry.present().then(|| Interrupt {
        index: state.index.into(),
        source: Bdf::from_requester_id(unit.segment, entry.source()).to_string(),
        vector: entry.vector(),
        destination: if x2apic { destination } else { destination >> 8 & 0xff },
    })
}

fn fault(line: &FaultLine, owner: Option<String>) -> Fault {
    let fault = &line.fault;
    Fault {
        unit: Hex(fault.unit.get()),
        source: fault.device.to_string(),
        address: Hex(fault.address.0),
        reason: Hex(fault.reason.0.into()),
        kind: match fault.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::Atomic => "atomic",
            Access::PageRequest => "page_request",
            Access::Interrupt(_) => "interrupt",
        }
        .into(),
        owner: owner.unwrap_or_default(),
        words: fault.reason.words(),
        pasid: fault.pasid,
        count: line.count,
    }
}

/// GET /v1/upgrade.
pub fn upgrade(state: UpgradeState, progress: Progress, id: Option<UploadId>, reports: &[ReportV1]) -> Upgrade {
    let history: Vec<Report> = reports.iter().filter_map(finished).collect();
    Upgrade { state, progress, id: id.map(|id| id.0), last: history.last().cloned(), history }
}

/// A finished report; those of an image that could not be read were refused when it handed them over.
fn finished(record: &ReportV1) -> Option<Report> {
    let mut report = convert::report::shown(record).ok().flatten()?;
    report.notes = report::notes(record.sequence);
    report.stopped = convert::report::shown_stopped(&report::all_stopped(), record.sequence);
    if report.outcome != Outcome::Committed {
        // The record has the generation that it would have led to.
        report.generation = report.generation.saturating_sub(1);
    }
    Some(report)
}

#[cfg(test)]
#[path = "view_tests.rs"]
mod tests;
