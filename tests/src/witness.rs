//! One upgrade, watched from all sides: by Baton's report, the guest's log, QEMU's monitor and its trace.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use batonctl::api::{Device, Domain, Report, Status, Unit};
use serde::Serialize;

use crate::guest_log::{self, Sample};
use crate::log::wait_for;
use crate::machine::Machine;
use crate::outside::{Registers, Sampler, Trace};

/// Something that had to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it did.
    pub ok: bool,
    /// What was seen, when it did not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub seen: String,
}

impl Check {
    /// A check with what was seen.
    pub fn new(name: impl Into<String>, ok: bool, seen: impl FnOnce() -> String) -> Self {
        Self { name: name.into(), ok, seen: if ok { String::new() } else { seen() } }
    }
}

/// Fails with every check that did not hold.
///
/// # Errors
/// When there is one.
pub fn all_hold(checks: &[Check]) -> Result<()> {
    let broken: Vec<_> =
        checks.iter().filter(|check| !check.ok).map(|check| format!("{}: {}", check.name, check.seen)).collect();
    if broken.is_empty() { Ok(()) } else { bail!("{}", broken.join("\n")) }
}

/// The IOMMU's state that an upgrade leaves alone, by Baton's own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tables {
    roots: Vec<(String, String, String)>,
    domains: Vec<Domain>,
    devices: Vec<Device>,
    faults: u64,
}

impl Tables {
    pub(crate) fn read(machine: &Machine) -> Result<Self> {
        let mut iommu = machine.api().iommu()?;
        // The management NIC is not preserved: it has another domain after each attempt.
        iommu.domains.retain(|domain| domain.owner != "baton");
        iommu.devices.retain(|device| device.owner != "baton");
        iommu.domains.sort_by(|a, b| (&a.token, &a.unit).cmp(&(&b.token, &b.unit)));
        iommu.devices.sort_by(|a, b| a.bdf.cmp(&b.bdf));
        let root = |unit: &Unit| (unit.base.clone(), unit.root_table.clone(), unit.interrupt_table.clone());
        Ok(Self {
            roots: iommu.units.iter().map(root).collect(),
            faults: iommu.units.iter().map(|unit| unit.faults_total).sum(),
            domains: iommu.domains,
            devices: iommu.devices,
        })
    }
}

/// The machine before something is done to it.
pub struct Witness<'a> {
    machine: &'a Machine,
    status: Status,
    tables: Tables,
    registers: Registers,
    trace: Trace,
    lines: usize,
    seen: Instant,
    sampler: Sampler,
    leaving: bool,
}

/// What was done to it, and what held meanwhile.
pub struct Watched {
    /// Who ran before.
    pub before: Status,
    /// Who runs now.
    pub after: Status,
    /// The guest's lines in that time and one on either side.
    pub io: Vec<Sample>,
    /// What had to hold whatever was done.
    pub checks: Vec<Check>,
}

impl<'a> Witness<'a> {
    /// Looks at the machine, once the guest works, and goes on looking.
    ///
    /// # Errors
    /// When somebody doesn't answer.
    pub fn begin(machine: &'a Machine) -> Result<Self> {
        more_lines(machine, 0)?;
        let status = machine.api().status()?;
        let tables = Tables::read(machine)?;
        let registers = Registers::read(machine.qmp()?)?;
        let trace = Trace::read(&machine.trace);
        let sampler = Sampler::start(machine.qmp()?);
        // The two clocks begin together: what comes before can take long on a busy machine.
        let (lines, seen) = (machine.samples().len(), Instant::now());
        Ok(Self { machine, status, tables, registers, trace, lines, seen, sampler, leaving: false })
    }

    /// Meanwhile a guest leaves: nothing of its domains and devices will be there, and its disks are reset.
    #[must_use]
    pub fn leaving(mut self, guest: &str) -> Self {
        self.tables.domains.retain(|domain| domain.owner != guest);
        self.tables.devices.retain(|device| device.owner != guest);
        self.leaving = true;
        self
    }

    /// Waits for two more lines of the guest and compares.
    ///
    /// # Errors
    /// When somebody doesn't answer any more.
    pub fn end(self) -> Result<Watched> {
        let now = self.machine.samples().len();
        more_lines(self.machine, now)?;
        let (all, passed) = (self.machine.samples(), self.seen.elapsed());
        let samples = self.sampler.finish()?;
        let after = self.machine.api().status()?;
        let tables = Tables::read(self.machine)?;
        let trace = Trace::read(&self.machine.trace).since(&self.trace);
        let io = all[self.lines.saturating_sub(1)..].to_vec();
        let wrong = guest_log::complaints(&io);
        let guest_passed = clock_between(&io);
        let changed = samples.iter().find(|sample| **sample != self.registers);
        let checks = vec![
            Check::new(
                "translation was enabled at all times",
                samples.iter().all(Registers::enabled) && !samples.is_empty(),
                || format!("{:x?}", samples.iter().find(|sample| !sample.enabled())),
            ),
            Check::new("the IOMMU's registers stayed as they were", changed.is_none(), || {
                format!("{:x?}, then {changed:x?}", self.registers)
            }),
            Check::new("the IOMMU was switched nothing off and on, and no table was set", quiet(&trace), || {
                format!("{trace:?}")
            }),
            Check::new("roots, domains and devices stayed as they were", same(&tables, &self.tables), || {
                format!("{:?}, then {tables:?}", self.tables)
            }),
            Check::new("zero IOMMU faults", trace.faults.is_empty() && tables.faults == self.tables.faults, || {
                format!("Baton counts {} after {}, QEMU says {:?}", tables.faults, self.tables.faults, trace.faults)
            }),
            Check::new(
                "the device was not reset",
                self.leaving || trace.disk_resets == 0 && trace.disk_enabled == (0, 0),
                || format!("{trace:?}"),
            ),
            Check::new("I/O went on, right and in order, on a clock that goes forward", wrong.is_empty(), || {
                wrong.join("; ")
            }),
            Check::new("the guest's clock kept time", guest_passed.abs_diff(passed) < CLOCK_SLACK, || {
                format!("{guest_passed:?} in the guest, {passed:?} outside")
            }),
        ];
        Ok(Watched { before: self.status, after, io, checks })
    }
}

/// A guest whose clock stood still or jumped by more than this was not continuous; below it are the lines' own intervals.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

fn clock_between(io: &[Sample]) -> Duration {
    let (first, last) = (io.first().map_or(0, |line| line.t), io.last().map_or(0, |line| line.t));
    Duration::from_nanos(last.saturating_sub(first))
}

fn quiet(trace: &Trace) -> bool {
    let Trace { translation, remapping, root_tables, interrupt_tables, .. } = trace;
    (*translation, *remapping, *root_tables, *interrupt_tables) == ((0, 0), (0, 0), 0, 0)
}

fn same(a: &Tables, b: &Tables) -> bool {
    (&a.roots, &a.domains, &a.devices) == (&b.roots, &b.domains, &b.devices)
}

/// Waits for two lines of the guest more than `before`; the number there are then.
fn more_lines(machine: &Machine, before: usize) -> Result<usize> {
    let lines = || Some(machine.samples().len()).filter(|lines| *lines >= before + 2);
    wait_for("further line of the guest's load", Duration::from_secs(60), || machine.healthy(), lines)
}

/// What has to hold after a committed upgrade, besides what [`Witness::end`] checks.
#[must_use]
pub fn committed(watched: &Watched, report: &Report) -> Vec<Check> {
    let (before, after) = (&watched.before, &watched.after);
    vec![
        Check::new("the upgrade was committed", report.outcome == "committed", || {
            format!("{}: {}", report.outcome, report.reason)
        }),
        Check::new(
            "the generation rose by one",
            after.generation == before.generation + 1 && report.generation == after.generation,
            || format!("{} after {}, the report says {}", after.generation, before.generation, report.generation),
        ),
        Check::new(
            "another build runs, the one that was sent",
            after.build_id != before.build_id && after.build_id == report.to,
            || format!("{} after {}, the report says {}", after.build_id, before.build_id, report.to),
        ),
        Check::new("the report is of this upgrade", report.from == before.build_id && report.pause_ticks > 0, || {
            format!("{report:?}")
        }),
        Check::new("no IOMMU fault in the pause", report.iommu_faults == 0, || report.iommu_faults.to_string()),
        Check::new(
            "every pending interrupt was delivered",
            report.interrupts_pending == report.interrupts_delivered,
            || format!("{} pending, {} delivered", report.interrupts_pending, report.interrupts_delivered),
        ),
        Check::new("no memory was taken in the pause", report.pause_allocations == 0, || {
            format!("{} times", report.pause_allocations)
        }),
    ]
}

/// What has to hold after something that must not change the machine, besides what [`Witness::end`] checks.
#[must_use]
pub fn unchanged(watched: &Watched) -> Vec<Check> {
    let (before, after) = (&watched.before, &watched.after);
    let same = before.generation == after.generation
        && before.build_id == after.build_id
        && after.uptime_ms >= before.uptime_ms;
    vec![Check::new("the same image still runs", same, || {
        format!(
            "{} generation {} after {} generation {}",
            after.build_id, after.generation, before.build_id, before.generation
        )
    })]
}
