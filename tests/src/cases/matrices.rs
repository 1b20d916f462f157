//! What a guest may execute, gone through by a guest of our own against the manuals: tests/guests/bare/src/bin/matrix. It begins anew when
//! it is through, so an upgrade comes somewhere in the midst of it.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use super::{Bed, upgrade};
use crate::bochs;
use crate::config::Guest;
use crate::log::wait_for;
use crate::machine::Machine;
use crate::paths;

use crate::spec::Spec;

/// The last of all matrices that the guest goes through.
const LAST: &str = "msrs";
/// The image that is upgraded to.
const NEXT: &str = "baton-next1";
/// For one time through all of them, on a busy machine.
const PASS: Duration = Duration::from_secs(240);

/// How often the guest is through with the matrices up to `last`.
fn passes(lines: &[String], last: &str) -> usize {
    let last = format!("matrix {last} pass ");
    lines.iter().filter(|line| line.starts_with(&last)).count()
}

/// Under QEMU's SVM.
pub fn run(bed: &mut Bed) -> Result<()> {
    let guest = Guest { pcpu: 0, ..Guest::bare("matrix", "matrix", &[]) };
    let spec = Spec { cpus: 1, memory_mib: 256, devices: Vec::new(), ..Spec::bare(&["matrix"], &[guest]) };
    let machine = bed.start("matrices", &spec)?;
    through(&machine, 1)?;
    refused(&machine)?;
    let report = upgrade::perform(&machine, NEXT)?;
    ensure!(report.outcome == "committed", "{}: {}", report.outcome, report.reason);
    through(&machine, passes(&machine.guest.lines(), LAST) + 2)?;
    machine.healthy()
}

/// Waits until the guest is through with all matrices for the `count`th time.
fn through(machine: &Machine, count: usize) -> Result<()> {
    let healthy = || {
        machine.healthy()?;
        machine.guest.find("guest failed").map_or(Ok(()), |line| Err(anyhow!("{line}")))
    };
    let ask = || (passes(&machine.guest.lines(), LAST) >= count).then_some(());
    wait_for(&format!("pass {count} through all matrices"), PASS, healthy, ask)
}

/// What the guest executed on device memory and Baton does not decode is counted, and each has been a line with its bytes.
fn refused(machine: &Machine) -> Result<()> {
    let line = machine.guest.find("matrix mmio pass 1 ").context("no first pass")?;
    let told: u64 = line.rsplit_once("refused=").context("no count")?.1.trim().parse()?;
    let guests = machine.api().guests()?.guests;
    let counted = guests.first().and_then(|guest| guest.vcpus.first()).and_then(|vcpu| vcpu.exits.get("not_emulated"));
    ensure!(counted == Some(&told), "{told} instructions were refused, the API says {counted:?}");
    ensure!(machine.baton.find("is not emulated: ").is_some(), "no line tells of a refused instruction");
    Ok(())
}

/// On Bochs's CPU `model`, with an upgrade under it. `names`: the matrices that the guest goes through, the last of which is `last`.
pub fn bochs(bed: &mut Bed, name: &str, model: &'static str, names: &str, last: &str) -> Result<()> {
    let guest = Guest { pcpu: 0, command_line: names.into(), ..Guest::bare("matrix", "matrix", &[]) };
    let spec = bochs::Spec::new(model, 256, &[paths::bare_guest("matrix")], &[guest], &[NEXT]);
    let machine = bed.start_bochs(name, &spec)?;
    let through = |count| {
        let ask = || (passes(&machine.guest.lines(), last) >= count).then_some(());
        machine.wait(&format!("pass {count} through all matrices"), PASS.as_secs(), ask)
    };
    through(1)?;
    machine.command(&format!("upgrade {NEXT}.img"))?;
    machine.wait_baton("upgrade 1: generation 1 runs", 240)?;
    through(passes(&machine.guest.lines(), last) + 2)?;
    machine.healthy()
}
