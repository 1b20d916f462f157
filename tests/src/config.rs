//! The `baton.toml` of the tests: written by hand here, so that the tests read what an operator writes.

use std::fmt;

use crate::paths;

/// A guest.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its name.
    pub name: String,
    /// Its memory.
    pub memory_mib: u32,
    /// Its vCPUs.
    pub vcpus: usize,
    /// The pCPU of all of them.
    pub pcpu: u32,
    /// The pCPU of each of them, where they are not on one.
    pub spread: Vec<u32>,
    /// The largest pages of its memory, where that is written down.
    pub page_size: Option<&'static str>,
    /// Its devices: names, or tables in the words of the file.
    pub devices: Vec<String>,
    /// Its kernel.
    pub kernel: String,
    /// The mode its kernel is entered in, where that is written down.
    pub entry: Option<&'static str>,
    /// Its initrd, if it has one.
    pub initrd: Option<String>,
    /// What else its kernel is given.
    pub modules: Vec<String>,
    /// What its kernel is told.
    pub command_line: String,
    /// What an upgrade does with it.
    pub on_upgrade: String,
    /// The machine's port that its console is on.
    pub console: String,
}

impl Guest {
    /// A guest of our own, on pCPU 1 and COM2.
    #[must_use]
    pub fn bare(name: &str, kernel: &str, devices: &[&str]) -> Self {
        Self {
            name: name.into(),
            memory_mib: 2,
            vcpus: 1,
            pcpu: 1,
            spread: Vec::new(),
            page_size: None,
            devices: devices.iter().map(|device| (*device).into()).collect(),
            kernel: format!("{kernel}.elf"),
            entry: None,
            initrd: None,
            modules: Vec::new(),
            command_line: String::new(),
            on_upgrade: "preserve".into(),
            console: "com2".into(),
        }
    }

    /// With a virtual CPU on each of these pCPUs.
    #[must_use]
    pub fn on(self, pcpus: &[u32]) -> Self {
        Self { vcpus: pcpus.len(), spread: pcpus.to_vec(), ..self }
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            memory_mib,
            vcpus,
            pcpu,
            spread,
            page_size,
            devices,
            kernel,
            entry,
            initrd,
            modules,
            command_line,
            on_upgrade,
            console,
        } = self;
        let pcpus = if spread.is_empty() { vec![*pcpu; *vcpus] } else { spread.clone() };
        // A table stands as it is, a name in quotes.
        let quoted = |device: &String| if device.starts_with('{') { device.clone() } else { format!("\"{device}\"") };
        let devices = devices.iter().map(quoted).collect::<Vec<_>>().join(", ");
        let pages = page_size.map_or_else(String::new, |size| format!("page_size = \"{size}\"\n"));
        let entry = entry.map_or_else(String::new, |entry| format!("entry = \"{entry}\"\n"));
        let modules = if modules.is_empty() { String::new() } else { format!("modules = {modules:?}\n") };
        let initrd = initrd.as_ref().map_or_else(String::new, |name| format!("initrd = \"{name}\"\n"));
        write!(
            f,
            r#"
[[guest]]
name = "{name}"
memory_mib = {memory_mib}
vcpus = {vcpus}
pcpus = {pcpus:?}
kernel = "{kernel}"
{entry}{initrd}{modules}command_line = "{command_line}"
devices = [{devices}]
on_upgrade = "{on_upgrade}"
console = "{console}"
{pages}"#
        )
    }
}

/// The longest guests may stand still in an upgrade, in milliseconds: on a busy machine an emulated CPU can be away for long.
pub const DEADLINE_MS: u32 = 5_000;

/// The file with these guests.
#[must_use]
pub fn toml(guests: &[Guest]) -> String {
    toml_with(DEADLINE_MS, guests)
}

fn toml_with(deadline_ms: u32, guests: &[Guest]) -> String {
    with_policy(deadline_ms, &format!("keys = [{:?}]", paths::PUBLIC_KEY), guests)
}

/// The file with these guests, and this line on whose images may be staged.
#[must_use]
pub fn with_policy(deadline_ms: u32, policy: &str, guests: &[Guest]) -> String {
    let management = "[management]\nnic = \"8086:10d3\"\naddress = \"dhcp\"\nport = 80\n";
    let upgrade = format!("\n[upgrade]\ndeadline_ms = {deadline_ms}\n{policy}\n");
    guests.iter().fold(format!("{management}{upgrade}"), |text, guest| text + &guest.to_string())
}

/// The file with the Linux guest: what differs between the tests.
#[derive(Clone)]
pub struct Config {
    /// The guest's memory.
    pub memory_mib: u32,
    /// Its vCPUs.
    pub vcpus: usize,
    /// The pCPU of all of them.
    pub pcpu: u32,
    /// The pCPU of each of them, where they are not on one.
    pub spread: Vec<u32>,
    /// Its devices.
    pub devices: Vec<String>,
    /// What its init does: `load`, `read`, `bench` or `idle`.
    pub mode: String,
    /// Its kernel.
    pub kernel: String,
    /// The longest it may stand still in an upgrade, in milliseconds.
    pub deadline_ms: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memory_mib: 512,
            vcpus: 1,
            pcpu: 1,
            spread: Vec::new(),
            devices: vec!["1b36:0010".into()],
            mode: "load".into(),
            kernel: "vmlinuz".into(),
            deadline_ms: DEADLINE_MS,
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&toml_with(
            self.deadline_ms,
            &[Guest {
                name: "debian".into(),
                memory_mib: self.memory_mib,
                vcpus: self.vcpus,
                pcpu: self.pcpu,
                spread: self.spread.clone(),
                page_size: None,
                devices: self.devices.clone(),
                kernel: self.kernel.clone(),
                entry: None,
                initrd: Some("initrd.cpio".into()),
                modules: Vec::new(),
                command_line: format!("console=ttyS0 panic=-1 mode={}", self.mode),
                on_upgrade: "preserve".into(),
                console: "com2".into(),
            }],
        ))
    }
}
