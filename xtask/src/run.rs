//! The demo's machine for people.

use anyhow::Result;
use baton_tests::machine::Machine;
use baton_tests::paths;
use baton_tests::spec::Spec;

use crate::image;

/// Boots and stays until the terminal ends it.
pub fn run() -> Result<()> {
    image::build_with_guest()?;
    let directory = paths::target("runs/interactive");
    let machine = Machine::start(&Spec { interactive: true, ..Spec::default() }, &directory)?;
    eprintln!("x: management at {}: cargo run -p batonctl -- --host {} status", machine.host(), machine.host());
    eprintln!("x: images to upgrade to: {}", paths::target("image").display());
    eprintln!("x: Baton's log: {}; the console below is the guest's; Ctrl-A X ends it", machine.baton.path().display());
    machine.wait()?;
    Ok(())
}
