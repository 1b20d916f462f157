//! A guest with `on_upgrade = "stop"` beside one that is preserved: it is stopped when nothing can be refused any more, its devices are
//! quiet, reset and blocked, and the other's I/O goes on. HANDOVER.md, behaviours 8 and 9.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use batonctl::api::{Report, Status};
use batonctl::upgrade as client;

use super::attack::{self, Owned, Watch};
use super::{Bed, cancel, upgrade};
use crate::config::{self, DEADLINE_MS, Guest};
use crate::images;
use crate::machine::Machine;
use crate::outside::Trace;
use crate::paths;
use crate::spec::{Device, Kind, Place, Spec};
use crate::tables::Structures;
use crate::witness::{self, Witness};

/// Command register, bus mastering (PCI 3.0 6.2.2).
const COMMAND: usize = 0x04;
const BUS_MASTER: u8 = 1 << 2;
/// Who leaves: two disks and a DMA engine; who stays has the disk between them.
const LEAVES: &str = "attacker";
const STAYS: &str = "neighbour";
const DEVICES: [&str; 3] = ["03:00.0", "05:00.0", "06:00.0"];
/// A panic in the sandbox, and on the first pCPU after SWITCH (`hypervisor/src/upgrade/fault.rs`).
const IN_THE_SANDBOX: (u8, u8) = (1, 1);
const AFTER_SWITCH: (u8, u8) = (1, 2);

/// Who leaves runs on `pcpu`.
fn guests(pcpu: u32) -> [Guest; 2] {
    let leaves = Guest { pcpu, on_upgrade: "stop".into(), ..Guest::bare(LEAVES, "attacker", &DEVICES) };
    let stays = Guest { pcpu: 2, console: "com1".into(), ..Guest::bare(STAYS, "disk", &["04:00.0"]) };
    [leaves, stays]
}

fn spec(pcpu: u32) -> Spec {
    let mut spec = Spec::bare(&["attacker", "disk"], &guests(pcpu));
    (spec.devices, spec.cpus, spec.memory_mib, spec.typed) = (vec![Device::DISK; 3], 3, 256, true);
    spec.devices.push(Device { kind: Kind::Edu, place: Place::RootPort });
    spec
}

pub fn run(bed: &mut Bed) -> Result<()> {
    // On pCPU 0, which stops it, what its devices sent last waits where the jump begins.
    let machine = bed.start("stop", &spec(0))?;
    attack::ready(&machine)?;
    nobody_is_stopped_before(&machine)?;
    committed(&machine)?;
    let machine = bed.start("stop-back", &spec(1))?;
    attack::ready(&machine)?;
    rolled_back(&machine)?;
    alone(bed)
}

fn fault(numbers: (u8, u8)) -> Result<Vec<u8>> {
    let mut image = std::fs::read(paths::image("baton-fault")).context("./x test e2e stop builds it")?;
    images::set_fault(&mut image, numbers.0, numbers.1)?;
    Ok(image)
}

fn send(machine: &Machine, image: &[u8]) -> Result<Report> {
    let api = machine.wait_api(30)?;
    let accepted = client::send(&api, &mut { image }, image.len() as u64)?;
    Ok(client::wait(&api, accepted.id, Duration::from_secs(120), &mut |_| ())?)
}

/// A dry run says who will be stopped. That, a cancelled upgrade and one that fails in the sandbox stop nobody.
fn nobody_is_stopped_before(machine: &Machine) -> Result<()> {
    let api = machine.api();
    let watch = Witness::begin(machine)?;
    let good = std::fs::read(paths::image("baton-next1")).context("./x image --all builds it")?;
    let plan = api.plan(&mut good.as_slice(), good.len() as u64)?.plan;
    ensure!(plan.ok, "{plan:?}");
    let leaving = plan.objects.iter().filter(|object| object.reason.contains("it will be stopped"));
    let leaving: Vec<_> = leaving.map(|object| (object.kind.as_str(), object.name.as_str())).collect();
    for wanted in [("guest", LEAVES)].into_iter().chain(DEVICES.map(|device| ("device", device))) {
        let named = leaving.iter().any(|(kind, name)| *kind == wanted.0 && name.ends_with(wanted.1));
        ensure!(named, "{wanted:?} is not among {leaving:?}");
    }
    let stays = plan.objects.iter().filter(|object| object.preserved).any(|object| object.name == STAYS);
    ensure!(stays && leaving.iter().all(|(_, name)| !name.contains(STAYS)), "{plan:?}");

    cancel::in_the_sandbox(machine, &cancel::hanging(0)?)?;
    let report = send(machine, &fault(IN_THE_SANDBOX)?)?;
    ensure!(report.outcome == "refused" && report.stopped.is_empty(), "{report:?}");
    let watched = watch.end()?;
    witness::all_hold(&watched.checks)?;
    witness::all_hold(&witness::unchanged(&watched))?;
    let answer = Watch::begin(machine)?.order("disk-check")?;
    ensure!(answer.ends_with("same true"), "its disk does not work any more: {answer}");
    Ok(())
}

/// The devices of the guest that leaves, as the machine has them.
fn devices() -> Result<Vec<Owned>> {
    DEVICES.into_iter().map(|name| Owned::named(format!("0000:{name}"))).collect()
}

/// Nothing of them is left: they make no requests, no table knows them, the disks were reset.
fn are_gone(machine: &Machine, resets: usize) -> Result<()> {
    let structures = Structures::read(machine)?;
    let listed = machine.api().devices()?.devices;
    for device in devices()? {
        let command = device.config(machine)?.bytes[COMMAND];
        ensure!(command & BUS_MASTER == 0, "{} may still do DMA", device.name);
        ensure!(structures.root_of(device.id).is_err(), "{} is still translated for", device.name);
        let entry = listed.iter().find(|listed| listed.bdf == device.name).context("it is not listed")?;
        ensure!(entry.state == "free", "{entry:?}");
    }
    let trace = Trace::read(&machine.trace);
    ensure!(trace.disk_resets >= resets + 2, "both disks are to be reset: {trace:?}");
    ensure!(trace.faults.is_empty(), "{:?}", trace.faults);
    let known = machine.api().iommu()?;
    ensure!(known.devices.iter().all(|device| device.owner != LEAVES), "{known:?}");
    ensure!(known.domains.iter().all(|domain| domain.owner != LEAVES), "{known:?}");
    Ok(())
}

/// An upgrade while the guest that leaves has its disk's bus mastering switched on again and again.
fn committed(machine: &Machine) -> Result<()> {
    let before = machine.api().status()?;
    let resets = Trace::read(&machine.trace).disk_resets;
    machine.type_line("toggle")?;
    let watch = Witness::begin(machine)?.leaving(LEAVES);
    let report = upgrade::perform(machine, "baton-next1")?;
    let watched = watch.end()?;
    witness::all_hold(&witness::committed(&watched, &report))?;
    witness::all_hold(&watched.checks)?;
    ensure!(report.stopped == [LEAVES], "{report:?}");
    are_gone(machine, resets)?;
    let names: Vec<_> = machine.api().guests()?.guests.into_iter().map(|guest| guest.name).collect();
    ensure!(names == [STAYS], "{names:?}");
    memory_is_free(&before, &machine.api().status()?)?;
    // The next one stops nobody, and who was stopped is remembered.
    upgrade::to(machine, "baton-next2")?;
    let history = machine.api().upgrade()?.history;
    let stopped: Vec<_> = history.into_iter().filter(|report| report.outcome == "committed").collect();
    ensure!(stopped.len() == 2 && stopped[0].stopped == [LEAVES] && stopped[1].stopped.is_empty(), "{stopped:?}");
    are_gone(machine, resets)
}

fn memory_is_free(before: &Status, after: &Status) -> Result<()> {
    let (had, has) = (before.memory, after.memory);
    let freed = had.guest_bytes.checked_sub(has.guest_bytes).filter(|bytes| *bytes == attack::GUEST_BYTES);
    ensure!(freed.is_some() && has.free_bytes == had.free_bytes + attack::GUEST_BYTES, "{had:?}, then {has:?}");
    let (had, has) = (before.resources, after.resources);
    ensure!(has.arena_unclaimed == 0 && has.arena_frames < had.arena_frames, "{had:?}, then {has:?}");
    ensure!(has.domain_ids + 1 == had.domain_ids, "{had:?}, then {has:?}");
    Ok(())
}

/// What fails after SWITCH finds it stopped: it stays so, and the report says it. Then an upgrade works.
fn rolled_back(machine: &Machine) -> Result<()> {
    let resets = Trace::read(&machine.trace).disk_resets;
    let watch = Witness::begin(machine)?.leaving(LEAVES);
    let report = send(machine, &fault(AFTER_SWITCH)?)?;
    ensure!(report.outcome == "rolled_back" && report.stopped == [LEAVES], "{report:?}");
    let watched = watch.end()?;
    witness::all_hold(&watched.checks)?;
    witness::all_hold(&witness::unchanged(&watched))?;
    are_gone(machine, resets)?;
    let guests = machine.api().guests()?.guests;
    let left = guests.iter().find(|guest| guest.name == LEAVES).context("it is not listed")?;
    let why = left.reason.as_deref().unwrap_or_default();
    ensure!(left.state == "stopped" && why.contains("on_upgrade"), "{left:?}");
    upgrade::to(machine, "baton-next1")?;
    ensure!(machine.api().status()?.resources.arena_unclaimed == 0, "frames of the guest that left are nobody's");
    let reports = machine.api().upgrade()?.history;
    let stopped: Vec<_> = reports.into_iter().map(|report| report.stopped).collect();
    ensure!(stopped == [vec![LEAVES.to_owned()], Vec::new()], "{stopped:?}");
    Ok(())
}

/// Where every guest leaves, nobody pauses, and the machine goes on without any.
fn alone(bed: &mut Bed) -> Result<()> {
    let leaves = Guest { on_upgrade: "stop".into(), ..Guest::bare("disk", "disk", &["1b36:0010"]) };
    let machine = bed.start("stop-alone", &Spec { memory_mib: 256, ..Spec::bare(&["disk"], &[leaves]) })?;
    machine.wait_guest("ioload t=", 60)?;
    for (name, stopped) in [("baton-next1", &["disk"][..]), ("baton-next2", &[])] {
        let report = upgrade::perform(&machine, name)?;
        ensure!(report.outcome == "committed" && report.stopped == stopped, "{report:?}");
        let api = machine.wait_api(30)?;
        ensure!(api.guests()?.guests.is_empty(), "{:?}", api.guests()?);
        let (memory, resources) = (api.status()?.memory, api.status()?.resources);
        ensure!((memory.guest_bytes, resources.arena_unclaimed) == (0, 0), "{memory:?}, {resources:?}");
    }
    let trace = Trace::read(&machine.trace);
    ensure!(trace.faults.is_empty(), "{:?}", trace.faults);
    Ok(())
}

/// An image that speaks only the format before is told of nobody who leaves: they have left before it looks.
pub(super) fn downgraded(bed: &mut Bed) -> Result<()> {
    // That format can't say that signatures are demanded.
    let text = config::with_policy(DEADLINE_MS, "unsigned = \"allow\"", &guests(1));
    let machine = &bed.start("stop-downgrade", &Spec { texts: vec![("baton.toml".into(), text)], ..spec(1) })?;
    attack::ready(machine)?;
    let resets = Trace::read(&machine.trace).disk_resets;
    let watch = Witness::begin(machine)?.leaving(LEAVES);
    let report = upgrade::perform(machine, "baton-previous")?;
    let watched = watch.end()?;
    witness::all_hold(&witness::committed(&watched, &report))?;
    witness::all_hold(&watched.checks)?;
    are_gone(machine, resets)
}
