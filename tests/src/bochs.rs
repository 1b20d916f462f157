//! A Bochs machine, from the ISO it boots to its kill: where VMX is, and SVM by another hand than QEMU's (docs/bochs.md). It has no IOMMU,
//! no PCI Express and no network: what is seen of it are its two serial ports, COM1 with Baton's log, COM2 with a guest's console.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::config::{DEADLINE_MS, Guest};
use crate::log::{Log, wait_for};
use crate::paths;

/// What Bochs's ROMs and GRUB's modules for a BIOS are called in Debian.
const ROM: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VIDEO_ROM: &str = "/usr/share/bochs/VGABIOS-lgpl-latest";
const GRUB: &str = "/usr/lib/grub/i386-pc";
/// Until Bochs has opened its serial ports.
const START: Duration = Duration::from_secs(20);

/// What Baton says when something has not gone as it should.
const GIVEN_UP: [&str; 8] = [
    "baton can't start",
    " can't start: ",
    "no guest can run",
    " has stopped: ",
    " is refused: ",
    " failed in the sandbox",
    "rolled back",
    "no upgrade to ",
];

/// A machine to be started.
#[derive(Clone)]
pub struct Spec {
    /// Bochs's CPU model (`bochs --help cpu`).
    pub model: &'static str,
    /// RAM.
    pub memory_mib: u32,
    /// Files that come with the image.
    pub modules: Vec<PathBuf>,
    /// `baton.toml`.
    pub config: String,
}

impl Spec {
    /// A machine whose guests have no devices, with their kernels; images that it can be upgraded to come along.
    #[must_use]
    pub fn new(model: &'static str, memory_mib: u32, kernels: &[PathBuf], guests: &[Guest], images: &[&str]) -> Self {
        let mut modules = kernels.to_vec();
        modules.extend(images.iter().map(|name| paths::image(name)));
        modules.push(paths::test_key().with_file_name(paths::PUBLIC_KEY));
        Self { model, memory_mib, modules, config: toml(guests, images) }
    }
}

/// The file with these guests, for a machine that has no IOMMU and says so, and these images to be kept.
fn toml(guests: &[Guest], images: &[&str]) -> String {
    let images: Vec<String> = images.iter().map(|name| format!("{name}.img")).collect();
    let (deadline, key) = (DEADLINE_MS, paths::PUBLIC_KEY);
    let upgrade = format!("[upgrade]\ndeadline_ms = {deadline}\nkeys = [\"{key}\"]\nimages = {images:?}\n");
    guests.iter().fold(format!("[iommu]\nmode = \"none\"\n{upgrade}"), |text, guest| text + &guest.to_string())
}

/// A running machine; dropping it ends it.
pub struct Machine {
    child: Mutex<Child>,
    console: Mutex<Option<TcpStream>>,
    /// Baton's log.
    pub baton: Log,
    /// The guest's console.
    pub guest: Log,
}

impl Machine {
    /// Starts a machine whose files lie in `directory`, which is emptied.
    ///
    /// # Errors
    /// When a file or a program is missing, or Bochs refuses its configuration.
    pub fn start(spec: &Spec, directory: &Path) -> Result<Self> {
        if directory.exists() {
            fs::remove_dir_all(directory).with_context(|| format!("{} can't be emptied", directory.display()))?;
        }
        let iso = iso(spec, directory)?;
        let ports = [listener()?, listener()?];
        let configuration = configuration(spec, &iso, [ports[0].1, ports[1].1]);
        fs::write(directory.join("bochsrc"), configuration)?;
        // Debian's Bochs has its debugger built in, which wants to be told to go on.
        fs::write(directory.join("debugger"), "c\n")?;
        fs::write(
            directory.join("command"),
            format!("cd {} && bochs -q -f bochsrc -rc debugger\n", directory.display()),
        )?;
        let child = Command::new("bochs")
            .args(["-q", "-f", "bochsrc", "-rc", "debugger"])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(File::create(directory.join("bochs.out"))?)
            .stderr(Stdio::null())
            .spawn()
            .context("bochs can't be started: ./x installs it")?;
        let machine = Self {
            child: Mutex::new(child),
            console: Mutex::new(None),
            baton: Log::new(directory.join("baton.log")),
            guest: Log::new(directory.join("guest.log")),
        };
        let console = machine.follow(&ports[0].0, &machine.baton)?;
        machine.follow(&ports[1].0, &machine.guest)?;
        *machine.console.lock().map_err(|_| anyhow!("another thread failed"))? = Some(console);
        Ok(machine)
    }

    /// Has what comes from a serial port written to a file, for as long as it comes. What is written to the stream is typed there.
    fn follow(&self, port: &TcpListener, log: &Log) -> Result<TcpStream> {
        let accept = || match port.accept() {
            Ok((stream, _)) => Some(Ok(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(error)),
        };
        let mut stream: TcpStream = wait_for("serial port of Bochs", START, || self.alive(), accept)??;
        stream.set_nonblocking(false)?;
        let typed = stream.try_clone()?;
        let mut file = File::create(log.path())?;
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It ends with the emulator; a full disk shows as a line that doesn't come.
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                if file.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
        });
        Ok(typed)
    }

    /// Types a command for Baton, on COM1.
    ///
    /// # Errors
    /// The emulator has ended.
    pub fn command(&self, line: &str) -> Result<()> {
        let mut console = self.console.lock().map_err(|_| anyhow!("another thread failed while it typed"))?;
        let console = console.as_mut().context("COM1 is not connected")?;
        console.write_all(format!("{line}\n").as_bytes()).context("Baton's console is gone")
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

    /// Waits for an answer.
    ///
    /// # Errors
    /// When it doesn't come in time, the emulator ends, Baton gives up or the guest can't go on.
    pub fn wait<T>(&self, what: &str, seconds: u64, ask: impl FnMut() -> Option<T>) -> Result<T> {
        wait_for(what, Duration::from_secs(seconds), || self.healthy(), ask)
    }

    /// Waits for a complete line with `needle` in Baton's log.
    ///
    /// # Errors
    /// As for [`Self::wait`].
    pub fn wait_baton(&self, needle: &str, seconds: u64) -> Result<String> {
        self.wait(&format!("line with {needle:?} in Baton's log"), seconds, || self.baton.find(needle))
    }

    /// Waits for a complete line with `needle` on the guest's console.
    ///
    /// # Errors
    /// As for [`Self::wait`].
    pub fn wait_guest(&self, needle: &str, seconds: u64) -> Result<String> {
        self.wait(&format!("line with {needle:?} on the guest's console"), seconds, || self.guest.find(needle))
    }

    /// Alive, and nobody has given up.
    ///
    /// # Errors
    /// With the line that says why.
    pub fn healthy(&self) -> Result<()> {
        self.alive()?;
        let last = |line: &String| line.starts_with("baton: ") || GIVEN_UP.iter().any(|end| line.contains(end));
        if let Some(line) = self.baton.lines().into_iter().find(last) {
            bail!("Baton gave up: {line}");
        }
        if let Some(line) = self.guest.find("guest failed") {
            bail!("{line}");
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

/// A place on loopback for a serial port.
fn listener() -> Result<(TcpListener, u16)> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free loopback port")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((listener, port))
}

/// A CD with GRUB, the image and its modules.
fn iso(spec: &Spec, directory: &Path) -> Result<PathBuf> {
    let root = directory.join("cd");
    fs::create_dir_all(root.join("boot/grub"))?;
    let mut script = String::from("set timeout=0\nmultiboot /boot/baton.img baton\n");
    fs::write(root.join("boot/baton.toml"), &spec.config)?;
    let image = paths::image("baton");
    let mut names = vec![String::from("baton.toml")];
    for (file, is_module) in [(&image, false)].into_iter().chain(spec.modules.iter().map(|file| (file, true))) {
        let name = file.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
        fs::copy(file, root.join("boot").join(name))
            .with_context(|| format!("{} is missing: ./x image and ./x guest build what is needed", file.display()))?;
        if is_module {
            names.push(name.into());
        }
    }
    names.iter().for_each(|name| script += &format!("module /boot/{name} {name}\n"));
    fs::write(root.join("boot/grub/grub.cfg"), script + "boot\n")?;
    let iso = directory.join("boot.iso");
    let made = Command::new("grub-mkrescue")
        .arg("-o")
        .arg(&iso)
        .arg(format!("--directory={GRUB}"))
        .arg("--install-modules=normal multiboot boot iso9660 biosdisk")
        .arg(&root)
        .output()
        .context("grub-mkrescue can't be started: ./x installs it")?;
    ensure!(made.status.success(), "grub-mkrescue: {}", String::from_utf8_lossy(&made.stderr));
    Ok(iso)
}

/// `bochsrc`: the machine, and a display that nobody looks at.
fn configuration(spec: &Spec, iso: &Path, [baton, guest]: [u16; 2]) -> String {
    let Spec { model, memory_mib, .. } = spec;
    format!(
        r#"megs: {memory_mib}
romimage: file={ROM}
vgaromimage: file={VIDEO_ROM}
cpu: model={model}, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=0
clock: sync=none, time0=1000000000
boot: cdrom
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={iso}, status=inserted
pci: enabled=1, chipset=i440fx
com1: enabled=1, mode=socket-client, dev=localhost:{baton}
com2: enabled=1, mode=socket-client, dev=localhost:{guest}
display_library: rfb, options="timeout=0"
sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy
log: bochs.log
panic: action=fatal
"#,
        iso = iso.display()
    )
}
