//! What the new image writes to before COMMIT: its slot and its scratch, and nothing else, by comparing all memory from outside.
//! HANDOVER.md, behaviour 19.
//!
//! The image that runs is built for faults; its "fault" is that it holds still where WARM begins, where it ends and where pCPU 0
//! leaves, and the new one's that it holds still just before COMMIT. There memory is copied by QEMU and compared.
//!
//! The guest does nothing, so its memory counts whole. What changes besides is the running image's own:
//!
//! - In WARM it runs itself, between the slices: of its slot only code and constants are compared then. What protects the rest is the
//!   sandbox's nested paging, which the wild writes of `faults` try.
//! - From SWITCH to COMMIT only: where its pCPUs have stood, on their stacks; and where they stand, in their rescue tables.

use std::mem::offset_of;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use batonctl::upgrade;
use handover::jump::JumpBlock;

use super::Bed;
use crate::config::{Guest, with_policy};
use crate::images;
use crate::machine::Machine;
use crate::paths;
use crate::spec::Spec;

/// Kind and places of `hypervisor/src/upgrade/fault.rs`.
const HOLD: u8 = 10;
const BEFORE_COMMIT: u8 = 4;
const WATCHED: u8 = 8;

const MEMORY_MIB: u32 = 128;
/// Machines without a display have nothing there.
const NO_MEMORY: Range<u64> = 0xa_0000..0x10_0000;
/// Code and constants of an image, from the start of its slot.
const CODE: u64 = 0x8_0000;
/// A pCPU's stack around where it stood.
const STACK: u64 = 4096;
/// An IDT, behind which a rescue table has its words.
const IDT: u64 = 4096;
const RESCUE_WORDS: u64 = 128;
const PCPUS: u64 = 2;
/// The longest deadline: nothing is to end while memory is copied.
const DEADLINE_MS: u32 = 60_000;

/// All memory at one moment.
struct Still {
    memory: Vec<u8>,
    /// The jump block's address.
    block: u64,
    /// Where to write for the machine to go on.
    release: u64,
    /// RSP and IDT base of each pCPU.
    cpus: Vec<(u64, u64)>,
}

/// Ranges in which memory may differ.
type Own = Vec<Range<u64>>;

pub fn run(bed: &mut Bed) -> Result<()> {
    let still = Guest::bare("still", "still", &["1b36:0010"]);
    let texts = vec![(
        "baton.toml".into(),
        with_policy(DEADLINE_MS, &format!("keys = [{:?}]", paths::PUBLIC_KEY), std::slice::from_ref(&still)),
    )];
    let image = paths::target("image").join("untouched.img");
    std::fs::write(&image, planted(WATCHED)?)?;
    let spec = Spec { image, memory_mib: MEMORY_MIB, typed: true, texts, ..Spec::bare(&["still"], &[still]) };
    let machine = bed.start("untouched", &spec)?;
    machine.wait_guest("still", 30)?;
    let api = machine.wait_api(30)?;
    let new = planted(BEFORE_COMMIT)?;
    let accepted = upgrade::send(&api, &mut new.as_slice(), new.len() as u64)?;

    let begins = Still::at(&machine, "the beginning of WARM")?;
    let ends = Still::at(&machine, "the end of WARM")?;
    let own = |still: &Still| -> Result<Own> {
        Ok(vec![still.range(offset_of!(JumpBlock, new_slot_base))?, still.range(offset_of!(JumpBlock, scratch_base))?])
    };
    let old = begins.range(offset_of!(JumpBlock, old_slot_base))?;
    let mut allowed = own(&begins)?;
    allowed.push(old.start + CODE..old.end);
    compare(&begins, &ends, &allowed).context("in WARM")?;
    // Nothing compared would be nothing shown: the slot did change.
    ensure!(compare(&begins, &ends, &[]).is_err(), "the new image has not written anything");

    let leaves = Still::at(&machine, "SWITCH")?;
    let arrived = Still::at(&machine, "COMMIT")?;
    let mut allowed = own(&leaves)?;
    for (stack, _) in &leaves.cpus {
        allowed.push(stack - STACK..stack + STACK);
    }
    for (_, idt) in &arrived.cpus {
        ensure!(old.contains(idt), "the descriptor tables in force are not the old image's");
        allowed.push(idt + IDT..idt + IDT + RESCUE_WORDS);
    }
    allowed.push(leaves.release..leaves.release + 8);
    compare(&leaves, &arrived, &allowed).context("between SWITCH and COMMIT")?;

    // And it goes through: these were no special images.
    let report = upgrade::wait(&api, accepted.id, Duration::from_secs(120), &mut |_| ())?;
    ensure!(report.outcome == "committed", "{report:?}");
    Ok(())
}

fn planted(place: u8) -> Result<Vec<u8>> {
    let mut image = std::fs::read(paths::image("baton-fault")).context("./x test e2e untouched builds it")?;
    images::set_fault(&mut image, HOLD, place)?;
    Ok(image)
}

impl Still {
    /// Waits until the machine holds still at `stage`, copies its memory, and lets it go on.
    fn at(machine: &Machine, stage: &str) -> Result<Self> {
        let line = machine.wait_baton(&format!("held at {stage},"), 60)?;
        let number = |name: &str| {
            let digits = line.split(name).nth(1).and_then(|rest| rest.trim_start_matches(" 0x").split(',').next());
            digits
                .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                .with_context(|| format!("no{name} in {line:?}"))
        };
        let memory = machine.memory(0, u64::from(MEMORY_MIB) << 20)?;
        let registers = machine.qmp()?.monitor("info registers -a")?;
        let stacks = after(&registers, "RSP=");
        let tables = after(&registers, "IDT=");
        let cpus: Vec<_> = stacks.into_iter().zip(tables).collect();
        ensure!(cpus.len() as u64 == PCPUS, "QEMU tells of {} CPUs", cpus.len());
        let still = Self { memory, block: number("jump block")?, release: number("release")?, cpus };
        machine.bus()?.write(still.release, 1)?;
        Ok(still)
    }

    fn word(&self, at: u64) -> Result<u64> {
        let bytes = self.memory.get(at as usize..).and_then(|rest| rest.first_chunk());
        bytes.map(|bytes| u64::from_le_bytes(*bytes)).with_context(|| format!("{at:#x} is not memory"))
    }

    /// A range of the jump block: base and bytes, one behind the other.
    fn range(&self, offset: usize) -> Result<Range<u64>> {
        let base = self.word(self.block + offset as u64)?;
        let bytes = self.word(self.block + offset as u64 + 8)?;
        ensure!(bytes > 0 && base + bytes <= self.memory.len() as u64, "{base:#x} and {bytes:#x} are no range");
        Ok(base..base + bytes)
    }
}

/// Numbers behind `name` in QEMU's words, one for each CPU.
fn after(registers: &str, name: &str) -> Vec<u64> {
    let values = registers.split(name).skip(1).filter_map(|rest| rest.split_whitespace().next());
    values.filter_map(|digits| u64::from_str_radix(digits, 16).ok()).collect()
}

/// Byte for byte but for what may differ.
fn compare(before: &Still, after: &Still, allowed: &[Range<u64>]) -> Result<()> {
    ensure!(before.memory.len() == after.memory.len(), "another machine");
    const PIECE: usize = 64;
    let pieces = before.memory.chunks(PIECE).zip(after.memory.chunks(PIECE));
    let mut wrong = Vec::new();
    for (index, _) in pieces.enumerate().filter(|(_, (before, after))| before != after) {
        let at = (index * PIECE) as u64..((index + 1) * PIECE) as u64;
        let differs = at.filter(|at| before.memory.get(*at as usize) != after.memory.get(*at as usize));
        wrong.extend(differs.filter(|at| !NO_MEMORY.contains(at) && !allowed.iter().any(|range| range.contains(at))));
    }
    let (count, first): (_, Vec<_>) = (wrong.len(), wrong.iter().take(16).map(|at| format!("{at:#x}")).collect());
    ensure!(wrong.is_empty(), "{count} bytes outside have changed, at {}", first.join(", "));
    Ok(())
}
