//! PLAN: every preserved object says yes or no; domains become immutable; the records that can't
//! change any more are written and judged as a whole. The guests run on.
#![expect(unsafe_code, reason = "the handover region is raw memory of the arena")]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use handover::header::Header;
use handover::phase::{Outcome, Phase};
use handover::record::Record;
use handover::state::machine::FrameTag;
use handover::state::page::VcpuPlaceV1;
use handover::state::report::{BLAME_OLD_IMAGE, ReportV1};
use handover::writer::{Draft, Writer};
use handover::{State, graph};
use iommu::Token;
use machine::addr::{HostPhys, PAGE_SIZE};
use zerocopy::FromBytes;

use super::block::Block;
use super::gather::{self, Room};
use super::pages::Pages;
use super::stage::Staged;
use super::{leave, report};
use crate::host;
use crate::mem::{frames, guard};
use crate::passthrough::units;
use crate::vm::{self, Vm};

/// Frames of the handover region: 512 KiB.
const REGION_FRAMES: usize = 128;

/// The memory the stream is written to.
pub struct Region {
    base: HostPhys,
}

impl Region {
    fn allocate() -> Option<Self> {
        frames::allocate(REGION_FRAMES, FrameTag::new(FrameTag::STREAM, 0)).map(|base| Self { base })
    }

    /// The first byte.
    pub fn base(&self) -> HostPhys {
        self.base
    }

    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        REGION_FRAMES as u64 * PAGE_SIZE
    }

    /// The memory itself.
    pub fn memory(&mut self) -> &mut [u8] {
        // SAFETY: the frames were allocated for this object, are identity mapped, and the borrow is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.base.get() as usize as *mut u8, self.bytes() as usize) }
    }

    fn free(&self) {
        frames::with(|arena| {
            for frame in 0..REGION_FRAMES as u64 {
                arena.free(HostPhys(self.base.get() + frame * PAGE_SIZE));
            }
        });
    }
}

/// What the dry run has written of what only guests' writes to their devices' registers change.
struct Settled {
    /// Goes on behind it; `None` in a format that does not say where it ends.
    draft: Option<Draft>,
    /// [`gather::changes`] before it was gathered.
    changes: u64,
}

/// An upgrade whose every object said yes.
pub struct Planned {
    /// The image.
    pub staged: Staged,
    /// What is known of it so far.
    pub report: ReportV1,
    /// The guests that are preserved.
    pub vms: Vec<Arc<Vm>>,
    /// Those that are not, and still run.
    pub leaving: Vec<Arc<Vm>>,
    /// The planned records.
    pub state: State,
    /// Their place in the region, sealed.
    pub draft: Draft,
    /// Where they are.
    pub region: Region,
    pages: Pages,
    settled: Option<Settled>,
    room: Room,
    frozen: Vec<Token>,
}

impl Planned {
    /// Writes the whole stream as it would be now, for the new image to try, and says its bytes: registers of virtual CPUs are as after
    /// power-on.
    ///
    /// # Errors
    /// Something has no place in the records, or they contradict each other.
    pub fn dry_run(&mut self) -> Result<u64, String> {
        // What the guests change while it is gathered can contradict itself; they don't do that all the time.
        let mut result = Ok(());
        let mut changes = 0;
        for _ in 0..8 {
            self.settled = None;
            self.state.clear_rest();
            changes = gather::changes(&self.vms);
            result = self
                .gather_at(gather::Moment::DryRun)
                .and_then(|()| graph::validate(&self.state).map_err(|error| error.to_string()));
            if result.is_ok() {
                break;
            }
        }
        result?;
        let (written, draft) = self.write_rest()?;
        self.settled = Some(Settled { draft, changes });
        self.state.reserve_rest();
        self.state.clear_unsettled();
        Ok(written)
    }

    /// FREEZE, after a dry run: gathers the rest, or only what is not settled as it was then, judges and writes it. Takes no memory.
    ///
    /// # Errors
    /// Something has changed since PLAN, or has no place in the records.
    pub fn freeze(&mut self) -> Result<(), String> {
        self.settled = self.settled.take().filter(|settled| settled.changes == gather::changes(&self.vms));
        let settled = self.settled.is_some();
        if !settled {
            self.state.clear_rest();
        }
        self.gather_at(gather::Moment::Freeze { settled })?;
        let judge = if settled { graph::validate_unsettled } else { graph::validate_rest };
        judge(&self.state).map_err(|error| error.to_string())?;
        if let Some(own) = self.state.reports.last_mut() {
            own.pause_allocations = guard::taken_in_pause();
        }
        self.write_rest().map(|_| ())
    }

    /// Gathers the rest as it is at this moment. After a dry run it takes no memory.
    fn gather_at(&mut self, moment: gather::Moment) -> Result<(), String> {
        gather::rest(&mut self.state, &self.vms, &mut self.room, &self.report, moment)
    }

    /// Writes the rest behind the plan, or behind what is settled, the header last, and says the bytes of the whole. With a draft that goes on
    /// behind what is settled now.
    fn write_rest(&mut self) -> Result<(u64, Option<Draft>), String> {
        let region = self.region.memory();
        let behind = self.settled.as_ref().and_then(|settled| settled.draft.as_ref());
        let mut writer = behind.unwrap_or(&self.draft).resume(region).map_err(|error| error.to_string())?;
        let draft = match behind {
            Some(_) => None,
            None => self.state.write_settled(&mut writer).map_err(|error| error.to_string())?,
        };
        self.state.write_unsettled(&mut writer).map_err(|error| error.to_string())?;
        let header = writer.finish().map_err(|error| error.to_string())?;
        // Payload first, fence, header last (HANDOVER.md, format).
        fence(Ordering::SeqCst);
        let region = self.region.memory();
        let place = region.get_mut(..header.len()).ok_or("the handover region is shorter than a header")?;
        place.copy_from_slice(&header);
        fence(Ordering::SeqCst);
        let payload = Header::read_from_bytes(&header).map_or(0, |header| header.payload_bytes);
        Ok((header.len() as u64 + payload, draft))
    }

    /// The upgrade ends here, before FREEZE: everything is as before PLAN. The report, which is kept.
    pub fn give_up(mut self, outcome: Outcome, failed: Option<Phase>, blame: u32, reason: &str) -> ReportV1 {
        Block::forget();
        self.undo();
        report::end(self.report, outcome, failed, blame, reason)
    }

    /// Takes back exactly what PLAN set.
    pub fn undo(&mut self) {
        thaw(&self.frozen);
        self.frozen.clear();
        self.region.free();
        self.pages.free(&self.vms);
    }
}

fn thaw(tokens: &[Token]) {
    for token in tokens {
        if let Some(Err(error)) = units::with(|units, _| units.unfreeze(*token)) {
            log::error!("a domain could not be made mutable again: {error}");
        }
    }
}

/// Makes the guests' domains immutable.
fn freeze(vms: &[Arc<Vm>]) -> Result<Vec<Token>, String> {
    let mut frozen = Vec::new();
    for vm in vms.iter().filter(|vm| !vm.devices().is_empty()) {
        let token = Token(vm::tokens::domain(vm.token));
        match units::with(|units, _| units.freeze(token)) {
            Some(Ok(_)) => frozen.push(token),
            Some(Err(error)) => {
                thaw(&frozen);
                return Err(format!("guest {}: {error}", vm.name));
            }
            None => {}
        }
    }
    Ok(frozen)
}

/// The planned records of the machine as it is now, judged.
fn records(sequence: u64, vms: &[Arc<Vm>], leaving: &[Arc<Vm>], places: &[VcpuPlaceV1]) -> Result<State, String> {
    let state = gather::planned(sequence, vms, leaving, places, &gather::reports())?;
    graph::validate_plan(&state).map_err(|error| error.to_string())?;
    Ok(state)
}

/// Plans.
///
/// # Errors
/// The report of the refusal, which is kept; everything is as before.
pub fn plan(staged: Staged) -> Result<Planned, Box<ReportV1>> {
    let mut report = staged.report;
    report::enter(&mut report, Phase::Plan);
    let staged = Staged { report, ..staged };
    prepare(staged)
        .map_err(|reason| Box::new(report::end(report, Outcome::Refused, Some(Phase::Plan), BLAME_OLD_IMAGE, &reason)))
}

/// Plans without a word to anybody.
///
/// # Errors
/// Why an object can't be preserved; everything is as before.
pub fn prepare(staged: Staged) -> Result<Planned, String> {
    let (vms, leaving) = leave::split();
    let frozen = freeze(&vms)?;
    let undone = |reason: String| {
        thaw(&frozen);
        reason
    };
    const NO_ROOM: &str = "the arena has no room for the handover records";
    let Some(pages) = Pages::allocate(&vms, host::get().generation + 1) else { return Err(undone(NO_ROOM.into())) };
    let undone = |reason: String| {
        pages.free(&vms);
        undone(reason)
    };
    let apart = VcpuPlaceV1::LAYOUTS.first().is_some_and(|layout| layout.format <= staged.format);
    let places = if apart { pages.records() } else { &[] };
    let state = records(staged.report.sequence, &vms, &leaving, places).map_err(undone)?;
    let mut region = Region::allocate().ok_or_else(|| undone(NO_ROOM.into()))?;
    match write(&mut region, &state, staged.format) {
        Ok(draft) => {
            let room = Room::of(&vms);
            Ok(Planned {
                report: staged.report,
                staged,
                vms,
                leaving,
                state,
                draft,
                region,
                pages,
                settled: None,
                room,
                frozen,
            })
        }
        Err(reason) => {
            region.free();
            Err(undone(reason))
        }
    }
}

fn write(region: &mut Region, state: &State, format: u16) -> Result<Draft, String> {
    let base = region.base().get();
    let generation = host::get().generation + 1;
    let mut writer = Writer::new(region.memory(), base, generation, format).map_err(|error| error.to_string())?;
    state.write_plan(&mut writer).map_err(|error| error.to_string())?;
    writer.mark().map_err(|error| error.to_string())
}
