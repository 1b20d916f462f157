//! The guest's disk under load.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Bed;
use crate::guest_log::{complaints, samples};
use crate::log::wait_for;
use crate::outside::Trace;

/// Of the guest's clock.
const NANOSECONDS: u64 = 5_000_000_000;

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.linux()?;
    let first = samples(&machine.guest).len();
    let enough = || {
        let lines = samples(&machine.guest).split_off(first);
        let (start, end) = (lines.first()?.t, lines.last()?.t);
        (end - start >= NANOSECONDS).then_some(lines)
    };
    let lines = wait_for("5 s of the guest's I/O", Duration::from_secs(60), || machine.healthy(), enough)?;
    let wrong = complaints(&lines);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (start, end) = (lines[0], lines[lines.len() - 1]);
    ensure!(end.bytes - start.bytes == (end.ops - start.ops) * 4096, "every I/O moves one block: {start:?} {end:?}");
    let trace = Trace::read(&machine.trace);
    ensure!(trace.faults.is_empty(), "{:?}", trace.faults);
    ensure!(trace.translation == (1, 0) && trace.root_tables == 1, "translation is set up once and stays: {trace:?}");
    Ok(())
}
