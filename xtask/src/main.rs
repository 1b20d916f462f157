//! Everything `./x` does once the tools are there.
//!
//! - `tool`: runs other programs, their output kept for when they fail
//! - `image`: builds the bare image, flattens and seals it
//! - `guest`: the guest's kernel and initramfs
//! - `fuzz`: libFuzzer over the readers of foreign bytes
//! - `lint`: the project's own rules
//! - `test`: every check, in one count
//! - `demo`: the story of a machine that is upgraded three times under load
//! - `bench`: deterministic measurements, in the emulator and by callgrind
//! - `soak`: upgrades until one fails, or all are done
//! - `run`: the demo's machine for people
#![forbid(unsafe_code)]

mod bench;
mod demo;
mod fuzz;
mod guest;
mod image;
mod lint;
mod run;
mod soak;
mod test;
mod tool;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, tests and shows Baton; see ./x --help.
#[derive(Parser)]
#[command(bin_name = "./x")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Builds target/image/baton.img.
    Image {
        /// Also the images that the tests upgrade to.
        #[arg(long)]
        all: bool,
    },
    /// The whole story in an emulator; writes target/reports/demo.json.
    Demo,
    /// Every check, or one part of them.
    Test {
        /// host, lint or e2e.
        part: Option<test::Part>,
        /// One end-to-end case.
        case: Option<String>,
        /// Lists the end-to-end cases.
        #[arg(long)]
        list: bool,
        /// Takes images and guest as they were built last.
        #[arg(long)]
        no_build: bool,
    },
    /// The demo's machine with the guest's console on this terminal.
    Run,
    /// Deterministic measurements; writes target/reports/bench.json.
    Bench {
        /// One part only; bench.json stays as it is.
        part: Option<bench::Part>,
    },
    /// Upgrades under disk and network traffic, with cancels, faults, dry runs and refusals between them, until one fails; writes
    /// target/reports/soak.json.
    Soak(soak::Orders),
    /// Coverage-guided fuzzing of one reader of foreign bytes, or of all one after the other.
    Fuzz {
        /// Which; all without it.
        target: Option<String>,
        /// Seconds for each.
        #[arg(default_value_t = 60)]
        seconds: u32,
    },
    /// The project's own rules.
    Lint,
    /// Writes the layouts of records in formats that were not released yet to handover/abi/.
    Abi,
    /// Builds the guests: the initramfs of the Linux one, and our own.
    Guest,
    /// Downloads the guest's kernel.
    FetchKernel,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("x: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<bool> {
    match command {
        Command::Image { all } => {
            image::build(&image::BATON)?;
            if all {
                image::build_all()?;
                image::build_releases()?;
            }
        }
        Command::Demo => return demo::run(),
        Command::Test { list: true, .. } => test::list(),
        Command::Test { part, case, no_build, .. } => return test::run(part, case.as_deref(), !no_build),
        Command::Run => run::run()?,
        Command::Bench { part } => bench::run(part)?,
        Command::Soak(orders) => return soak::run(&orders),
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds)?,
        Command::Lint => return lint::run(),
        Command::Abi => lint::abi::write()?,
        Command::Guest => {
            guest::build()?;
            guest::build_bare()?;
            guest::kernels::fetch()?;
        }
        Command::FetchKernel => guest::fetch_kernel()?,
    }
    Ok(true)
}
