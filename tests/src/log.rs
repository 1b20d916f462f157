//! Serial logs and traces that grow while they are read.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
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

/// A file that something else appends to, read once: for those that grow long.
pub struct Tail {
    log: Log,
    offset: u64,
    /// A line that has not ended yet.
    rest: Vec<u8>,
}

impl Tail {
    /// From the file's beginning on.
    #[must_use]
    pub fn new(log: &Log) -> Self {
        Self { log: log.clone(), offset: 0, rest: Vec::new() }
    }

    /// The complete lines that have come since the last call; as [`Log::lines`] else.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        let mut file = match File::open(&self.log.path) {
            Ok(file) => file,
            // It is there when something has been written.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        file.seek(SeekFrom::Start(self.offset))?;
        self.offset += file.read_to_end(&mut self.rest)? as u64;
        let complete = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let whole: Vec<u8> = self.rest.drain(..complete).collect();
        Ok(String::from_utf8_lossy(&whole).replace('\r', "").lines().map(str::to_owned).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_tail_gives_each_line_once_and_whole() {
        let path = std::env::temp_dir().join(format!("baton-tail-{}", std::process::id()));
        let log = Log::new(path.clone());
        let mut tail = Tail::new(&log);
        assert_eq!(tail.lines().expect("no file yet"), Vec::<String>::new());
        let mut file = File::create(&path).expect("a file");
        write!(file, "one\r\ntw").expect("written");
        assert_eq!(tail.lines().expect("read"), ["one"]);
        assert_eq!(tail.lines().expect("read"), Vec::<String>::new());
        write!(file, "o\nthree\nfo").expect("written");
        assert_eq!(tail.lines().expect("read"), ["two", "three"]);
        assert_eq!(log.lines(), ["one", "two", "three"]);
        fs::remove_file(path).expect("was created");
    }
}
