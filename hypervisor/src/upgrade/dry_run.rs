//! A dry run: PLAN is done and taken back at once, the rest of the records is written as FREEZE would write it, and everybody is told what became
//! of each object. Nothing of the machine has changed afterwards.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use handover::phase::Outcome;

use super::stage::Staged;
use super::{plan, report};
use crate::api::types::{Plan, PlanMemory, PlanObject};
use crate::config::OnUpgrade;
use crate::cpu;
use crate::manage::nic;
use crate::mem::layout::{SCRATCH_BYTES, SLOT_BYTES};
use crate::passthrough::units;
use crate::vm::{self, Vm};

/// What PLAN would say, object by object.
pub fn dry_run(staged: &Staged) -> Plan {
    let mut objects = objects();
    let (verdict, work) = attempt(staged);
    let mut memory = Vec::from([
        PlanMemory { what: "image slot", needed_bytes: staged.note.memory_bytes, available_bytes: SLOT_BYTES },
        PlanMemory { what: "scratch", needed_bytes: SCRATCH_BYTES, available_bytes: SCRATCH_BYTES },
    ]);
    match &verdict {
        Ok((written, room)) => {
            memory.push(PlanMemory { what: "records", needed_bytes: *written, available_bytes: *room });
            objects.push(object("records", format!("format {}", staged.format), None));
        }
        Err(reason) => blame(&mut objects, reason, staged.format),
    }
    let last = report::all().into_iter().rev().find(|report| report.outcome == Outcome::Committed.code());
    let (estimated_pause_ticks, estimated_from) = match (&verdict, last) {
        (Err(_), _) => (0, ""),
        (Ok(_), Some(last)) => (report::pause(&last), "last_upgrade"),
        // What was written here is written at FREEZE, and read and compared at VERIFY.
        (Ok(_), None) => (work.saturating_mul(2), "dry_run"),
    };
    let memory_bytes = memory.iter().map(|piece| piece.needed_bytes).sum();
    Plan { ok: verdict.is_ok(), objects, estimated_pause_ticks, estimated_from, memory_bytes, memory }
}

/// PLAN and FREEZE's records, taken back: bytes written and room for them, or the reason against it; the ticks of what FREEZE would do.
fn attempt(staged: &Staged) -> (Result<(u64, u64), String>, u64) {
    let mut planned = match plan::prepare(staged.clone()) {
        Ok(planned) => planned,
        Err(reason) => return (Err(reason), 0),
    };
    let begun = cpu::tsc();
    let written = planned.dry_run();
    let work = cpu::tsc().saturating_sub(begun);
    let room = planned.region.bytes();
    let written = written.map(|bytes| (bytes, room));
    planned.undo();
    (written, work)
}

fn object(kind: &str, name: String, refusal: Option<String>) -> PlanObject {
    PlanObject { kind: kind.into(), name, preserved: refusal.is_none(), reason: refusal.unwrap_or_default() }
}

/// Everything that there is, as if all went well.
fn objects() -> Vec<PlanObject> {
    let mut objects = Vec::new();
    for vm in vm::all() {
        guest(&mut objects, &vm);
    }
    units::with(|units, _| {
        for base in (0..units.units()).filter_map(|index| units.unit_base(iommu::UnitIndex(index))) {
            objects.push(object("unit", base.to_string(), None));
        }
    });
    let gone = "it is no guest's: it stops right before the pause, and the next image starts it again";
    objects.push(object("management", nic::OWNER.into(), Some(gone.into())));
    objects
}

fn guest(objects: &mut Vec<PlanObject>, vm: &Vm) {
    let left = (vm.on_upgrade == OnUpgrade::Stop)
        .then(|| format!("it will be stopped: guest {} says on_upgrade = \"stop\"", vm.name));
    let mut add = |kind: &str, name: String| objects.push(object(kind, name, left.clone()));
    add("guest", vm.name.clone());
    add("memory object", format!("{} MiB of {}", vm.ram.bytes() >> 20, vm.name));
    for (index, vcpu) in vm.vcpus.iter().enumerate() {
        add("vcpu", format!("{index} of {} on pCPU {}", vm.name, vcpu.pcpu));
    }
    if !vm.devices().is_empty() {
        add("domain", format!("{:#x} of {}", vm::tokens::domain(vm.token), vm.name));
    }
    for device in vm.devices() {
        add("device", device.bdf.to_string());
    }
}

/// Says no to the object that the reason names: the one with the longest name, for that of a guest may be in others. When it names none, to
/// the records as a whole.
fn blame(objects: &mut Vec<PlanObject>, reason: &str, format: u16) {
    let named = objects.iter_mut().filter(|object| object.preserved && reason.contains(object.name.as_str()));
    match named.max_by_key(|object| object.name.len()) {
        Some(object) => {
            object.preserved = false;
            object.reason = reason.into();
        }
        None => objects.push(object("records", format!("format {format}"), Some(reason.into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn law_7_the_object_that_is_named_says_no() {
        let all = || {
            let guest = |kind, name: &str| object(kind, name.into(), None);
            Vec::from([guest("guest", "web"), guest("device", "0000:03:00.0"), guest("guest", "left")])
        };
        let no = |reason: &str| {
            let mut objects = all();
            objects[2] = object("guest", "left".into(), Some("it is stopped".into()));
            blame(&mut objects, reason, 2);
            let refused = objects.into_iter().filter(|object| !object.preserved && object.reason == reason);
            refused.map(|object| (object.kind, object.name)).collect::<Vec<_>>()
        };
        let pair = |kind: &str, name: &str| Vec::from([(kind.to_string(), name.to_string())]);
        assert_eq!(no("guest web: 0000:03:00.0 has a PASID"), pair("device", "0000:03:00.0"));
        assert_eq!(no("guest web: its tables"), pair("guest", "web"));
        assert_eq!(no("the arena has no room"), pair("records", "format 2"));
        assert_eq!(no("guest left"), pair("records", "format 2"), "what has a reason already keeps it");
    }
}
