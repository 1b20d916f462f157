//! Runs other programs. Their output is shown only when they fail.

use std::env;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// The cargo that runs this.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(baton_tests::paths::root());
    // What cargo set for this crate is not for the crates it builds next.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Debian's cargo and rustc, whatever toolchain manager runs this.
pub fn debian_cargo() -> Command {
    let mut command = cargo_without_toolchain("/usr/bin/cargo");
    let path = env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("/usr/bin:{path}"));
    command
}

fn cargo_without_toolchain(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(baton_tests::paths::root());
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let of_cargo = text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO";
        if of_cargo || ["RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "RUSTFLAGS"].contains(&text) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a program to its end; its standard output.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!(
            "{} failed ({}):\n{}{}",
            line(command),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program to its end, whatever the end.
pub fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("{} can't be started: ./x installs it", line(command)))
}

/// The command, for a message.
fn line(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    command.get_args().fold(name, |text, argument| text + " " + &argument.to_string_lossy())
}
