//! Wrong images.

use anyhow::{Context, Result, bail, ensure};
use batonctl::client::Error;
use batonctl::upgrade;

use super::Bed;
use crate::images;
use crate::paths;
use crate::witness::{self, Witness};

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.linux()?;
    machine.wait_api(30)?;
    let good = std::fs::read(paths::image("baton-next1")).context("./x image --all builds it")?;
    for wrong in images::all(&good)? {
        let watch = Witness::begin(machine)?;
        let answer = upgrade::send(&machine.api(), &mut wrong.bytes.as_slice(), wrong.bytes.len() as u64);
        let refusal = match answer {
            Err(Error::Refused(refusal)) => refusal,
            other => bail!("an image with {} gives {other:?}", wrong.name),
        };
        ensure!(
            refusal.message.contains(wrong.reason),
            "an image with {}: {refusal:?} doesn't name {:?}",
            wrong.name,
            wrong.reason
        );
        ensure!(refusal.blame == "operator", "{refusal:?}");
        let watched = watch.end()?;
        witness::all_hold(&watched.checks)?;
        witness::all_hold(&witness::unchanged(&watched))?;
        let upgrade = machine.api().upgrade()?;
        ensure!(upgrade.state == "idle", "{upgrade:?}");
        if let Some(report) = refusal.report_id.and_then(|id| upgrade.report(id)) {
            ensure!(report.outcome == "refused" && report.pause_ticks == 0 && !report.reason.is_empty(), "{report:?}");
        }
    }
    Ok(())
}
