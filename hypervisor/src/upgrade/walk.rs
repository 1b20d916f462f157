//! Behaviour 2 of HANDOVER.md: what the preserved guests' devices and virtual CPUs reach, by the tables that hardware walks at
//! this moment. All of it is the guest's own memory object, or, as the guest was told, registers of its devices; else PLAN
//! refuses the guest by its name, with the range.
//!
//! The guests run meanwhile. Every table lies in the arena and is read once, so a walk is bounded by the arena's frames; the
//! units' lock is held for one of them.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use handover::plan::{Run, uncovered};
use handover::state::machine::FrameTag;
use iommu::{Bdf, Domain, Iommu, Token};
use machine::access::{Registers, TableMemory};
use machine::addr::{HostPhys, PAGE_SIZE};
use machine::paging::{Leaf, Met, PageTable};

use crate::mem::frames;
use crate::passthrough::units;
use crate::vm::Vm;

/// What of a guest's is preserved.
struct Holding<'a> {
    guest: &'a str,
    devices: Vec<Bdf>,
    /// What its devices may reach: its memory object, and what firmware reserved for them. Sorted, disjoint.
    io: Vec<Run>,
    /// What its virtual CPUs may reach: its memory object, and the BARs of its devices. Likewise.
    cpu: Vec<Run>,
}

impl<'a> Holding<'a> {
    fn of(vm: &'a Vm) -> Self {
        let run = |base: u64, bytes| Run { base, bytes };
        let ram = vm.ram.extents.iter().map(|extent| run(extent.host.get(), extent.bytes));
        let reserved = vm.ram.reserved.iter().map(|range| run(range.start.get(), range.bytes));
        let bars = vm.devices().iter().flat_map(|device| &device.bars).map(|bar| run(bar.host.get(), bar.bytes));
        Self {
            guest: &vm.name,
            devices: vm.devices().iter().map(|device| device.bdf).collect(),
            io: sorted(ram.clone().chain(reserved)),
            cpu: sorted(ram.chain(bars)),
        }
    }
}

/// They are few: the library's sort would be more code than this is work.
fn sorted(runs: impl Iterator<Item = Run>) -> Vec<Run> {
    let mut sorted: Vec<Run> = Vec::new();
    for run in runs {
        sorted.insert(sorted.partition_point(|known| *known < run), run);
    }
    sorted
}

/// Walks everything that `vms` reach.
///
/// # Errors
/// The first mapping of what is not preserved, or tables that are not what they must be: by the guest's name.
pub fn check(vms: &[Arc<Vm>]) -> Result<(), String> {
    let holdings: Vec<Holding<'_>> = vms.iter().map(|vm| Holding::of(vm)).collect();
    let owned = |tag: FrameTag| move |frame: HostPhys| frames::with(|arena| arena.owner(frame)).flatten() == Some(tag);
    units::with(|units, platform| devices(units, platform.mem, &owned(units::TAG), &holdings)).unwrap_or(Ok(()))?;
    for (vm, holding) in vms.iter().zip(&holdings) {
        let tag = FrameTag::new(FrameTag::SPACE_TABLE, vm.id);
        let space = vm.space.lock();
        if let Some((table, mem)) = space.tables() {
            processors(table, mem, &owned(tag), holding)?;
        }
    }
    Ok(())
}

/// The first part of a leaf that is nowhere in `runs`, and the address that leads there.
fn stray(leaf: &Leaf, runs: &[Run]) -> Option<(Run, u64)> {
    let run = uncovered(Run { base: leaf.to.get(), bytes: leaf.bytes }, runs)?;
    Some((run, leaf.at + (run.base - leaf.to.get())))
}

fn refusal(guest: &str, who: &str, kind: &str, (run, at): (Run, u64)) -> String {
    let Run { base, bytes } = run;
    format!(
        "guest {guest}: {who} {base:#x}..{:#x} of the machine through {kind} {at:#x}..{:#x}, which is no preserved memory \
         of its own: power the guest off before the upgrade, report this line",
        base.saturating_add(bytes),
        at.saturating_add(bytes)
    )
}

/// The devices' part: whatever domains they are in, without PASID or with one.
fn devices<R: Registers>(
    units: &Iommu<R>,
    mem: &dyn TableMemory,
    owned: &dyn Fn(HostPhys) -> bool,
    holdings: &[Holding<'_>],
) -> Result<(), String> {
    let own = units.devices().chain(units.pasids().map(|(device, _, token)| (device, token)));
    let reach: Vec<(Bdf, Token, &Holding<'_>)> = own
        .filter_map(|(device, token)| {
            let holding = holdings.iter().find(|holding| holding.devices.contains(&device))?;
            let parent = units.domain(token).and_then(Domain::parent);
            Some((device, parent.unwrap_or(token), holding))
        })
        .collect();
    let mut trees: Vec<Token> = Vec::new();
    for (_, tree, _) in &reach {
        if !trees.contains(tree) {
            trees.push(*tree);
        }
    }
    let mut wrong = None;
    let looked = units.inspect(mem, owned, &trees, &mut |tree, leaf| {
        let mut reaching = reach.iter().filter(|(_, of, _)| *of == tree);
        wrong = reaching.find_map(|(device, _, holding)| {
            let stray = stray(&leaf, &holding.io)?;
            Some(refusal(holding.guest, &format!("its device {device} reaches"), "I/O addresses", stray))
        });
        wrong.is_none()
    });
    looked.map_err(|error| error.to_string())?;
    wrong.map_or(Ok(()), Err)
}

/// The virtual CPUs' part: the nested page tables.
fn processors(
    table: &PageTable,
    mem: &dyn TableMemory,
    owned: &dyn Fn(HostPhys) -> bool,
    holding: &Holding<'_>,
) -> Result<(), String> {
    let mut met = BTreeSet::new();
    let mut wrong = None;
    let _whole = table.inspect(mem, &mut |one| {
        wrong = match one {
            Met::Table(at) => (!at.is_aligned(PAGE_SIZE) || !owned(at) || !met.insert(at)).then(|| {
                format!(
                    "guest {}: its nested page tables lead to {at}, which is not a table of theirs or is used twice",
                    holding.guest
                )
            }),
            Met::Leaf(leaf) => stray(&leaf, &holding.cpu)
                .map(|stray| refusal(holding.guest, "its virtual CPUs reach", "guest addresses", stray)),
        };
        wrong.is_none()
    });
    wrong.map_or(Ok(()), Err)
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
