//! QEMU's monitor (QMP), over the emulator's standard input and output: no socket to clean up.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection; commands from several threads take turns.
pub struct Qmp {
    channel: Mutex<(ChildStdin, Receiver<Value>)>,
}

impl Qmp {
    /// Greets QEMU.
    ///
    /// # Errors
    /// When QEMU ends or stays silent, as it does after a wrong command line.
    pub fn connect(input: ChildStdin, output: ChildStdout) -> Result<Self> {
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(message) = serde_json::from_str(&line)
                    && sender.send(message).is_err()
                {
                    break;
                }
            }
        });
        let qmp = Self { channel: Mutex::new((input, receiver)) };
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Executes a command; events and the greeting are skipped.
    ///
    /// # Errors
    /// What QEMU says, or that it is gone.
    pub fn execute(&self, command: &str, arguments: &Value) -> Result<Value> {
        let mut channel =
            self.channel.lock().map_err(|_| anyhow!("another thread failed while it used the monitor"))?;
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(channel.0, "{request}").context("QEMU is gone")?;
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = channel.1.recv_timeout(left).with_context(|| format!("QEMU doesn't answer {command}"))?;
            if let Some(answer) = message.get("return") {
                return Ok(answer.clone());
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
        }
    }

    /// A command of the human monitor.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn monitor(&self, command: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", &json!({"command-line": command}))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    /// Reads 32-bit words of physical memory or of a device's registers.
    ///
    /// # Errors
    /// As [`Qmp::execute`], or an answer that is no number.
    pub fn read_words(&self, address: u64, count: usize) -> Result<Vec<u32>> {
        let text = self.monitor(&format!("xp /{count}wx {address:#x}"))?;
        let words: Option<Vec<u32>> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .flat_map(|(_, words)| words.split_whitespace())
            .map(|word| u32::from_str_radix(word.trim_start_matches("0x"), 16).ok())
            .collect();
        words.filter(|words| words.len() == count).with_context(|| format!("no {count} words in {text:?}"))
    }

    /// Reads a 64-bit register.
    ///
    /// # Errors
    /// As [`Qmp::read_words`].
    pub fn read_u64(&self, address: u64) -> Result<u64> {
        let words = self.read_words(address, 2)?;
        Ok(u64::from(words[0]) | u64::from(words[1]) << 32)
    }
}
