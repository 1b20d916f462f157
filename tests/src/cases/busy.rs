//! Two at once, and none at all.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use batonctl::client::Error;

use super::Bed;
use crate::log::wait_for;
use crate::paths;
use crate::witness::{self, Witness};

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.linux()?;
    let api = machine.wait_api(30)?;
    let image = std::fs::read(paths::image("baton-next1")).context("./x image --all builds it")?;
    let bytes = image.len() as u64;
    let watch = Witness::begin(machine)?;

    let planned = api.plan(&mut image.as_slice(), bytes)?;
    ensure!(planned.plan.ok && !planned.plan.objects.is_empty(), "{planned:?}");

    // A client that has sent half of its image and holds on.
    let mut slow = TcpStream::connect(machine.host())?;
    write!(slow, "POST /v1/upgrade HTTP/1.1\r\nHost: baton\r\nContent-Length: {bytes}\r\n\r\n")?;
    slow.write_all(image.get(..image.len() / 2).unwrap_or_default())?;
    wait_for(
        "upload under way",
        Duration::from_secs(20),
        || machine.healthy(),
        || api.upgrade().ok().filter(|upgrade| upgrade.state == "staging" && upgrade.progress.received > 0),
    )?;
    match api.send(&mut image.as_slice(), bytes) {
        Err(Error::Refused(refusal)) => ensure!(refusal.code == "busy", "{refusal:?}"),
        // The refusal can be lost when it comes before the image was sent; what counts is that the first goes on.
        Err(Error::Unreachable { .. }) => {}
        other => bail!("a second upgrade gives {other:?}"),
    }
    let upgrade = api.upgrade()?;
    ensure!(upgrade.state == "staging", "the first upload must go on: {upgrade:?}");
    drop(slow);
    wait_for(
        "end of the abandoned upload",
        Duration::from_secs(60),
        || machine.healthy(),
        || api.upgrade().ok().filter(|upgrade| upgrade.state == "idle"),
    )?;

    let watched = watch.end()?;
    witness::all_hold(&watched.checks)?;
    witness::all_hold(&witness::unchanged(&watched))
}
