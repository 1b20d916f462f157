//! The machine's bus from outside (QEMU's qtest protocol): a device that is not what it seems is played by writing to its
//! registers behind the back of everybody.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
pub struct Bus {
    stream: Mutex<BufReader<TcpStream>>,
}

impl Bus {
    /// Connects to QEMU.
    ///
    /// # Errors
    /// When QEMU doesn't listen.
    pub fn connect(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).context("QEMU's bus is not there")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream: Mutex::new(BufReader::new(stream)) })
    }

    fn ask(&self, command: &str) -> Result<String> {
        let mut stream = self.stream.lock().map_err(|_| anyhow!("another thread failed while it used the bus"))?;
        writeln!(stream.get_mut(), "{command}").context("QEMU is gone")?;
        let mut answer = String::new();
        stream.read_line(&mut answer).with_context(|| format!("QEMU doesn't answer {command}"))?;
        match answer.trim().strip_prefix("OK") {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => bail!("QEMU refuses {command}: {answer}"),
        }
    }

    /// Reads 32 bits.
    ///
    /// # Errors
    /// When QEMU doesn't answer.
    pub fn read(&self, address: u64) -> Result<u32> {
        let answer = self.ask(&format!("readl {address:#x}"))?;
        let value = u64::from_str_radix(answer.trim_start_matches("0x"), 16);
        Ok(u32::try_from(value.with_context(|| answer.clone())?)?)
    }

    /// Writes 32 bits.
    ///
    /// # Errors
    /// When QEMU doesn't answer.
    pub fn write(&self, address: u64, value: u32) -> Result<()> {
        self.ask(&format!("writel {address:#x} {value:#x}")).map(drop)
    }
}
