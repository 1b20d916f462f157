//! What the API says, against what QEMU says.

use anyhow::{Context, Result, bail, ensure};
use batonctl::client::Error;

use super::Bed;
use crate::outside::{Registers, UNIT};

fn number(text: &str) -> Result<u64> {
    u64::from_str_radix(text.trim_start_matches("0x"), 16).with_context(|| format!("{text} is no hexadecimal number"))
}

pub fn run(bed: &mut Bed) -> Result<()> {
    let machine = bed.linux()?;
    let api = machine.wait_api(30)?;
    let registers = Registers::read(machine.qmp()?)?;

    let status = api.status()?;
    let memory = status.memory;
    ensure!(status.build_id.len() == 64 && status.tsc_khz > 0, "{status:?}");
    ensure!(memory.guest_bytes == 512 << 20, "the guest's memory: {memory:?}");
    ensure!(
        memory.hypervisor_bytes + memory.guest_bytes + memory.free_bytes <= memory.total_bytes,
        "more than there is: {memory:?}"
    );
    ensure!(memory.total_bytes <= 1024 << 20, "more than the machine has: {memory:?}");

    let guests = api.guests()?.guests;
    let [guest] = guests.as_slice() else { bail!("one guest is configured, there are {}", guests.len()) };
    ensure!(guest.name == "debian" && guest.state == "running" && guest.memory_mib == 512, "{guest:?}");
    let [vcpu] = guest.vcpus.as_slice() else { bail!("one vCPU is configured: {guest:?}") };
    ensure!(vcpu.pcpu == 1 && vcpu.exits.values().sum::<u64>() > 0, "{vcpu:?}");
    let [device] = guest.devices.as_slice() else { bail!("one device is configured: {guest:?}") };

    let iommu = api.iommu()?;
    let [unit] = iommu.units.as_slice() else { bail!("QEMU has one unit, there are {}", iommu.units.len()) };
    ensure!(number(&unit.base)? == UNIT && unit.translation_enabled && unit.interrupt_remapping_enabled, "{unit:?}");
    ensure!(number(&unit.status)? == u64::from(registers.status), "{unit:?} but {registers:x?}");
    ensure!(number(&unit.root_table)? == registers.root_table, "{unit:?} but {registers:x?}");
    ensure!(number(&unit.interrupt_table)? == registers.interrupt_table, "{unit:?} but {registers:x?}");
    let ours = iommu.devices.iter().find(|entry| entry.bdf == *device).context("the guest's device is in no domain")?;
    ensure!(ours.owner == "debian", "{ours:?}");
    let domain = iommu.domains.iter().find(|domain| domain.token == ours.domain).context("no such domain")?;
    ensure!(domain.did == ours.did && domain.did != 0, "{domain:?} {ours:?}");
    let others = iommu.devices.iter().filter(|entry| entry.bdf != *device);
    ensure!(
        others.clone().all(|entry| entry.owner == "baton" && entry.domain != ours.domain),
        "only the management NIC besides: {:?}",
        iommu.devices
    );

    match api.get::<serde_json::Value>("/v1/nothing") {
        Err(Error::Refused(refusal)) => {
            ensure!(refusal.code == "not_found" && refusal.blame == "operator", "{refusal:?}")
        }
        other => bail!("a path that isn't there gives {other:?}"),
    }
    Ok(())
}
