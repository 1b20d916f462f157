//! Whose images are taken: by a machine as it was started, and by the image that has followed on it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use batonctl::client::Error;

use super::{Bed, upgrade};
use crate::config::Guest;
use crate::images;
use crate::log::wait_for;
use crate::machine::Machine;
use crate::paths;
use crate::spec::Spec;

pub fn run(bed: &mut Bed) -> Result<()> {
    let guest = Guest::bare("disk", "disk", &["1b36:0010"]);
    let machine = bed.start("signatures", &Spec { memory_mib: 256, ..Spec::bare(&["disk"], &[guest]) })?;
    machine.wait_guest("ioload t=", 60)?;
    refuses_all(&machine)?;
    upgrade::to(&machine, "baton-next1")?;
    refuses_all(&machine).context("after an upgrade")?;
    upgrade::to(&machine, "baton-next2")
}

/// None of the images that nobody vouches for is taken, and no guest pauses for one.
fn refuses_all(machine: &Machine) -> Result<()> {
    let api = machine.wait_api(60)?;
    let good = fs::read(paths::image("baton-next3")).context("./x image --all builds it")?;
    for wrong in images::untrusted(&good)? {
        let before = api.upgrade()?.last.map_or(0, |report| report.id);
        let refusal = match api.send(&mut wrong.bytes.as_slice(), wrong.bytes.len() as u64) {
            Err(Error::Refused(refusal)) => refusal,
            // The refusal comes with the first bytes; where the connection broke, the report has the reason.
            Err(Error::Unreachable { .. }) => {
                let told = || api.upgrade().ok()?.last.filter(|report| report.id > before);
                let what = "answer with the refusal's report";
                let report = wait_for(what, Duration::from_secs(30), || machine.healthy(), told)?;
                ensure!(report.outcome == "refused" && report.pause_ticks == 0, "{report:?}");
                ensure!(report.reason.contains(wrong.reason), "with {}: {report:?}", wrong.name);
                continue;
            }
            other => bail!("an image with {} gives {other:?}", wrong.name),
        };
        let told = refusal.code == "bad_signature" && refusal.message.contains(wrong.reason);
        ensure!(told && refusal.blame == "operator", "with {}: {refusal:?}", wrong.name);
    }
    // Connections that were refused may still be closing, and the API has few: it is free when it answers again and again.
    let mut answers = 0;
    let free = || {
        answers = if api.upgrade().is_ok() { answers + 1 } else { 0 };
        (answers == 20).then_some(())
    };
    wait_for("answers from the API in a row", Duration::from_secs(30), || machine.healthy(), free)?;
    Ok(())
}
