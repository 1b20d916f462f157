//! A QEMU machine, from command line to kill.

use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use batonctl::client::Client;
use serde_json::json;

use crate::bus::Bus;
use crate::guest_log::{self, Sample};
use crate::log::{Log, wait_for};
use crate::qmp::Qmp;
use crate::spec::{Ports, Spec, arguments, quote};

/// A running machine; dropping it ends it.
pub struct Machine {
    child: Mutex<Child>,
    qmp: Option<Arc<Qmp>>,
    port: u16,
    directory: PathBuf,
    keyboard: Option<Mutex<TcpStream>>,
    bus: Option<Bus>,
    /// Baton's log.
    pub baton: Log,
    /// The guest's console.
    pub guest: Log,
    /// What QEMU wrote down.
    pub trace: Log,
}

impl Machine {
    /// Starts a machine whose files lie in `directory`, which is emptied.
    ///
    /// # Errors
    /// When a file is missing or QEMU refuses its command line.
    pub fn start(spec: &Spec, directory: &Path) -> Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("{} can't be emptied", directory.display()))?;
        }
        fs::create_dir_all(directory)?;
        let ports = Ports { api: free_port()?, keyboard: free_port()?, bus: free_port()? };
        let arguments = arguments(spec, directory, &ports)?;
        let line = format!("qemu-system-x86_64 {}", quote(&arguments));
        fs::write(directory.join("command"), format!("{line}\n"))?;
        let errors = directory.join("qemu.log");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(&arguments);
        if !spec.interactive {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&errors)?);
        }
        let mut child = command.spawn().context("qemu-system-x86_64 can't be started: ./x installs it")?;
        let qmp = match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => match Qmp::connect(input, output) {
                Ok(qmp) => Some(Arc::new(qmp)),
                Err(error) => {
                    _ = child.kill();
                    _ = child.wait();
                    return Err(error.context(format!("{}\n{line}", Log::new(errors).text())));
                }
            },
            _ => None,
        };
        let (keyboard, bus) = if spec.typed {
            let keyboard = TcpStream::connect(("127.0.0.1", ports.keyboard)).context("the console is not there")?;
            (Some(keyboard), Some(Bus::connect(ports.bus)?))
        } else {
            (None, None)
        };
        Ok(Self {
            child: Mutex::new(child),
            qmp,
            port: ports.api,
            directory: directory.to_path_buf(),
            keyboard: keyboard.map(Mutex::new),
            bus,
            baton: Log::new(directory.join("baton.log")),
            guest: Log::new(directory.join("guest.log")),
            trace: Log::new(directory.join("trace.log")),
        })
    }

    /// The management address, as the host sees it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A file of this machine.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Baton's API.
    #[must_use]
    pub fn api(&self) -> Client {
        Client::new(&self.host())
    }

    /// QEMU's monitor.
    ///
    /// # Errors
    /// An interactive machine has none.
    pub fn qmp(&self) -> Result<&Arc<Qmp>> {
        self.qmp.as_ref().context("an interactive machine has no monitor")
    }

    /// What the guest that loads its disk has told so far, on whichever console.
    #[must_use]
    pub fn samples(&self) -> Vec<Sample> {
        if self.keyboard.is_some() { guest_log::samples_in_log(&self.baton) } else { guest_log::samples(&self.guest) }
    }

    /// The machine's bus.
    ///
    /// # Errors
    /// Only machines whose Spec is `typed` have one.
    pub fn bus(&self) -> Result<&Bus> {
        self.bus.as_ref().context("this machine's Spec is not `typed`")
    }

    /// Types a line on the guest's console.
    ///
    /// # Errors
    /// The machine was started without a keyboard, or has ended.
    pub fn type_line(&self, line: &str) -> Result<()> {
        let keyboard = self.keyboard.as_ref().context("this machine's Spec is not `typed`")?;
        let mut keyboard = keyboard.lock().map_err(|_| anyhow!("another thread failed while it typed"))?;
        keyboard.write_all(format!("{line}\n").as_bytes()).context("the guest's console is gone")
    }

    /// Physical memory of the machine, as it is now.
    ///
    /// # Errors
    /// When QEMU doesn't answer.
    pub fn memory(&self, base: u64, bytes: u64) -> Result<Vec<u8>> {
        let file = self.directory.join("memory");
        let arguments = json!({"val": base, "size": bytes, "filename": file});
        self.qmp()?.execute("pmemsave", &arguments)?;
        Ok(fs::read(&file)?)
    }

    /// Fails once the emulator has ended.
    ///
    /// # Errors
    /// With its exit status.
    pub fn alive(&self) -> Result<()> {
        let mut child = self.child.lock().map_err(|_| anyhow!("another thread failed while it held the emulator"))?;
        match child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the emulator ended ({status})"),
        }
    }

    /// Waits for the emulator to end by itself.
    ///
    /// # Errors
    /// When the system can't say.
    pub fn wait(&self) -> Result<ExitStatus> {
        let mut child = self.child.lock().map_err(|_| anyhow!("another thread failed while it held the emulator"))?;
        Ok(child.wait()?)
    }

    /// Waits for a complete line with `needle` in Baton's log.
    ///
    /// # Errors
    /// When it doesn't come in time or the emulator ends.
    pub fn wait_baton(&self, needle: &str, seconds: u64) -> Result<String> {
        let what = format!("line with {needle:?} in Baton's log");
        wait_for(&what, Duration::from_secs(seconds), || self.alive(), || self.baton.find(needle))
    }

    /// Waits for a complete line with `needle` on the guest's console. A Baton that says it can't go on, or that the guest
    /// can't start, ends it early.
    ///
    /// # Errors
    /// When it doesn't come in time or the emulator ends.
    pub fn wait_guest(&self, needle: &str, seconds: u64) -> Result<String> {
        let what = format!("line with {needle:?} on the guest's console");
        wait_for(
            &what,
            Duration::from_secs(seconds),
            || self.healthy().and_then(|()| self.guest_started()),
            || self.guest.find(needle),
        )
    }

    fn guest_started(&self) -> Result<()> {
        match self.baton.find(" can't start: ") {
            Some(line) => bail!("{line}"),
            None => Ok(()),
        }
    }

    /// Waits for the API to answer.
    ///
    /// # Errors
    /// When it doesn't in time or the emulator ends.
    pub fn wait_api(&self, seconds: u64) -> Result<Client> {
        let api = self.api();
        wait_for("answer from the API", Duration::from_secs(seconds), || self.healthy(), || api.status().ok())?;
        Ok(api)
    }

    /// Alive, and Baton has not given up.
    ///
    /// # Errors
    /// With the line that says why.
    pub fn healthy(&self) -> Result<()> {
        self.alive()?;
        // Last words stand at the start of a line; a log line may tell of those of an image that was given up.
        let last = |line: &String| line.starts_with("baton: ") || line.contains("baton can't start");
        if let Some(line) = self.baton.lines().into_iter().find(last) {
            bail!("Baton gave up: {line}");
        }
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Ok(child) = self.child.get_mut() {
            // Both fail only when it has ended already.
            _ = child.kill();
            _ = child.wait();
        }
    }
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("no free loopback port")?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_is_named_before_the_emulator_starts() {
        let directory = std::env::temp_dir().join(format!("baton-machine-{}", std::process::id()));
        let spec = Spec { image: "no-such.img".into(), modules: Vec::new(), ..Spec::default() };
        let error = Machine::start(&spec, &directory).err().expect("refused");
        assert!(error.to_string().contains("no-such.img"), "{error}");
        fs::remove_dir_all(directory).expect("was created");
    }
}
