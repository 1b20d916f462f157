//! WARM, the old image's side: the sandbox in which the new image gets ready while the guests run. It is a virtual CPU of this image, on pCPU 0, in
//! slices like any other; its nested tables show it the machine one to one: its slot, its scratch, everything else read-only, the
//! firmware's tables, and of devices' registers only configuration space and the IOMMU's, which reading does not change.
#![expect(unsafe_code, reason = "page tables are written to the scratch; the sandbox is entered")]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use handover::jump::{WARM_READY, WARM_REFUSED, WARM_TABLES_OFFSET};
use handover::phase::{Outcome, Phase};
use handover::state::machine::FrameTag;
use handover::state::report::{BLAME_NEW_IMAGE, BLAME_OLD_IMAGE, BLAME_OPERATOR, ReportV1};
use machine::addr::{HostPhys, PAGE_SIZE};
use machine::paging::{Caching, PageTable, PagingError, Permissions};

use super::block::Block;
use super::plan::Planned;
use super::{last_words, report, switch};
use crate::mem::frames::ArenaFrames;
use crate::mem::host_map::HeapFrames;
use crate::mem::layout::SLOT_BYTES;
use crate::mem::regions::Owner;
use crate::passthrough::units;
use crate::smp::apic_registers;
use crate::vcpu::sandbox::{self, SandboxCpu, Start, Stop};
use crate::{cpu, firmware, host, machine_cpus, time};

/// The longest that the new image may compute in the sandbox, in milliseconds of its own time.
const LIMIT_MS: u64 = 5_000;
/// The tables of the sandbox; no guest has this number.
const FRAMES: ArenaFrames = ArenaFrames(FrameTag::new(FrameTag::SPACE_TABLE, u16::MAX));
/// Present, writable.
const LINK: u64 = 3;
/// Present, writable, a 2 MiB leaf.
const LEAF_2M: u64 = 1 << 7 | LINK;

/// An upgrade whose new image gets ready.
pub struct Warming {
    planned: Planned,
    block: Block,
    sandbox: Box<dyn SandboxCpu + Send>,
    space: PageTable,
    /// TSC ticks it has had.
    spent: u64,
}

/// What became of a slice.
pub enum Course {
    /// More slices are needed.
    Goes,
    /// The new image is ready; pCPU 0 enters it there.
    Ready(u64),
    /// It refuses, or can't go on.
    Ends(Outcome, String),
}

/// Why there is no sandbox, and the plan, which is to be undone.
pub struct NoSandbox {
    /// The plan.
    pub planned: Box<Planned>,
    /// Why.
    pub reason: String,
}

impl Warming {
    /// Puts the new image at its entry.
    ///
    /// # Errors
    /// There can't be a sandbox.
    pub fn begin(mut planned: Planned) -> Result<Self, NoSandbox> {
        report::enter(&mut planned.report, Phase::Warm);
        match build_sandbox(&mut planned) {
            Ok((block, sandbox, space)) => {
                #[cfg(feature = "fault")]
                super::fault::watched("the beginning of WARM");
                Ok(Self { planned, block, sandbox, space, spent: 0 })
            }
            Err(reason) => Err(NoSandbox { planned: Box::new(planned), reason }),
        }
    }

    /// One slice: until an interrupt ends it, or the new image does. No guest is loaded; SVM is enabled here.
    pub fn slice(&mut self) -> Course {
        let start = cpu::tsc();
        // SAFETY: interrupts are off in the loop of pCPU 0, which has no guest loaded and SVM enabled (the caller's duty); the nested tables are
        // this object's.
        let stop = unsafe { sandbox::run(&mut *self.sandbox) };
        self.spent = self.spent.saturating_add(cpu::tsc().wrapping_sub(start));
        match stop {
            Stop::Interrupted if self.spent < time::ms_to_ticks(LIMIT_MS) => Course::Goes,
            Stop::Interrupted => {
                let reason = format!("it was not ready after {LIMIT_MS} ms in the sandbox");
                Course::Ends(Outcome::RolledBack, reason)
            }
            Stop::Call { number: WARM_READY, argument } => {
                #[cfg(feature = "fault")]
                super::fault::watched("the end of WARM");
                let slot = self.planned.staged.base.get();
                match argument.checked_sub(slot) {
                    Some(offset) if offset < SLOT_BYTES => Course::Ready(argument),
                    _ => Course::Ends(Outcome::RolledBack, format!("it says that {argument:#x} is its entry")),
                }
            }
            Stop::Call { number: WARM_REFUSED, .. } => Course::Ends(Outcome::Refused, switch::block_reason()),
            Stop::Call { number, .. } => Course::Ends(Outcome::RolledBack, format!("an unknown hypercall {number:#x}")),
            Stop::Fault { what, rip } => {
                let rip = self.block.in_new_slot(rip);
                Course::Ends(Outcome::RolledBack, format!("in the sandbox: {what}, at image+{rip:#x}"))
            }
        }
    }

    /// Takes the sandbox down; the new image stays as it is.
    pub fn end(self) -> Planned {
        self.sandbox.free(&mut HeapFrames);
        self.space.destroy(&mut { FRAMES });
        self.planned
    }

    /// The upgrade ends here: everything is as before PLAN. The report, which is kept.
    pub fn refuse(self, outcome: Outcome, reason: &str) -> ReportV1 {
        let block = self.block;
        let planned = self.end();
        report::set_notes(planned.report.sequence, last_words::read(block));
        planned.give_up(outcome, Some(Phase::Warm), BLAME_NEW_IMAGE, reason)
    }

    /// Likewise, because somebody wants it so.
    pub fn cancel(self, reason: &str) -> ReportV1 {
        self.end().give_up(Outcome::Cancelled, None, BLAME_OPERATOR, reason)
    }
}

impl NoSandbox {
    /// The upgrade ends here: everything is as before PLAN. The report, which is kept.
    pub fn refuse(self) -> ReportV1 {
        self.planned.give_up(Outcome::Refused, Some(Phase::Warm), BLAME_OLD_IMAGE, &self.reason)
    }
}

fn build_sandbox(planned: &mut Planned) -> Result<(Block, Box<dyn SandboxCpu + Send>, PageTable), String> {
    if !machine_cpus::available() {
        return Err("this machine can't run guests, so it has no sandbox for the new image".into());
    }
    planned.dry_run()?;
    let block = switch::place_block(planned, u64::MAX);
    last_words::clear(block);
    let slot = planned.staged.base.get();
    let tables = first_tables(host::get().scratch);
    let space = machine_space(slot).map_err(|error| error.to_string())?;
    let start = Start {
        rip: slot + u64::from(planned.staged.note.entry_upgrade),
        argument: block.address(),
        tables,
        nested_root: space.root(),
    };
    match machine_cpus::common().sandbox(&start, &mut HeapFrames) {
        Ok(sandbox) => Ok((block, sandbox, space)),
        Err(reason) => {
            space.destroy(&mut { FRAMES });
            Err(reason)
        }
    }
}

/// The new image's first page tables: the first 4 GiB one to one. The nested tables say what of it there is.
fn first_tables(scratch: u64) -> u64 {
    let first = scratch + WARM_TABLES_OFFSET;
    let put = |table: u64, index: u64, value: u64| {
        let place = (first + table * PAGE_SIZE + index * 8) as usize as *mut u64;
        // SAFETY: the six pages lie in the scratch, which is mapped writable and which nobody else uses before FREEZE.
        unsafe { place.write_volatile(value) };
    };
    for index in 0..512 {
        put(0, index, if index == 0 { (first + PAGE_SIZE) | LINK } else { 0 });
        put(1, index, if index < 4 { (first + (2 + index) * PAGE_SIZE) | LINK } else { 0 });
    }
    for page in 0..4 * 512 {
        put(2 + page / 512, page % 512, page << 21 | LEAF_2M);
    }
    first
}

/// What the sandbox sees of the machine.
fn machine_space(slot: u64) -> Result<PageTable, PagingError> {
    let host = host::get();
    let mut space = PageTable::new(&mut { FRAMES }, machine_cpus::nested_format(), 4, machine_cpus::nested_leaves())?;
    let mapped = fill(&mut space, slot, host);
    match mapped {
        Ok(()) => Ok(space),
        Err(error) => {
            space.destroy(&mut { FRAMES });
            Err(error)
        }
    }
}

fn fill(space: &mut PageTable, slot: u64, host: &host::Host) -> Result<(), PagingError> {
    let mut map = |base: u64, bytes: u64, rights, caching| -> Result<(), PagingError> {
        let flush = space.map(&mut { FRAMES }, base, HostPhys(base), bytes, rights, caching)?;
        // Nothing runs on these tables yet.
        flush.complete(&mut { FRAMES });
        Ok(())
    };
    for region in host.regions.lock().iter() {
        let rights = match region.owner {
            Owner::Slot(_) if region.base == slot => Permissions::ALL,
            Owner::Scratch => Permissions::READ_WRITE,
            _ => Permissions::READ,
        };
        map(region.base, region.bytes, rights, Caching::WriteBack)?;
    }
    // What the firmware's map has of them is there already; of the rest, two can lie in one page.
    let mut readable = |base: u64, bytes: u64, caching| -> Result<(), PagingError> {
        let range = base & !(PAGE_SIZE - 1)..(base + bytes).next_multiple_of(PAGE_SIZE);
        let gaps: Vec<_> = host.regions.lock().gaps(range).collect();
        for (mut page, end) in gaps {
            let mut step = end - page;
            while page < end {
                match map(page, step.min(end - page), Permissions::READ, caching) {
                    Ok(()) => page += step,
                    Err(PagingError::AlreadyMapped { .. }) if step == PAGE_SIZE => page += step,
                    Err(PagingError::AlreadyMapped { .. }) => step = PAGE_SIZE,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    };
    for (start, bytes) in host.ecam.regions().filter_map(|region| region.extent()) {
        readable(start.get(), bytes, Caching::Uncached)?;
    }
    // The new image asks for its CPU's id; reading the LAPIC's registers changes nothing.
    if let Some(registers) = apic_registers::window() {
        readable(registers.get(), PAGE_SIZE, Caching::Uncached)?;
    }
    units::windows().into_iter().try_for_each(|(base, bytes)| readable(base.get(), bytes, Caching::Uncached))?;
    firmware::ranges(HostPhys(host.rsdp))
        .into_iter()
        .try_for_each(|(base, bytes)| readable(base, bytes, Caching::WriteBack))
}
