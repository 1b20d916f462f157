//! Faults of the image that runs, while it warms another one up or takes over again from it: it is built for faults itself.
//!
//! - `triple`: its sandbox lets exceptions through, so that one in the new image becomes a triple fault. HANDOVER.md, behaviour 20.
//! - `rollback`: it faults on the way back. It stops, says so, and leaves the records whole. HANDOVER.md, behaviour 25.

use std::mem::offset_of;

use anyhow::{Context, Result, bail, ensure};
use batonctl::upgrade;
use handover::jump::{ABANDONED, JumpBlock};
use handover::reader::Stream;
use handover::state::page::VcpuPage;
use handover::{State, graph};
use zerocopy::FromBytes;

use super::{Bed, faults};
use crate::config::Guest;
use crate::images;
use crate::machine::Machine;
use crate::paths;
use crate::spec::Spec;

/// Kinds and places of `hypervisor/src/upgrade/fault.rs`.
const PANIC: u8 = 1;
const UD: u8 = 3;
const TRIPLE: u8 = 9;
const IN_SANDBOX: u8 = 1;
const BEFORE_COMMIT: u8 = 4;
const OPEN_SANDBOX: u8 = 5;
const WAY_HOME: u8 = 6;
const ROLLBACK: u8 = 7;

/// A machine that runs an image with a fault, and a guest that works on its disk.
fn machine(bed: &mut Bed, name: &str, (kind, place): (u8, u8)) -> Result<Machine> {
    let guest = Guest::bare("disk", "disk", &["1b36:0010"]);
    let image = paths::target("image").join(format!("{name}.img"));
    std::fs::write(&image, planted(kind, place)?)?;
    let spec = Spec { image, memory_mib: 256, ..Spec::bare(&["disk"], &[guest]) };
    let machine = bed.start(name, &spec)?;
    machine.wait_guest("ioload t=", 60)?;
    machine.wait_api(30)?;
    Ok(machine)
}

/// The image for faults with this one.
fn planted(kind: u8, place: u8) -> Result<Vec<u8>> {
    let mut image = std::fs::read(paths::image("baton-fault")).context("./x test e2e builds it")?;
    images::set_fault(&mut image, kind, place)?;
    Ok(image)
}

pub fn triple(bed: &mut Bed) -> Result<()> {
    let machine = machine(bed, "triple-fault", (0, OPEN_SANDBOX))?;
    let image = std::fs::read(paths::image("baton-fault"))?;
    let fault = faults::Planted {
        name: "a triple fault".into(),
        numbers: (TRIPLE, IN_SANDBOX),
        outcome: "rolled_back",
        reasons: "in the sandbox: triple fault",
    };
    faults::one(&machine, &image, &fault)
}

pub fn rollback(bed: &mut Bed) -> Result<()> {
    // An exception in the handler that takes the pCPU home, then one and a panic after all pCPUs are back.
    for (kind, place, word) in [(UD, WAY_HOME, "#UD"), (UD, ROLLBACK, "#UD"), (PANIC, ROLLBACK, "a planted panic")] {
        lost(bed, (kind, place), word).with_context(|| format!("kind {kind} at place {place}"))?;
    }
    Ok(())
}

fn lost(bed: &mut Bed, fault: (u8, u8), word: &str) -> Result<()> {
    let machine = machine(bed, "rollback-fault", fault)?;
    let image = planted(UD, BEFORE_COMMIT)?;
    upgrade::send(&machine.api(), &mut image.as_slice(), image.len() as u64)?;
    let last = machine.wait_baton("stops in ROLLBACK; the handover record is whole", 60)?;
    let said = machine.baton.find("baton: ").context("no last words")?;
    let all = machine.baton.lines().join("\n");
    ensure!(all.contains(word) && last.starts_with("baton: "), "{said}\n{last}");
    // It says where the records are; from outside they are read as the next image would.
    let block =
        last.split("jump block at 0x").nth(1).and_then(|rest| u64::from_str_radix(rest.trim_end_matches(')'), 16).ok());
    let block = block.with_context(|| format!("no jump block in {last:?}"))?;
    let word = |offset: usize| -> Result<u64> { machine.qmp()?.read_u64(block + offset as u64) };
    ensure!(word(offset_of!(JumpBlock, commit))? == ABANDONED, "nobody has decided for the way back");
    let base = word(offset_of!(JumpBlock, region_base))?;
    let region = machine.memory(base, word(offset_of!(JumpBlock, region_bytes))?)?;
    let stream = Stream::open(&region, base).map_err(|error| anyhow::anyhow!("the records are not whole: {error}"))?;
    let state = State::decode(&stream).map_err(|error| anyhow::anyhow!("{error}"))?;
    graph::validate(&state).map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(state.guests.len() == 1 && !state.devices.is_empty(), "records are missing");
    // Its virtual CPU's registers are in their place.
    let [place] = state.vcpu_places[..] else { bail!("{} places for one virtual CPU", state.vcpu_places.len()) };
    let bytes = machine.memory(place.base + u64::from(place.page_offset), size_of::<VcpuPage>() as u64)?;
    let page = VcpuPage::read_from_bytes(&bytes).ok().context("no page")?;
    page.check(stream.header().generation, &place).map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(
        page.vcpu.cr3 != 0 && page.vcpu.xsave_bytes <= place.area_bytes,
        "not a guest's registers: {:?}",
        page.vcpu
    );
    // It has stopped, and nothing has reset the machine.
    let cpu = machine.qmp()?.monitor("info registers")?;
    ensure!(cpu.contains("HLT=1"), "pCPU 0 goes on: {cpu}");
    machine.alive()
}
