//! What is plugged in, and where.

use std::fs::File;
use std::path::Path;

use anyhow::Result;

use super::text;

/// Virtual functions of [`Kind::NvmeVirtual`]: each can have two queues and two interrupts.
pub const VIRTUAL_DISKS: usize = 3;
/// Bytes of a disk.
const DISK_BYTES: u64 = 64 << 20;

/// Where a device is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A root port of its own on bus 0.
    RootPort,
    /// A root port of its own on a second root bus.
    SecondRoot,
    /// A downstream port of a switch of its own.
    Switch,
    /// Another downstream port of the switch of the device before it.
    Beside,
    /// A conventional bus, behind a bridge of its own on a root port.
    PciBridge,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An NVMe disk.
    Nvme,
    /// An NVMe disk that completes so many requests a second, however many are under way.
    SteadyNvme(u32),
    /// An NVMe controller that can have [`VIRTUAL_DISKS`] virtual functions, and as many namespaces that are attached to
    /// nobody.
    NvmeVirtual,
    /// An 82576 network card, which can have virtual functions.
    Igb,
    /// The same on a wire whose other end is [`crate::wire::Wire`], at this port of the loopback.
    Wired(u16),
    /// A virtio disk behind the IOMMU, with a TLB of its own.
    Virtio,
    /// QEMU's device for teaching: a DMA engine that goes wherever it is told.
    Edu,
}

/// A device that a guest may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// What.
    pub kind: Kind,
    /// Where.
    pub place: Place,
}

impl Device {
    /// An NVMe disk on a root port.
    pub const DISK: Self = Self { kind: Kind::Nvme, place: Place::RootPort };
}

/// The function number of the first root port that is left for the devices: bus 0, device 2.
const FIRST_PORT: usize = 2;
/// From the number of a namespace's drive to that of the next on the same controller: more than there are devices.
pub const NAMESPACE_DRIVES: usize = 100;
/// Bus number of the second root bus: far beyond what firmware gives the first.
const SECOND_ROOT: u8 = 0x40;

/// The options of all devices, in order: the first gets the port named rp3.
pub(super) fn arguments(devices: &[Device], directory: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    if devices.iter().any(|device| device.place == Place::SecondRoot) {
        lines.push(format!("-device pxb-pcie,id=root2,bus=pcie.0,bus_nr={SECOND_ROOT}"));
    }
    let mut switch = String::new();
    for (index, device) in devices.iter().enumerate() {
        let slot = index + FIRST_PORT + 1;
        let port = format!("-device pcie-root-port,id=rp{slot},chassis={slot},slot={slot}");
        match device.place {
            Place::RootPort | Place::Switch | Place::PciBridge => {
                lines.push(format!("{port},addr=0x2.{:x}", FIRST_PORT + index))
            }
            Place::SecondRoot => lines.push(format!("{port},bus=root2")),
            Place::Beside => {}
        }
        if device.place == Place::Switch {
            switch = format!("up{slot}");
            lines.push(format!("-device x3130-upstream,id={switch},bus=rp{slot}"));
        }
        let bus = match device.place {
            Place::RootPort | Place::SecondRoot => format!("rp{slot}"),
            Place::Switch | Place::Beside => {
                let (bus, slot) = (format!("down{slot}"), slot + 16);
                lines.push(format!(
                    "-device xio3130-downstream,id={bus},bus={switch},addr={index:#x},chassis={slot},slot={slot}"
                ));
                bus
            }
            Place::PciBridge => {
                lines.push(format!("-device pcie-pci-bridge,id=pci{slot},bus=rp{slot}"));
                format!("pci{slot},addr=0x1")
            }
        };
        match device.kind {
            Kind::Nvme | Kind::SteadyNvme(_) => {
                let steady = match device.kind {
                    Kind::SteadyNvme(rate) => format!(",throttling.iops-total={rate}"),
                    _ => String::new(),
                };
                lines.push(drive(index, directory)? + &steady);
                lines.push(format!(
                    "-device nvme,id=nv{index},serial=pt{index},bus={bus},max_ioqpairs=6,msix_qsize=6 \
                     -device nvme-ns,drive=d{index},bus=nv{index}"
                ));
            }
            Kind::NvmeVirtual => {
                let (queues, more) = (2 * VIRTUAL_DISKS, 2 * VIRTUAL_DISKS + 2);
                let flexible =
                    format!("sriov_max_vfs={VIRTUAL_DISKS},sriov_vq_flexible={queues},sriov_vi_flexible={queues}");
                lines.push(format!(
                    "-device nvme-subsys,id=ss{index} -device nvme,id=nv{index},subsys=ss{index},serial=pt{index},bus={bus},\
                     max_ioqpairs={more},msix_qsize={more},{flexible}"
                ));
                for namespace in 0..VIRTUAL_DISKS {
                    let drive_index = index + namespace * NAMESPACE_DRIVES;
                    lines.push(drive(drive_index, directory)?);
                    let nsid = namespace + 1;
                    lines.push(format!(
                        "-device nvme-ns,drive=d{drive_index},bus=nv{index},nsid={nsid},shared=off,detached=on"
                    ));
                }
            }
            Kind::Igb => {
                lines.push(format!(
                    "-netdev hubport,hubid={index},id=net{index} -device igb,netdev=net{index},bus={bus}"
                ));
            }
            Kind::Wired(port) => {
                let own = "local.type=inet,local.host=127.0.0.1,local.port=0";
                let other = format!("remote.type=inet,remote.host=127.0.0.1,remote.port={port}");
                lines
                    .push(format!("-netdev dgram,id=net{index},{own},{other} -device igb,netdev=net{index},bus={bus}"));
            }
            Kind::Virtio => {
                lines.push(drive(index, directory)?);
                let options = "iommu_platform=on,disable-legacy=on,ats=on";
                lines.push(format!("-device virtio-blk-pci,drive=d{index},bus={bus},{options}"));
            }
            Kind::Edu => lines.push(format!("-device edu,id=edu{index},bus={bus},dma_mask=0xffffffffffffffff")),
        }
    }
    Ok(lines)
}

/// The file behind a disk.
fn drive(index: usize, directory: &Path) -> Result<String> {
    // The first has no number: it is the disk of every case that has one.
    let name = if index == 0 { "disk.img".into() } else { format!("disk{index}.img") };
    let disk = directory.join(name);
    File::create(&disk)?.set_len(DISK_BYTES)?;
    Ok(format!("-drive if=none,id=d{index},file={},format=raw,cache=unsafe", text(&disk)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_get_ports_of_their_own_but_beside_another() {
        let edu = |place| Device { kind: Kind::Edu, place };
        let devices = [edu(Place::RootPort), edu(Place::Switch), edu(Place::Beside), edu(Place::SecondRoot)];
        let lines = arguments(&devices, Path::new("/nowhere")).expect("no files are needed");
        let having = |word: &str| lines.iter().filter(|line| line.contains(word)).count();
        assert_eq!((having("pcie-root-port"), having("x3130-upstream"), having("xio3130-downstream")), (3, 1, 2));
        assert!(lines.iter().any(|line| line.contains("pcie-root-port,id=rp3") && line.ends_with("addr=0x2.2")));
        assert!(lines.iter().any(|line| line.contains("id=down5") && line.contains("bus=up4")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("pcie-root-port,id=rp6") && line.ends_with("bus=root2")));
        assert_eq!(lines.first().map(|line| line.contains("pxb-pcie")), Some(true), "before what is plugged into it");
    }
}
