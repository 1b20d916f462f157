//! The `baton.toml` of the tests: written by hand here, so that the tests read what an operator writes.

use std::fmt;

/// What differs between the tests.
#[derive(Clone)]
pub struct Config {
    /// The guest's memory.
    pub memory_mib: u32,
    /// The pCPU of its vCPU.
    pub pcpu: u32,
    /// Its devices.
    pub devices: Vec<String>,
    /// What its init does: `load`, `bench` or `idle`.
    pub mode: String,
    /// Its kernel.
    pub kernel: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            memory_mib: 512,
            pcpu: 1,
            devices: vec!["1b36:0010".into()],
            mode: "load".into(),
            kernel: "vmlinuz".into(),
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory_mib, pcpu, devices, mode, kernel } = self;
        write!(
            f,
            r#"[management]
nic = "8086:10d3"
address = "dhcp"
port = 80

[[guest]]
name = "debian"
memory_mib = {memory_mib}
vcpus = 1
pcpus = [{pcpu}]
kernel = "{kernel}"
initrd = "initrd.cpio"
command_line = "console=ttyS0 panic=-1 mode={mode}"
devices = {devices:?}
on_upgrade = "preserve"
console = "com2"
"#
        )
    }
}
