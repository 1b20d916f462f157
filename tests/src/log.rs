//! Serial logs and traces that grow while they are read.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a growing file is looked at.
pub const POLL: Duration = Duration::from_millis(20);

/// A file that something else appends to.
#[derive(Clone)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// A file that may not exist yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All of it so far; what is no UTF-8 is replaced, carriage returns are dropped.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).replace('\r', "")
    }

    /// Complete lines so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let text = self.text();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(str::to_owned).collect()
    }

    /// The first complete line with `needle`.
    #[must_use]
    pub fn find(&self, needle: &str) -> Option<String> {
        self.lines().into_iter().find(|line| line.contains(needle))
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = self.text();
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

/// Asks until there is an answer; `alive` ends it early with a reason.
///
/// # Errors
/// When `patience` is over or `alive` fails, naming `what` was waited for.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut alive: impl FnMut() -> Result<()>,
    mut ask: impl FnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if let Err(error) = alive() {
            // What was written with its last breath counts.
            return ask().ok_or_else(|| error.context(format!("while waiting for {what}")));
        }
        if Instant::now() >= end {
            bail!("no {what} within {} s", patience.as_secs());
        }
        thread::sleep(POLL);
    }
}
