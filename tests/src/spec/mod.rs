//! A QEMU machine before it is started: what it has, and the command line that makes it (TESTBEDS.md).
//!
//! - `iommu`: the variants of its IOMMU
//! - `devices`: what guests may get, and where it is plugged in

mod devices;
mod iommu;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::config::{self, Guest};
use crate::paths;

pub use devices::{Device, Kind, NAMESPACE_DRIVES, Place, VIRTUAL_DISKS};
pub use iommu::{Iommu, Offer};

/// What QEMU writes down about the IOMMU and the disk.
const TRACES: [&str; 9] = [
    "vtd_reg_write_gcmd",
    "vtd_reg_dmar_root",
    "vtd_reg_ir_root",
    "vtd_dmar_enable",
    "vtd_ir_enable",
    "vtd_dmar_fault",
    "pci_nvme_mmio_cfg",
    "pci_nvme_mmio_shutdown_set",
    "pci_nvme_pci_reset",
];

/// How the machine finds its image.
#[derive(Clone)]
pub enum Boot {
    /// By QEMU's own multiboot loader: fast.
    Direct,
    /// By the management NIC's iPXE ROM over TFTP, as a server does.
    Ipxe,
    /// No Baton: the image is a Linux kernel, with this command line and the first module as its initrd. For what the same
    /// machine does on its own.
    Linux(String),
}

/// A machine to be started.
#[derive(Clone)]
pub struct Spec {
    /// The image.
    pub image: PathBuf,
    /// Files that come with it; a name in `baton.toml` is the last part of the path.
    pub modules: Vec<PathBuf>,
    /// Files written for this machine only: name, content. They come after the other modules.
    pub texts: Vec<(String, String)>,
    /// How it boots.
    pub boot: Boot,
    /// RAM.
    pub memory_mib: u32,
    /// CPUs.
    pub cpus: u32,
    /// QEMU's CPU model.
    pub cpu: String,
    /// Its IOMMU, if it has one.
    pub iommu: Option<Iommu>,
    /// Devices to be passed through.
    pub devices: Vec<Device>,
    /// Whether time is counted in instructions: one tick of the TSC each.
    pub deterministic: bool,
    /// Whether the guest's console and the keyboard are this terminal.
    pub interactive: bool,
    /// Whether the case types on the guest's console, see [`crate::machine::Machine::type_line`], and plays devices, see
    /// [`crate::bus::Bus`].
    pub typed: bool,
    /// What QEMU writes down besides.
    pub traces: Vec<&'static str>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            image: paths::image("baton"),
            modules: vec![paths::kernel(), paths::initrd()],
            texts: vec![("baton.toml".into(), config::Config::default().to_string())],
            boot: Boot::Direct,
            memory_mib: 1024,
            cpus: 2,
            cpu: "max".into(),
            iommu: Some(Iommu::default()),
            devices: vec![Device::DISK],
            deterministic: false,
            interactive: false,
            typed: false,
            traces: Vec::new(),
        }
    }
}

impl Spec {
    /// A machine whose guests run programs of our own.
    #[must_use]
    pub fn bare(programs: &[&str], guests: &[Guest]) -> Self {
        Self {
            modules: programs.iter().map(|name| paths::bare_guest(name)).collect(),
            texts: vec![("baton.toml".into(), config::toml(guests))],
            ..Self::default()
        }
    }
}

impl Spec {
    /// The same, where the guests' disks are virtual functions of one controller: `1b36:0010/vf0` and on, each with a
    /// namespace of its own.
    #[must_use]
    pub fn virtual_disks(programs: &[&str], guests: &[Guest]) -> Self {
        let namespaces: Vec<String> = (1..=VIRTUAL_DISKS).map(|id| id.to_string()).collect();
        let sriov = format!("vfs = {VIRTUAL_DISKS}\nnamespaces = [{}]", namespaces.join(", "));
        let text = config::toml(guests) + &format!("\n[[sriov]]\ndevice = \"1b36:0010\"\n{sriov}\n");
        Self {
            devices: vec![Device { kind: Kind::NvmeVirtual, place: Place::RootPort }],
            memory_mib: 256,
            texts: vec![("baton.toml".into(), text)],
            ..Self::bare(programs, &[])
        }
    }
}

/// The arguments as a shell takes them.
pub(crate) fn quote(arguments: &[String]) -> String {
    let quoted: Vec<_> = arguments
        .iter()
        .map(|argument| if argument.contains([' ', '*', ';']) { format!("'{argument}'") } else { argument.clone() })
        .collect();
    quoted.join(" ")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .filter(|text| !text.contains(','))
        .with_context(|| format!("QEMU can't take this path: {}", path.display()))
}

/// Loopback ports of a machine.
pub(crate) struct Ports {
    /// Of its API.
    pub api: u16,
    /// Of the guest's console, where it is typed on.
    pub keyboard: u16,
    /// Of its bus, likewise.
    pub bus: u16,
}

/// The command line of TESTBEDS.md. Management on rp1, the first device on rp3.
pub(crate) fn arguments(spec: &Spec, directory: &Path, ports: &Ports) -> Result<Vec<String>> {
    let mut modules = spec.modules.clone();
    for (name, content) in &spec.texts {
        let path = directory.join(name);
        fs::write(&path, content)?;
        modules.push(path);
        // The key comes along wherever it is named.
        if content.contains(paths::PUBLIC_KEY) {
            modules.push(paths::test_key().with_file_name(paths::PUBLIC_KEY));
        }
    }
    for file in [&spec.image].into_iter().chain(&modules) {
        if !file.is_file() {
            bail!("{} is missing: ./x image and ./x guest build what is needed", file.display());
        }
    }
    let mut all: Vec<String> = Vec::new();
    let mut add = |line: String| all.extend(line.split(' ').map(str::to_owned));
    // One instruction per block: a timer access by MSR elsewhere than at a block's end aborts QEMU 10 under
    // icount ("Bad icount read"), and x2APIC timers are nothing but that.
    let accelerator = if spec.deterministic {
        "tcg,thread=single,one-insn-per-tb=on -icount shift=0,sleep=off"
    } else {
        "tcg,thread=multi"
    };
    add(format!("-M q35 -accel {accelerator} -cpu {} -smp {} -m {}", spec.cpu, spec.cpus, spec.memory_mib));
    add("-nodefaults -display none -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=1".into());
    add(format!("-serial file:{}", text(&directory.join("baton.log"))?));
    if spec.interactive {
        add("-serial mon:stdio".into());
    } else {
        let log = directory.join("guest.log");
        if spec.typed {
            let socket = format!("socket,id=com2,host=127.0.0.1,port={},server=on,wait=off", ports.keyboard);
            add(format!("-qtest tcp:127.0.0.1:{},server=on,wait=off -qtest-log none", ports.bus));
            add(format!("-chardev {socket},logfile={} -serial chardev:com2", text(&log)?));
        } else {
            add(format!("-serial file:{}", text(&log)?));
        }
        add("-chardev stdio,id=qmp,signal=off -mon chardev=qmp,mode=control".into());
    }
    if let Some(iommu) = &spec.iommu {
        add(iommu.argument());
    }
    add("-device pcie-root-port,id=rp1,chassis=1,slot=1,addr=0x2.0,multifunction=on".into());
    add("-device pcie-root-port,id=rp2,chassis=2,slot=2,addr=0x2.1".into());
    let (network, first) = match spec.boot {
        Boot::Direct | Boot::Linux(_) => (String::new(), ""),
        Boot::Ipxe => {
            (format!(",tftp={},bootfile=boot.ipxe", text(&tftp(spec, &modules, directory)?)?), ",bootindex=1")
        }
    };
    add(format!("-netdev user,id=mg,restrict=on,hostfwd=tcp:127.0.0.1:{}-10.0.2.15:80{network}", ports.api));
    add(format!("-device e1000e,netdev=mg,bus=rp1{first}"));
    devices::arguments(&spec.devices, directory)?.into_iter().for_each(&mut add);
    for event in TRACES.iter().chain(&spec.traces) {
        add(format!("-trace enable={event}"));
    }
    add(format!("-D {}", text(&directory.join("trace.log"))?));
    if !matches!(spec.boot, Boot::Ipxe) {
        all.push("-kernel".into());
        all.push(text(&spec.image)?.into());
        if let Boot::Linux(command_line) = &spec.boot {
            all.extend(["-append".into(), command_line.clone()]);
            modules.truncate(1);
        }
        if !modules.is_empty() {
            let modules: Result<Vec<_>> = modules.iter().map(|path| text(path)).collect();
            all.push("-initrd".into());
            all.push(modules?.join(","));
        }
    }
    Ok(all)
}

/// The directory that is served: image, modules, script.
fn tftp(spec: &Spec, modules: &[PathBuf], directory: &Path) -> Result<PathBuf> {
    let served = directory.join("tftp");
    fs::create_dir_all(&served)?;
    let mut script = String::from("#!ipxe\n");
    for (command, path) in [("kernel", &spec.image)].into_iter().chain(modules.iter().map(|path| ("module", path))) {
        let name = path.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
        fs::copy(path, served.join(name)).with_context(|| format!("{} can't be served", path.display()))?;
        script += &format!("{command} tftp://${{next-server}}/{name}\n");
    }
    script += "boot\n";
    fs::write(served.join("boot.ipxe"), script)?;
    Ok(served)
}
