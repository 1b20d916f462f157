//! The end-to-end cases, a file each. A case that leaves the machine as it was shares its boot with others.

mod api;
mod attack;
mod bad_input;
mod bochs;
mod boot;
mod busy;
mod cancel;
pub(crate) mod faults;
mod foreign;
mod interrupts;
mod io;
mod ipxe;
mod kernels;
mod loaders;
mod matrices;
mod plans;
mod platform;
mod refused;
mod running_faults;
mod signatures;
mod smp;
mod soak;
mod stop;
mod switch;
mod untouched;
mod upgrade;
mod variants;
mod versions;
mod virtual_disks;
mod virtual_function;

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use crate::log::Log;
use crate::machine::Machine;
use crate::spec::{Offer, Spec};
use crate::{bochs as emulator, paths};
use variants::Variant;

/// One case.
pub struct Case {
    /// What `./x test e2e NAME` calls it.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    run: fn(&mut Bed) -> Result<()>,
}

/// All of them, in the order they are run: those that change the shared machine last.
pub const ALL: &[Case] = &[
    Case { name: "boot", about: "a direct boot brings Linux with its NVMe disk to user space", run: boot::run },
    Case { name: "io", about: "the guest's disk I/O is right, its clock goes forward", run: io::run },
    Case { name: "api", about: "what the API says agrees with QEMU", run: api::run },
    Case { name: "refused", about: "wrong images are refused with the reason, no guest pauses", run: refused::run },
    Case {
        name: "busy",
        about: "a second upgrade while one is under way is refused, a dry run changes nothing",
        run: busy::run,
    },
    Case { name: "upgrade", about: "three upgrades in a row under I/O, watched from outside", run: upgrade::run },
    Case {
        name: "signatures",
        about: "images that nobody vouches for are refused, before and after an upgrade",
        run: signatures::run,
    },
    Case {
        name: "foreign-mapping",
        about: "a mapping of what is not preserved, found in the live tables, is refused at PLAN by name",
        run: foreign::run,
    },
    Case { name: "faults", about: "every planted fault ends as stated, on 2 and on 4 CPUs", run: faults::run },
    Case {
        name: "triple-fault",
        about: "a triple fault in the sandbox ends the upgrade and nothing else",
        run: running_faults::triple,
    },
    Case {
        name: "rollback-fault",
        about: "a fault in the rollback itself stops Baton, which says so and leaves the records whole",
        run: running_faults::rollback,
    },
    Case {
        name: "untouched",
        about: "before COMMIT the new image writes to its slot and its scratch, and to no other byte of memory",
        run: untouched::run,
    },
    Case {
        name: "versions",
        about: "upgrades and downgrades between releases under I/O; what a release can't carry is refused by name",
        run: versions::run,
    },
    Case {
        name: "plans",
        about: "a thousand dry runs and cancels leave everything as it was, to the frame",
        run: plans::run,
    },
    Case {
        name: "cancel",
        about: "upgrades are cancelled while their image gets ready in the sandbox, and everything is as before",
        run: cancel::run,
    },
    Case {
        name: "stop",
        about: "a guest that is not preserved is stopped last, its devices blocked, while another's I/O goes on",
        run: stop::run,
    },
    Case {
        name: "interrupts",
        about: "a disk's interrupts at a steady rate through 100 upgrades: each arrives, once",
        run: interrupts::run,
    },
    Case {
        name: "smp",
        about: "messages between virtual CPUs on pCPUs of their own, through upgrades: each arrives, once",
        run: smp::run,
    },
    Case {
        name: "soak",
        about: "30 upgrades with cancels, faults, dry runs and refusals between them, under disk and network traffic",
        run: soak::run,
    },
    Case { name: "ipxe", about: "a network boot by the NIC's ROM and TFTP, and an upgrade", run: ipxe::run },
    Case { name: "bad-input", about: "each wrong input costs one clear line on the console", run: bad_input::run },
    Case {
        name: "attack-dma",
        about: "a disk told to reach Baton, its neighbour, the tables and registers is blocked, each time with its line",
        run: |bed| attack::dma::run(bed, Offer::Legacy),
    },
    Case {
        name: "attack-interrupts",
        about: "interrupt messages through entries of nobody's are blocked and told",
        run: attack::interrupts::window,
    },
    Case {
        name: "attack-forged",
        about: "a device's interrupt through its neighbour's entry is blocked and told",
        run: attack::interrupts::forged,
    },
    Case {
        name: "attack-bars",
        about: "a BAR over RAM, APICs and configuration space is nowhere; the machine's BARs stay",
        run: |bed| attack::config::bars(bed, Offer::Legacy),
    },
    Case {
        name: "attack-config",
        about: "writes to every byte of a function's configuration space stay in the guest",
        run: |bed| attack::config::every_byte(bed, Offer::Legacy),
    },
    Case {
        name: "attack-toggle",
        about: "bus mastering toggled all through an upgrade disturbs nobody",
        run: |bed| attack::toggle::run(bed, Offer::Legacy),
    },
    Case {
        name: "attack-storm",
        about: "a device that does nothing but fault is cut off, through an upgrade too",
        run: attack::storm::run,
    },
    Case {
        name: "attack-leave",
        about: "a guest that ends with DMA under way leaves nothing behind",
        run: attack::leave::run,
    },
    Case {
        name: "attack-edu",
        about: "a DMA engine without a driver reaches nothing but its guest",
        run: attack::edu::dma,
    },
    Case {
        name: "attack-edu-bridged",
        about: "the engine behind a bridge to PCI reaches its guest under the bridge's name, and nothing else",
        run: attack::edu::bridged,
    },
    Case {
        name: "attack-edu-leave",
        about: "a transfer that comes after its guest has ended reaches nothing",
        run: attack::edu::leave,
    },
    Case {
        name: "attack-dma-virtual",
        about: "the same by a virtual function of an NVMe controller, against its neighbour on that controller",
        run: attack::dma::virtual_function,
    },
    Case {
        name: "attack-dma-scalable",
        about: "the same where the unit offers scalable mode",
        run: |bed| attack::dma::run(bed, Offer::Scalable),
    },
    Case {
        name: "attack-bars-scalable",
        about: "a BAR over what is taken is nowhere, where the unit offers scalable mode",
        run: |bed| attack::config::bars(bed, Offer::Scalable),
    },
    Case {
        name: "attack-config-scalable",
        about: "writes to every byte of configuration space stay in the guest, likewise",
        run: |bed| attack::config::every_byte(bed, Offer::Scalable),
    },
    Case {
        name: "attack-toggle-scalable",
        about: "bus mastering toggled all through an upgrade, likewise",
        run: |bed| attack::toggle::run(bed, Offer::Scalable),
    },
    Case {
        name: "attack-dma-first",
        about: "the same where the unit offers first-stage tables",
        run: |bed| attack::dma::run(bed, Offer::FirstStage),
    },
    Case {
        name: "iommu-scalable",
        about: "upgrades under I/O where the unit offers scalable mode",
        run: |bed| variants::run(bed, Variant::Scalable),
    },
    Case {
        name: "iommu-first-stage",
        about: "upgrades under I/O where the unit offers first-stage tables",
        run: |bed| variants::run(bed, Variant::FirstStage),
    },
    Case {
        name: "iommu-caching",
        about: "upgrades under I/O where the unit caches what is not present",
        run: |bed| variants::run(bed, Variant::Caching),
    },
    Case {
        name: "iommu-39-bits",
        about: "upgrades under I/O where I/O addresses have 39 bits",
        run: |bed| variants::run(bed, Variant::Bits39),
    },
    Case {
        name: "iommu-no-device-tlb",
        about: "upgrades under I/O where the unit knows no TLBs of devices",
        run: |bed| variants::run(bed, Variant::NoDeviceTlb),
    },
    Case {
        name: "iommu-no-eim",
        about: "upgrades under I/O where interrupt destinations have 8 bits",
        run: |bed| variants::run(bed, Variant::NoExtendedInterrupts),
    },
    Case {
        name: "second-root",
        about: "upgrades under I/O with the disk below a second root complex",
        run: |bed| variants::run(bed, Variant::SecondRoot),
    },
    Case {
        name: "switch",
        about: "upgrades under I/O with the disk behind a switch",
        run: |bed| variants::run(bed, Variant::Switch),
    },
    Case {
        name: "switch-group",
        about: "disks behind a switch that can't keep them apart go to one guest or are refused by name",
        run: switch::run,
    },
    Case {
        name: "virtio",
        about: "upgrades under I/O with a virtio disk behind the IOMMU",
        run: |bed| variants::run(bed, Variant::Virtio),
    },
    Case {
        name: "virtio-ats",
        about: "the same with a disk that is trusted to keep translations",
        run: |bed| variants::run(bed, Variant::TrustedVirtio),
    },
    Case {
        name: "virtual-function",
        about: "upgrades with a virtual function whose physical one stays with Baton",
        run: virtual_function::run,
    },
    Case {
        name: "virtual-disks",
        about: "upgrades under I/O of two guests on virtual functions of one NVMe controller, each with its own namespace",
        run: virtual_disks::run,
    },
    Case {
        name: "multiboot",
        about: "multiboot guests, by program headers and by address fields, and an upgrade under them",
        run: loaders::multiboot,
    },
    Case {
        name: "sector",
        about: "a boot sector in real mode beside Linux from its 32-bit entry, and an upgrade under them",
        run: loaders::sector,
    },
    Case {
        name: "real-mode",
        about: "Linux from its real-mode code on, and an upgrade under its I/O",
        run: loaders::real_mode,
    },
    Case {
        name: "kernels",
        about: "Debian's kernels, the stable one, that of the backports and the newest, on two virtual CPUs: no warnings, I/O, an upgrade under it",
        run: kernels::run,
    },
    Case {
        name: "platform",
        about: "a guest checks its ACPI tables and its PCI bus, moves and resets its disk, and works on it through an upgrade",
        run: platform::run,
    },
    Case {
        name: "matrices",
        about: "whatever a guest may execute, against the manuals, and an upgrade under it",
        run: matrices::run,
    },
    Case {
        name: "matrices-bochs-svm",
        about: "device memory likewise on Bochs's SVM",
        run: |bed| matrices::bochs(bed, "matrices-bochs-svm", "ryzen", "mmio", "mmio"),
    },
    Case {
        name: "matrices-bochs-vmx",
        about: "device memory and exceptions on its VMX",
        run: |bed| matrices::bochs(bed, "matrices-bochs-vmx", "corei7_haswell_4770", "mmio traps", "traps"),
    },
    Case {
        name: "bochs-svm",
        about: "guests without devices, one of them in real mode, and two upgrades under them, on Bochs's SVM",
        run: bochs::svm,
    },
    Case { name: "bochs-vmx", about: "the same on its VMX", run: bochs::vmx },
    Case {
        name: "bochs-linux",
        about: "Debian's kernel to user space on VMX, and an upgrade under it",
        run: bochs::linux,
    },
    Case { name: "bochs-linux-svm", about: "the same on its SVM", run: bochs::linux_svm },
];

/// What cases share.
#[derive(Default)]
pub struct Bed {
    shared: Option<(String, Machine)>,
    used: Option<PathBuf>,
}

impl Bed {
    /// Runs a case. When it fails, the shared machine is not trusted any more.
    ///
    /// # Errors
    /// What the case says, with the ends of the machine's logs.
    pub fn run(&mut self, case: &Case) -> Result<()> {
        (case.run)(self).map_err(|error| {
            self.shared = None;
            let evidence = self.used.take().map_or_else(String::new, |directory| evidence(&directory));
            anyhow!("{error:#}\n{evidence}")
        })
    }

    /// The machine with a Linux guest under load, booted once.
    fn linux(&mut self) -> Result<&Machine> {
        self.shared("linux", Spec::default, |machine| machine.wait_guest("ioload t=", 120).map(drop))
    }

    /// A machine that cases share, booted by the first of them. There is one at a time: cases that share stand together.
    fn shared(
        &mut self,
        name: &str,
        spec: impl FnOnce() -> Spec,
        ready: impl FnOnce(&Machine) -> Result<()>,
    ) -> Result<&Machine> {
        if self.shared.as_ref().is_none_or(|(known, machine)| known != name || machine.healthy().is_err()) {
            self.shared = None;
            let machine = self.start(name, &spec())?;
            ready(&machine)?;
            self.shared = Some((name.into(), machine));
        }
        self.used = Some(paths::target("runs").join(name));
        Ok(&self.shared.as_ref().context("it was just started")?.1)
    }

    /// A machine for this case alone: what others shared ends, for a guest under load takes a core.
    fn start(&mut self, name: &str, spec: &Spec) -> Result<Machine> {
        self.shared = None;
        let directory = paths::target("runs").join(name);
        self.used = Some(directory.clone());
        Machine::start(spec, &directory)
    }

    /// A machine of the other emulator, for this case alone.
    fn start_bochs(&mut self, name: &str, spec: &emulator::Spec) -> Result<emulator::Machine> {
        self.shared = None;
        let directory = paths::target("runs").join(name);
        self.used = Some(directory.clone());
        emulator::Machine::start(spec, &directory)
    }
}

/// What is left of a run, for people.
fn evidence(directory: &std::path::Path) -> String {
    let mut text = String::new();
    for (name, lines) in
        [("command", 1), ("qemu.log", 10), ("bochs.log", 10), ("baton.log", 40), ("guest.log", 25), ("trace.log", 10)]
    {
        let tail = Log::new(directory.join(name)).tail(lines);
        if !tail.is_empty() {
            text += &format!("--- {name}\n{tail}\n");
        }
    }
    text
}
