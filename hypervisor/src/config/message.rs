//! Refusals and warnings: one line each, with the place, the cause and the remedy.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::ops::Range;

/// Why the file as a whole is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The line to look at, counted from 1.
    pub line: Option<usize>,
    /// What is wrong.
    pub cause: String,
    /// What to change.
    pub remedy: &'static str,
}

impl ConfigError {
    pub(super) fn new(line: Option<usize>, cause: &str, remedy: &'static str) -> Self {
        Self { line, cause: cause.to_owned(), remedy }
    }

    pub(super) fn from_toml(text: &str, error: &toml::de::Error) -> Self {
        // The message of a TOML error is a line already, but for what it quotes of the file.
        let cause = error.message().replace('\n', " ");
        Self { line: error.span().map(|span| line_of(text, &span)), cause, remedy: "correct the line" }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        place(f, self.line)?;
        write!(f, "{}; {}", self.cause, self.remedy)
    }
}

impl core::error::Error for ConfigError {}

/// What is left out of the file, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigWarning {
    /// The line to look at, counted from 1.
    pub line: Option<usize>,
    /// The cause, the consequence and what to change.
    pub message: String,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        place(f, self.line)?;
        f.write_str(&self.message)
    }
}

fn place(f: &mut fmt::Formatter<'_>, line: Option<usize>) -> fmt::Result {
    match line {
        Some(line) => write!(f, "baton.toml line {line}: "),
        None => write!(f, "baton.toml: "),
    }
}

/// The line, counted from 1, where the span starts.
pub(super) fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}
