//! The machine, looked at between the steps of a soak: whatever was done, nobody else has noticed.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use batonctl::api::{Resources, Status};
use batonctl::client::Client;

use super::report::Guests;
use crate::guest_log::{Frames, Sample, complaints};
use crate::log::{Tail, wait_for};
use crate::machine::Machine;
use crate::outside::{Registers, Trace};
use crate::witness::Tables;

/// How long anybody may take to show that he lives.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the heap may have grown by since the first look: each image has one of its own, with its own history of reports in it.
const HEAP_SLACK: u64 = 512 << 10;

/// The machine as it was found, and what it has said since.
pub struct Watch<'a> {
    machine: &'a Machine,
    logs: [Tail; 3],
    registers: Registers,
    tables: Tables,
    /// The trace as it was found, and as it is now.
    trace: (Trace, Trace),
    disk: Sample,
    wire: Frames,
    longest_gap_us: u64,
    first: Option<Resources>,
}

impl<'a> Watch<'a> {
    /// Waits until both guests work.
    ///
    /// # Errors
    /// One does not, or somebody doesn't answer.
    pub fn begin(machine: &'a Machine) -> Result<Self> {
        machine.wait_guest("ioload t=", 60)?;
        machine.wait_baton("wire t=", 60)?;
        machine.wait_api(60)?;
        let mut watch = Self {
            machine,
            logs: [&machine.baton, &machine.guest, &machine.trace].map(Tail::new),
            registers: Registers::read(machine.qmp()?)?,
            tables: Tables::read(machine)?,
            trace: Default::default(),
            disk: Sample::default(),
            wire: Frames::default(),
            longest_gap_us: 0,
            first: None,
        };
        watch.read()?;
        watch.trace.0 = watch.trace.1.clone();
        Ok(watch)
    }

    /// The API, as soon as it answers.
    ///
    /// # Errors
    /// It doesn't in time.
    pub fn api(&self) -> Result<Client> {
        let api = self.machine.api();
        wait_for("answer from the API", PATIENCE, || self.machine.alive(), || api.status().ok())?;
        Ok(api)
    }

    /// What the guests have done so far.
    #[must_use]
    pub fn guests(&self) -> Guests {
        let (disk_ops, frames) = (self.disk.ops, self.wire.returned);
        Guests { disk_ops, frames, longest_gap_us: self.longest_gap_us }
    }

    /// Reads what is new in the logs.
    fn read(&mut self) -> Result<()> {
        let [baton, guest, trace] = &mut self.logs;
        for line in baton.lines()? {
            // As `Machine::healthy`: last words stand at the start of a line.
            ensure!(!line.starts_with("baton: ") && !line.contains("baton can't start"), "Baton gave up: {line}");
            ensure!(!line.contains("claimed by nobody"), "{line}");
            if let Some(frames) = Frames::parse(&line) {
                if let Some(complaint) = frames.complaint(&self.wire) {
                    bail!("{complaint}");
                }
                self.wire = frames;
            }
        }
        let mut samples = vec![self.disk];
        for line in guest.lines()? {
            ensure!(!line.contains("guest failed"), "{line}");
            samples.extend(Sample::parse(&line));
        }
        let wrong = complaints(&samples);
        // The first look is at the beginning: nothing was done before it.
        ensure!(wrong.is_empty() || samples.len() == 1, "the disk: {}", wrong.join("; "));
        self.disk = samples.last().copied().unwrap_or_default();
        self.longest_gap_us = samples.iter().map(|sample| sample.max_gap_us).fold(self.longest_gap_us, u64::max);
        self.trace.1.add(&trace.lines()?);
        Ok(())
    }

    /// Waits until both guests have told of further work, and compares everything with how it was found.
    ///
    /// # Errors
    /// Something has changed that should not have.
    pub fn settle(&mut self) -> Result<Status> {
        // What is in the logs now was told before.
        self.read()?;
        let before = (self.disk.ops, self.wire.returned);
        let machine = self.machine;
        let worked = || {
            let read = self.read();
            let more = self.disk.ops > before.0 && self.wire.returned > before.1;
            (read.is_err() || more).then_some(read)
        };
        wait_for("further work of both guests", PATIENCE, || machine.alive(), worked)??;
        let trace = self.trace.1.since(&self.trace.0);
        ensure!(trace.quiet(), "QEMU's trace says {trace:?}");
        let registers = Registers::read(machine.qmp()?)?;
        ensure!(registers == self.registers, "the IOMMU's registers were {:x?}, are {registers:x?}", self.registers);
        let status = self.api()?.status()?;
        let tables = Tables::read(machine)?;
        ensure!(tables == self.tables, "the IOMMU's state was {:?}, is {tables:?}", self.tables);
        Ok(status)
    }

    /// What is handed out is what was handed out at the first look.
    ///
    /// # Errors
    /// Something has leaked, by name.
    pub fn leaks(&mut self) -> Result<Resources> {
        let now = self.api()?.status()?.resources;
        ensure!(now.arena_frames > 0 && now.domain_ids > 0, "Baton doesn't say what it has handed out: {now:?}");
        let first = *self.first.get_or_insert(now);
        let heap = now.heap_bytes.min(first.heap_bytes);
        ensure!(
            Resources { heap_bytes: heap, ..now } == Resources { heap_bytes: heap, ..first }
                && now.arena_unclaimed == 0,
            "there was handed out {first:?}, and is now {now:?}"
        );
        let grown = now.heap_bytes.saturating_sub(first.heap_bytes);
        ensure!(grown <= HEAP_SLACK, "the heap has grown by {grown} bytes: {now:?}");
        Ok(now)
    }
}
