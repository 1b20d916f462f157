//! `batonctl`: the operator's command.
//!
//! Exit status: 0 done (an upgrade: committed), 1 refused, rolled back or cancelled, 2 wrong use, 3 unreachable.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use batonctl::client::{Client, Error};
use batonctl::{keys, show, upgrade};
use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

const REFUSED: u8 = 1;
const USAGE: u8 = 2;
const UNREACHABLE: u8 = 3;

/// Looks at a machine that runs Baton, and replaces Baton while its guests run.
#[derive(Parser)]
#[command(version, after_help = "Exit status: 0 done, 1 refused or rolled back, 2 wrong use, 3 unreachable.")]
struct Arguments {
    /// The machine's management address, HOST:PORT.
    #[arg(long, global = true, env = "BATON_HOST", default_value = "127.0.0.1:8080")]
    host: String,
    /// Prints Baton's JSON instead of tables.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The running image, its generation, the machine's memory.
    Status,
    /// The guests and what they do.
    Guests,
    /// The IOMMUs, domains and devices.
    Iommu,
    /// What the IOMMUs have blocked: device, address, reason.
    Faults,
    /// What is on the buses: owner, group, reset, and why it can't be given away.
    Devices,
    /// Sends an image, and waits until it runs or has been refused.
    Upgrade {
        /// The image.
        file: PathBuf,
        /// Only asks whether it could be done; nothing changes.
        #[arg(long, conflicts_with = "no_wait")]
        dry_run: bool,
        /// Returns as soon as the image has been accepted.
        #[arg(long)]
        no_wait: bool,
        /// Seconds until a silent machine is given up.
        #[arg(long, default_value_t = 120)]
        timeout: u64,
    },
    /// The last upgrade's report, or one by its number.
    Report {
        /// The upgrade's number.
        id: Option<u64>,
    },
    /// Cancels the running upgrade, as long as no guest has been paused.
    Cancel,
    /// Signing keys.
    Keys {
        #[command(subcommand)]
        command: Keys,
    },
    /// Signs an image by a key, in place or into another file. No machine is asked.
    Sign {
        /// The image.
        file: PathBuf,
        /// The secret key, as `keys new` has written it.
        #[arg(long)]
        key: PathBuf,
        /// The signed image; without it the file itself is signed.
        #[arg(long)]
        out: Option<PathBuf>,
        /// No build with a lower number may follow this image.
        #[arg(long)]
        minimum_build: Option<u32>,
    },
}

#[derive(Subcommand)]
enum Keys {
    /// Makes a pair: NAME.key, to be kept secret, and NAME.pub, to be named in upgrade.keys of baton.toml.
    New {
        /// The files' name without extension.
        name: PathBuf,
    },
}

/// Why the command did not do what was asked.
enum Failure {
    Client(Error),
    Usage(String),
    NotDone(String),
}

/// What was made with which key.
#[derive(Serialize)]
struct Made {
    /// The key's id.
    key: String,
}

impl From<keys::Error> for Failure {
    fn from(error: keys::Error) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Client(error)
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let (code, message) = match run(&arguments) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Client(Error::Refused(refusal))) if arguments.json => {
            print_json(&refusal);
            return ExitCode::from(REFUSED);
        }
        Err(Failure::Client(error @ Error::Refused(_))) => (REFUSED, error.to_string()),
        Err(Failure::Client(error)) => (UNREACHABLE, error.to_string()),
        Err(Failure::NotDone(message)) => (REFUSED, message),
        Err(Failure::Usage(message)) => (USAGE, message),
    };
    eprintln!("batonctl: {message}");
    ExitCode::from(code)
}

fn print_json(value: &impl Serialize) {
    // Plain data with string keys can't fail to serialise.
    println!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
}

fn print<T: Serialize>(json: bool, value: &T, text: impl FnOnce(&T) -> String) {
    if json { print_json(value) } else { print!("{}", text(value)) }
}

fn run(arguments: &Arguments) -> Result<(), Failure> {
    let client = Client::new(&arguments.host);
    let json = arguments.json;
    match &arguments.command {
        Command::Status => print(json, &client.status()?, show::status),
        Command::Guests => print(json, &client.guests()?, show::guests),
        Command::Iommu => print(json, &client.iommu()?, show::iommu),
        Command::Devices => print(json, &client.devices()?, show::devices),
        Command::Faults => {
            let iommu = client.iommu()?;
            if json { print_json(&iommu.faults) } else { print!("{}", show::faults(&iommu)) }
        }
        Command::Cancel => {
            print(json, &client.cancel()?, |cancelled| format!("upgrade {} is cancelled\n", cancelled.id))
        }
        Command::Keys { command: Keys::New { name } } => {
            let id = keys::generate(name)?;
            let made = Made { key: id };
            print(json, &made, |made| format!("key {}: {name}.key and {name}.pub\n", made.key, name = name.display()));
        }
        Command::Sign { file, key, out, minimum_build } => {
            let to = out.as_ref().unwrap_or(file);
            let made = Made { key: keys::sign(file, to, key, *minimum_build)? };
            print(json, &made, |made| format!("{} is signed by key {}\n", to.display(), made.key));
        }
        Command::Report { id } => {
            let upgrade = client.upgrade()?;
            let report = match id {
                Some(id) => upgrade.report(*id),
                None => upgrade.last.as_ref(),
            };
            let report = report.ok_or_else(|| Failure::NotDone("there is no such report".into()))?;
            print(json, report, show::report);
        }
        Command::Upgrade { file, dry_run: true, .. } => {
            let (mut image, bytes) = open(file)?;
            let planned = client.plan(&mut image, bytes)?;
            print(json, &planned.plan, show::plan);
            if !planned.plan.ok {
                return Err(Failure::NotDone("the upgrade would be refused".into()));
            }
        }
        Command::Upgrade { file, no_wait, timeout, .. } => {
            let (image, bytes) = open(file)?;
            let bar = bar(bytes, json);
            let accepted = upgrade::send(&client, &mut bar.wrap_read(image), bytes)?;
            if *no_wait {
                print(json, &accepted, |accepted| format!("upgrade {} is accepted\n", accepted.id));
                return Ok(());
            }
            let report = upgrade::wait(&client, accepted.id, Duration::from_secs(*timeout), &mut |upgrade| {
                bar.set_message(upgrade.state.clone());
            })?;
            bar.finish_and_clear();
            print(json, &report, show::report);
            if report.outcome != "committed" {
                return Err(Failure::NotDone(format!("the upgrade was {}: {}", report.outcome, report.reason)));
            }
        }
    }
    Ok(())
}

fn open(file: &Path) -> Result<(File, u64), Failure> {
    let opened = File::open(file).and_then(|image| image.metadata().map(|data| (image, data)));
    match opened {
        Ok((image, data)) if data.is_file() && data.len() > 0 => Ok((image, data.len())),
        Ok(_) => {
            Err(Failure::Usage(format!("{} is no file, or empty: name an image, as ./x image builds", file.display())))
        }
        Err(error) => Err(Failure::Usage(format!("{} can't be read: {error}", file.display()))),
    }
}

fn bar(bytes: u64, hidden: bool) -> ProgressBar {
    let bar = ProgressBar::new(bytes);
    if hidden {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    if let Ok(style) = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes} {msg}") {
        bar.set_style(style);
    }
    bar.set_message("sending");
    bar
}
